"""Ranking metrics of each case: R@k, N@k and MRR.

In: ranks of any shape, 1 is best. Out: the values of each metric, in the same shape.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


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
