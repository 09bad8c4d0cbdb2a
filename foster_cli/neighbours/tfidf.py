"""Neighbours of items by their texts: the cosine of TF-IDF vectors (scikit-learn's `TfidfVectorizer`, sublinear term
counts). Items that nobody has interacted with have neighbours too. W = X Xᵀ is kept as a product: X (n, words) CSR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.errors import FosterError
from foster_cli.neighbours.base import LAST, Factors, Neighbours
from foster_cli.neighbours.choice import DECAYS, Chosen, best_of, reported, some


@dataclass(frozen=True)
class Tfidf:
    """Settings. Words, and with `longest` 2 also pairs of words that stand side by side."""

    longest: int = 1
    decay: float = 0.7
    last: int = LAST


def fit(data: Dataset, settings: Tfidf | None = None) -> Neighbours:
    """Neighbours by the texts of `data`'s catalogue; no interaction is read. Raises FosterError if no text has a
    word."""
    settings = settings or Tfidf()
    return Neighbours(vectors(data.catalogue.texts, settings.longest), settings.decay, settings.last)


def vectors(texts: list[str], longest: int) -> Factors:
    """The TF-IDF vectors X (n, words) of the texts, of length 1 or, for a text without a word, 0. Raises FosterError if
    no text has a word (two letters or digits in a row)."""
    try:
        X = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, longest), dtype=np.float32).fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise FosterError(
            "no text of an item has a word of two letters, so texts have no neighbours",
            "name columns that hold texts with --text-columns a,b, or leave this row out",
        ) from error
    X = X.tocsr()
    return Factors(X, X)


def choose(data: Dataset, valid: Cases, start: Tfidf | None = None) -> Chosen[Tfidf, Neighbours]:
    """The best decay and then words or words and pairs, on the validation cases. Raises FosterError as `fit`."""
    start = start or Tfidf()
    sample, texts = some(valid), data.catalogue.texts
    single = fit(data, replace(start, longest=1))

    def decays() -> Iterator[tuple[Tfidf, Neighbours]]:
        for decay in (*DECAYS, 1.0):
            yield replace(start, longest=1, decay=decay), replace(single, decay=decay)

    first, model = best_of(decays(), sample)

    def widths() -> Iterator[tuple[Tfidf, Neighbours]]:
        yield first, model
        yield replace(first, longest=2), replace(model, weights=vectors(texts, 2))

    settings, model = best_of(widths(), sample)
    words = "words" if settings.longest == 1 else "words and pairs of words"
    return reported(settings, model, f"{words}, decay {settings.decay:g}", valid)
