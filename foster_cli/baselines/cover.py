"""Greedy facility location, shared by GORACS (stage 1) and NaCS: rows whose nearest ones cover all columns cheaply.

F(S) = sum_j min_{i in S} c(i, j) falls as a submodular function would rise (c0 - c is facility location), so that
greedy choice keeps at least 1 - 1/e of the best possible gain (Nemhauser et al. 1978).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def euclidean(X: Tensor, Y: Tensor) -> Tensor:
    """(C, G): |x_i - y_j|, in blocks of rows."""
    mode = "donot_use_mm_for_euclid_dist" if len(X) * len(Y) < 1 << 20 else "use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, Y, compute_mode=mode) for part in X.split(2048)])


def greedy_cover(cost: Tensor, M: int) -> npt.NDArray[np.int64]:
    """Indices (M,) of rows of `cost` (C, G): each next row lowers sum_j min_{i in S} c(i, j) most.

    The first one is the row of smallest mean. Where nothing lowers it any more, the first row left is taken.
    """
    nearest = torch.full_like(cost[0], torch.inf)
    chosen: list[int] = []
    for _ in range(M):
        total = torch.cat([torch.minimum(part, nearest).sum(1, dtype=torch.float64) for part in cost.split(2048)])
        total[chosen] = torch.inf
        chosen.append(int(total.argmin()))
        nearest = torch.minimum(nearest, cost[chosen[-1]])
    return np.array(chosen)
