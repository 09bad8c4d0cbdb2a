"""Metrics from ranks, their intervals and paired tests.

In: ranks (C,) or (seeds, C), 1 is best. Out: per-case values, means with 95 % percentile-bootstrap
intervals, paired differences. Cases are resampled by user, because a user's cases are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


def recall(rank: Float, k: int) -> Float:
    """R@k of each case: 1 where the target stands in the first k (one target each, so also its hit rate)."""
    return (rank <= k).astype(np.float64)


def ndcg(rank: Float, k: int) -> Float:
    """N@k of each case: 1 / log2(1 + rank) within the first k, else 0 (the ideal is 1)."""
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def reciprocal(rank: Float) -> Float:
    """1 / rank of each case; its mean is MRR."""
    return 1.0 / rank


def per_case(rank: Float, ks: tuple[int, ...]) -> dict[str, Float]:
    """All metrics of each case, by name: R@k, N@k for each k, and MRR. `rank` of any shape, kept."""
    out: dict[str, Float] = {}
    for k in ks:
        out[f"R@{k}"] = recall(rank, k)
        out[f"N@{k}"] = ndcg(rank, k)
    out["MRR"] = reciprocal(rank)
    return out


#: Counts of the bootstrap that are drawn, or multiplied, at once.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Bootstrap:
    """Resampling weights: `weights` (B, users) counts each user's draws; `user` (C,) in 0…users-1.

    A byte for each count: one of more than 255 does not happen (it would take as many draws of one user in a resample
    whose mean is one draw for each).
    """

    weights: npt.NDArray[np.uint8]
    user: Int

    @classmethod
    def of(cls, user: Int, draws: int, rng: np.random.Generator) -> Bootstrap:
        """B = `draws` resamples of the users behind the cases, with replacement."""
        _, index = np.unique(user, return_inverse=True)
        users = int(index.max()) + 1
        weights, even = np.empty((draws, users), np.uint8), np.full(users, 1.0 / users)
        for rows in _blocks(draws, users):
            weights[rows] = rng.multinomial(users, even, size=rows.stop - rows.start)
        return cls(weights, index)

    def means(self, value: Float) -> Float:
        """Mean of `value` (C,) in each resample, (B,)."""
        users = self.weights.shape[1]
        total = np.bincount(self.user, weights=value, minlength=users)
        count = np.bincount(self.user, minlength=users).astype(np.float64)
        out = np.empty(len(self.weights))
        for rows in _blocks(*self.weights.shape):
            drawn = self.weights[rows].astype(np.float64)
            out[rows] = (drawn @ total) / (drawn @ count)
        return out

    def interval(self, value: Float) -> tuple[float, float]:
        """95 % percentile interval of the mean of `value` (C,)."""
        low, high = np.percentile(self.means(value), [2.5, 97.5])
        return float(low), float(high)


def _blocks(draws: int, users: int) -> list[slice]:
    """The draws in blocks of about `BLOCK` counts."""
    size = max(1, BLOCK // users)
    return [slice(a, min(a + size, draws)) for a in range(0, draws, size)]
