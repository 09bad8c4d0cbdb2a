"""Choosing a model's settings on validation cases, and the training interactions that all these models count.

The choice reads at most `SAMPLE` validation cases, always the same ones. What is best has the highest R@10 + N@10; of
equal settings the first is taken. The figures that are reported afterwards are those of all validation cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.data.windows import Cases
from foster_cli.errors import FosterError
from foster_cli.neighbours.base import Scorer
from foster_cli.ranking.metrics import at_ten
from foster_cli.ranking.sample import SAMPLE, sample

Int = npt.NDArray[np.int64]
S = TypeVar("S")
M = TypeVar("M", bound=Scorer)

#: Decays of the weights in a history that are tried.
DECAYS = (0.5, 0.7, 0.85)


class Training(NamedTuple):
    """The training interactions, sorted by user, then time: `user`, `item`, `time` (N,); n items."""

    user: Int
    item: Int
    time: Int
    n: int


def training(data: Dataset) -> Training:
    """The training split of `data`. Raises FosterError if it is empty."""
    rows, n = data.interactions, len(data.catalogue)
    keep = rows.split == SPLITS.index("train")
    if not keep.any():
        raise FosterError(
            "no training interactions", "check the split column, or leave it out with --split-column none"
        )
    return Training(rows.user[keep], rows.item[keep], rows.time[keep], n)


@dataclass(frozen=True)
class Chosen(Generic[S, M]):
    """A model with its chosen settings, and R@10 and N@10 over all validation cases. `text` says all of it in one
    line."""

    model: M
    settings: S
    recall: float
    ndcg: float
    text: str


def some(cases: Cases, count: int = SAMPLE) -> Cases:
    """`count` of the cases, drawn uniformly and always the same ones, in their order; all of them if there are less."""
    return sample(cases, "neighbours", "validation", most=count)


def quality(model: Scorer, cases: Cases) -> tuple[float, float]:
    """R@10 and N@10 over the cases."""
    found = at_ten(model.ranks(cases))
    return found["R@10"], found["N@10"]


def best_of(candidates: Iterable[tuple[S, M]], cases: Cases) -> tuple[S, M]:
    """The settings and the model with the highest R@10 + N@10. `candidates` are made one at a time, if they come from
    a generator, and only the best one is kept. Raises ValueError if there are none."""
    best: tuple[S, M] | None = None
    most = -1.0
    for settings, model in candidates:
        value = sum(quality(model, cases))
        if value > most:
            best, most = (settings, model), value
    if best is None:
        raise ValueError("no candidates")
    return best


def reported(settings: S, model: M, what: str, cases: Cases) -> Chosen[S, M]:
    """The chosen model, measured on all validation cases. `what` says what was chosen."""
    r, n = quality(model, cases)
    return Chosen(model, settings, r, n, f"{what}: validation R@10 {r:.4f}, N@10 {n:.4f}")
