"""Lexical vectors against TF-IDF written out by hand: what they keep of it, and texts without words."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from foster_cli.models.lexical import lexical_vectors

TEXTS = [
    "red iron lamp", "Red lamp red LAMP", "blue glass chair", "small blue chair", "", "unheard",
    "red lamp and a blue chair", "iron knife", "glass knife, small",
]  # fmt: skip


def _tfidf(texts: list[str]) -> np.ndarray:
    """(n, words): words and pairs of them that two texts have: (1 + log count) (1 + log (1+n)/(1+df))."""
    bags = []
    for text in texts:
        words = [w for w in text.lower().replace(",", " ").split() if len(w) > 1]
        bags.append(Counter([*words, *pairwise(words)]))
    df = Counter(w for bag in bags for w in bag)
    known = [w for w in df if df[w] >= 2]
    rows = []
    for bag in bags:
        row = [(1 + math.log(bag[w])) * (1 + math.log((1 + len(texts)) / (1 + df[w]))) if bag[w] else 0 for w in known]
        length = math.sqrt(sum(x * x for x in row))
        rows.append([x / length if length else 0.0 for x in row])
    return np.array(rows)


def test_products_of_vectors_are_those_of_the_nearest_matrix_of_their_rank() -> None:
    """X of rank f by its singular value decomposition, with rows of length 1."""
    X = _tfidf(TEXTS)
    u, s, _ = np.linalg.svd(X, full_matrices=False)
    for f in (2, 4, 6):
        found = lexical_vectors(TEXTS, f)
        assert found is not None and found.shape == (9, f)
        expected = u[:, :f] * s[:f]
        length = np.linalg.norm(expected, axis=1, keepdims=True)
        expected = np.divide(expected, length, out=np.zeros_like(expected), where=length > 1e-9)
        np.testing.assert_allclose(found.numpy() @ found.numpy().T, expected @ expected.T, atol=2e-5)


def test_texts_with_the_same_words_have_the_same_vector_and_those_without_a_shared_word_none() -> None:
    found = lexical_vectors([*TEXTS, "lamp IRON red", "chair, blue glass"], 256)
    assert found is not None and found.dtype.is_floating_point
    length = found.norm(dim=1).numpy()
    assert length[[4, 5]].tolist() == [0.0, 0.0]  # no word, and a word that no other text has
    np.testing.assert_allclose(np.delete(length, [4, 5]), 1.0, atol=1e-6)
    near = found @ found.T
    assert near[0, 9] > 0.6 > 0.3 > near[0, 10] and near[2, 10] > 0.6


@pytest.mark.parametrize(("dimensions", "width"), [(1, 1), (3, 3), (256, 8)])
def test_no_more_dimensions_than_texts_and_words_allow(dimensions: int, width: int) -> None:
    found = lexical_vectors(TEXTS, dimensions)
    assert found is not None and found.shape == (9, width)
    assert width <= _tfidf(TEXTS).shape[1] - 1
    again = lexical_vectors(TEXTS, dimensions)
    assert again is not None and bool((found == again).all())


@pytest.mark.parametrize(
    "texts", [["", "", ""], ["red", "blue", "green"], ["a", "a b"], ["red"], ["red lamp"], ["red", "red", "blue"]]
)
def test_texts_that_share_no_two_words_have_no_vectors(texts: list[str]) -> None:
    assert lexical_vectors(texts, 8) is None
