"""Neighbours by co-occurrence and by texts together (the row "kNN + TF-IDF"): scores of each, divided by their maximum
for the case, are added, the texts' with a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.neighbours import item_knn, tfidf
from foster_cli.neighbours.base import Float, Int, Neighbours, Scorer
from foster_cli.neighbours.choice import Chosen, best_of, reported, some
from foster_cli.neighbours.item_knn import ItemKnn
from foster_cli.neighbours.tfidf import Tfidf

#: Weights of the texts that `choose` tries.
WEIGHTS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Mixed(Scorer):
    """`first` + `weight` · `second`, each with scores of at most 1. Each has its own decay. Not linear in a history,
    because of the maximum."""

    first: Neighbours
    second: Neighbours
    weight: float

    @property
    def items(self) -> int:
        """n."""
        return self.first.items

    @property
    def width(self) -> int:
        """The wider of both."""
        return max(self.first.width, self.second.width)

    def scores(self, cases: Cases, part: Int) -> Float:
        """Scores (B, n) after the histories of the cases at `part` (B,)."""
        return self._sum(self.first.scores(cases, part), self.second.scores(cases, part))

    def soft_scores(self, P: Any) -> Float:
        """Scores (B, n) after soft histories (B, l, n), or after bags (B, n), which both take as they are."""
        return self._sum(self.first.soft_scores(P), self.second.soft_scores(P))

    def _sum(self, first: Float, second: Float) -> Float:
        second = at_most_one(second)
        second *= np.float32(self.weight)
        second += at_most_one(first)
        return second


def at_most_one(scores: Float) -> Float:
    """Each row of `scores` (B, n) divided by its maximum, in place; rows without a positive score stay as they are."""
    top = scores.max(1, keepdims=True)
    scores /= np.where(top > 0, top, np.float32(1))
    return scores


@dataclass(frozen=True)
class MixedSettings:
    """Settings of both and the `weight` of the texts."""

    knn: ItemKnn = field(default_factory=ItemKnn)
    texts: Tfidf = field(default_factory=Tfidf)
    weight: float = 1.0


def fit(data: Dataset, settings: MixedSettings | None = None) -> Mixed:
    """Both of `data`. Raises FosterError if there is no training interaction, or no text with a word."""
    settings = settings or MixedSettings()
    return Mixed(item_knn.fit(data, settings.knn), tfidf.fit(data, settings.texts), settings.weight)


def choose(
    data: Dataset, valid: Cases,
    knn: Chosen[ItemKnn, Neighbours] | None = None, texts: Chosen[Tfidf, Neighbours] | None = None,
) -> Chosen[MixedSettings, Mixed]:  # fmt: skip
    """Each of both as it is best alone (or as given, if it is already chosen), then the best weight on the validation
    cases. Raises FosterError as `fit`."""
    knn = knn or item_knn.choose(data, valid)
    texts = texts or tfidf.choose(data, valid)
    base = MixedSettings(knn.settings, texts.settings)
    mixes = ((replace(base, weight=w), Mixed(knn.model, texts.model, w)) for w in WEIGHTS)
    settings, model = best_of(mixes, some(valid))
    parts = " + ".join(chosen.text.split(":")[0] for chosen in (knn, texts))
    return reported(settings, model, f"texts weigh {settings.weight:g} ({parts})", valid)
