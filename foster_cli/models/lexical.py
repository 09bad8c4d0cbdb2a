"""Lexical vectors of item texts: TF-IDF of words and pairs of words, reduced by a truncated SVD.

A sentence encoder reads what a text is about; rare words (a series, a brand, a year) say which items belong together.
In: n texts. Out: unit rows (n, f), f at most the given number of dimensions; deterministic on a given machine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Words in fewer texts than this relate no items to each other.
LEAST_TEXTS = 2


def lexical_vectors(texts: list[str], dimensions: int) -> Tensor | None:
    """(n, f) float32, rows of length 1 (0 for a text without a word that another text has); None if no word repeats.

    f = min(`dimensions`, n - 1, words - 1). Sublinear term frequencies; words and pairs that at least two texts have.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        X = TfidfVectorizer(sublinear_tf=True, min_df=LEAST_TEXTS, ngram_range=(1, 2)).fit_transform(texts)
    except ValueError:  # no word is left: the texts are empty, or no two share a word
        return None
    f = min(dimensions, X.shape[0] - 1, X.shape[1] - 1)
    if f < 1:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # equal texts have no variance to share
        vectors = TruncatedSVD(f, random_state=0).fit_transform(X)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.from_numpy((vectors / np.where(length > 1e-9, length, np.inf)).astype(np.float32))
