"""Recent popularity: an item's training interactions, of which one of age a counts 0.5^(a / half_life).

The age is the share of all training interactions that are later, from 0 to 1, so that times need an order only. Where
times say nothing across users, it comes down to plain popularity. Every history has the same scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.neighbours.base import Factors, Neighbours
from foster_cli.neighbours.choice import Chosen, best_of, reported, some, training

#: What `choose` tries. Infinity is plain popularity.
HALF_LIVES = (0.01, 0.03, 0.1, 0.3, math.inf)


@dataclass(frozen=True)
class Recent:
    """Settings. `half_life` is a share of all training interactions."""

    half_life: float = math.inf


def fit(data: Dataset, settings: Recent | None = None) -> Neighbours:
    """Recent popularity in `data`'s training split, as a matrix of equal rows (1 column of factors). Raises FosterError
    if the split is empty, ValueError for a half-life that is not positive."""
    settings = settings or Recent()
    if not settings.half_life > 0:
        raise ValueError(f"half_life {settings.half_life} is not positive")
    rows = training(data)
    later = len(rows.time) - np.searchsorted(np.sort(rows.time), rows.time, side="right")
    weight = 0.5 ** (later / len(rows.time) / settings.half_life)
    count = np.bincount(rows.item, weight, minlength=rows.n).astype(np.float32)[:, None]
    return Neighbours(Factors(np.ones_like(count), count), decay=1.0, last=1)


def choose(data: Dataset, valid: Cases) -> Chosen[Recent, Neighbours]:
    """The best half-life on the validation cases. Raises FosterError if the training split is empty."""
    options = (Recent(half_life) for half_life in HALF_LIVES)
    settings, model = best_of(((option, fit(data, option)) for option in options), some(valid))
    what = "plain popularity" if math.isinf(settings.half_life) else f"half-life {settings.half_life:g}"
    return reported(settings, model, what, valid)
