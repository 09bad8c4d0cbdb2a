"""Ranking metrics of each case: R@k, N@k, MRR, and R@k over cold targets or weighted by propensity.

In: ranks of any shape, 1 is best. Out: the values of each metric, in the same shape, and the cases' weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
#: The parameters of the propensities of Jain et al. (KDD 2016) for data that they were not fitted to.
A, B = 0.55, 1.5


class Metric(NamedTuple):
    """A metric: `value` (…, C) of each case and their `weight` (C,); None: all weigh the same."""

    value: Float
    weight: Float | None = None

    def means(self) -> Float:
        """(…,): the mean over the cases by their weights, of which at least one must not be 0."""
        return np.average(self.value, axis=-1, weights=self.weight)


def recall(rank: Float, k: int) -> Float:
    """R@k of each case: 1 where the target is in the first k (with one target each, this is also the hit rate)."""
    return (rank <= k).astype(np.float64)


def ndcg(rank: Float, k: int) -> Float:
    """N@k of each case: 1 / log2(1 + rank) within the first k, else 0 (the ideal is 1)."""
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def reciprocal(rank: Float) -> Float:
    """1 / rank of each case; its mean is MRR."""
    return 1.0 / rank


def per_case(rank: Float, ks: tuple[int, ...]) -> dict[str, Float]:
    """All metrics of each case, by name: R@k, N@k for each k, and MRR. Each has the shape of `rank`."""
    out: dict[str, Float] = {}
    for k in ks:
        out[f"R@{k}"] = recall(rank, k)
        out[f"N@{k}"] = ndcg(rank, k)
    out["MRR"] = reciprocal(rank)
    return out
