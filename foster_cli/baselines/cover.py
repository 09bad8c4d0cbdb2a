"""Greedy facility location, used by GORACS (stage 1) and NaCS: selects rows that cover all columns at a low cost.

It minimises F(S) = sum_j min_{i in S} c(i, j). With a similarity c0 - c this is facility location, which is submodular:
greedy selection reaches at least 1 - 1/e of the best possible gain (Nemhauser et al. 1978).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def euclidean(X: Tensor, Y: Tensor) -> Tensor:
    """Distances |x_i - y_j| (C, G), computed in blocks of rows."""
    mode = "donot_use_mm_for_euclid_dist" if len(X) * len(Y) < 1 << 20 else "use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, Y, compute_mode=mode) for part in X.split(2048)])


def greedy_cover(cost: Tensor, M: int) -> npt.NDArray[np.int64]:
    """Indices (M,) of rows of `cost` (C, G): each new row lowers sum_j min_{i in S} c(i, j) the most.

    The first row has the smallest mean. If no row lowers the sum any further, the first remaining one is taken.
    """
    nearest = torch.full_like(cost[0], torch.inf)
    chosen: list[int] = []
    for _ in range(M):
        total = torch.cat([torch.minimum(part, nearest).sum(1, dtype=torch.float64) for part in cost.split(2048)])
        total[chosen] = torch.inf
        chosen.append(int(total.argmin()))
        nearest = torch.minimum(nearest, cost[chosen[-1]])
    return np.array(chosen)
