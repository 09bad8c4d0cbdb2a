"""K-Center: greedy farthest-point choice on the surrogate's last-step outputs (Gonzalez 1985; Sener and Savarese 2018).

The first point is drawn uniformly; each next one is the farthest from those chosen. The radius r = max_i min_{s in S}
|x_i - x_s| is at most twice the optimal r*. The M chosen points and the farthest remaining one are M+1 points at mutual
distances >= r. Two of them share an optimal centre, so r <= 2 r*.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foster_cli.baselines.surrogate import Surrogate
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Int


def distances(X: Tensor, centre: int) -> Tensor:
    """(W,): Euclidean distances of the rows of X (W, d) to row `centre`, without a copy of X in memory."""
    return torch.cat([torch.linalg.vector_norm(part - X[centre], dim=1) for part in X.split(8192)])


def farthest_points(X: Tensor, M: int, first: int) -> tuple[Int, float]:
    """Indices (M,) of distinct rows of X (W, d), the first of them `first`, and the radius of their cover."""
    chosen, nearest = [first], distances(X, first)
    while len(chosen) < M:
        nearest[chosen[-1]] = -1.0  # excluded, even if only copies of it remain
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances(X, chosen[-1]))
    nearest[chosen[-1]] = -1.0
    return np.array(chosen), max(0.0, float(nearest.max()))


def select(surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT) -> Int:
    """Indices (M,) of training windows."""
    X = surrogate.outputs()
    chosen, radius = farthest_points(X, M, int(rng.integers(len(X))))
    console.note(f"every window lies within {radius:.3f} of a chosen one")
    return chosen
