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


def at_ten(rank: Float) -> dict[str, float]:
    """The means of R@10 and N@10, by which states and settings are chosen."""
    return {"R@10": float(recall(rank, 10).mean()), "N@10": float(ndcg(rank, 10).mean())}


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


def propensity(count: Int, total: int) -> Float:
    """The chance that an interaction with an item is observed, in (0, 1]; it rises with the item's `count` of `total`.

    p = 1 / (1 + C e^(-A log(count + B))) with C = (log total - 1) (B + 1)^A (Jain et al., KDD 2016, Eq. 2). A total
    below e, for which the paper has no C above 0, gives 1.
    """
    C = max(0.0, np.log(max(1, total)) - 1.0) * (B + 1.0) ** A
    return 1.0 / (1.0 + C * np.exp(-A * np.log(count + B)))


def all_metrics(rank: Float, ks: tuple[int, ...], count: Int, total: int) -> dict[str, Metric]:
    """Every metric by name. `rank` (…, C); `count` (C,): training interactions of each case's target, of `total`.

    Besides those of `per_case`, for each k: `cold R@k`, over the cases whose target does not occur in training, and
    `PSP@k`, R@k with each case weighted by 1 / p of its target, so that a perfect ranking has 1.
    """
    cold, rare = (count == 0).astype(np.float64), 1.0 / propensity(count, total)
    out = {name: Metric(value) for name, value in per_case(rank, ks).items()}
    for k in ks:
        out[f"cold R@{k}"] = Metric(out[f"R@{k}"].value, cold)
        out[f"PSP@{k}"] = Metric(out[f"R@{k}"].value, rare)
    return out


def shown(ks: tuple[int, ...] | list[int]) -> list[str]:
    """The metrics of a table: R@k and N@k for each k; of cold R@k and PSP@k, the first k's."""
    return [*[f"{m}@{k}" for k in ks for m in ("R", "N")], f"cold R@{ks[0]}", f"PSP@{ks[0]}"]
