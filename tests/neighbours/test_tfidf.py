"""TF-IDF against its formula in loops; hostile texts."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from counting import cases_of, data_of, random_data

from foster_cli.data.windows import evaluation_cases
from foster_cli.errors import FosterError
from foster_cli.neighbours import tfidf
from foster_cli.neighbours.tfidf import Tfidf

TEXTS = ["red pen red pen red", "blue pen", "", "a ! ?", "Blue cup, red cup", "lamp"]


def _terms(text: str, longest: int) -> Counter[str]:
    words = [w for w in "".join(c.lower() if c.isalnum() else " " for c in text).split() if len(w) > 1]
    return Counter(words + ([" ".join(pair) for pair in itertools.pairwise(words)] if longest == 2 else []))


@pytest.mark.parametrize("longest", [1, 2])
def test_weights_are_cosines_of_tfidf(longest: int) -> None:
    terms = [_terms(text, longest) for text in TEXTS]
    n = len(TEXTS)
    within = Counter(term for counts in terms for term in counts)
    vectors = []
    for counts in terms:
        v = {t: (1 + math.log(c)) * (math.log((1 + n) / (1 + within[t])) + 1) for t, c in counts.items()}
        length = math.sqrt(sum(x * x for x in v.values())) or 1.0
        vectors.append({t: x / length for t, x in v.items()})
    expected = [[sum(x * b.get(t, 0.0) for t, x in a.items()) for b in vectors] for a in vectors]
    model = tfidf.fit(data_of([[0, 1], [1, 2]], n, texts=TEXTS), Tfidf(longest))
    assert sp.issparse(model.weights.A) and model.weights.A.shape[0] == n  # never n x n
    cases = cases_of([[i] for i in range(n)], [0] * n, None)
    np.testing.assert_allclose(model.scores(cases, np.arange(n)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("texts", [["", "", ""], ["a", "!", "- ?"], ["\x00", "\u200b", "  "]])
def test_texts_without_a_word(texts: list[str]) -> None:
    data = data_of([[0, 1, 2], [1, 2, 0]], 3, texts=texts)
    with pytest.raises(FosterError, match="no text") as caught:
        tfidf.fit(data)
    assert caught.value.hint
    with pytest.raises(FosterError, match="no text"):
        tfidf.choose(data, evaluation_cases(data, "valid", 5))


def test_stop_words_are_words() -> None:
    assert tfidf.fit(data_of([[0, 1], [1, 0]], 2, texts=["the", "the and"])).weights.width == 2


def test_equal_texts_tie() -> None:
    data = data_of([[0, 1], [1, 2]], 6, texts=["red pen", "red cup", "red cup", "red cup", "lamp", ""])
    assert tfidf.fit(data).ranks(cases_of([[0]], [2], [[0]])).tolist() == [2.0]


def test_pairs_of_words_are_chosen_where_they_help() -> None:
    """Texts of the same words: only their order says what belongs together."""
    texts = [*["red pen blue cup"] * 12, *["red cup blue pen"] * 12]
    rng = np.random.default_rng(0)
    kinds = [int(k) for k in rng.integers(0, 2, 40)]
    data = data_of([(12 * k + rng.permutation(12)[:5]).tolist() for k in kinds], 24, texts=texts)
    chosen = tfidf.choose(data, evaluation_cases(data, "valid", 5))
    assert chosen.settings.longest == 2 and "pairs" in chosen.text


def test_only_texts_are_read() -> None:
    a, b = random_data(1), random_data(2)
    assert (tfidf.fit(a).weights.A != tfidf.fit(b).weights.A).nnz == 0
