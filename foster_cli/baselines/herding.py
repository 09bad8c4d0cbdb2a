"""Herding (Welling 2009) on the surrogate's last-step outputs: samples whose running mean follows the mean of all.

w_0 = mu, the mean of all x; x_t = argmax <w_{t-1}, x> among those not yet chosen; w_t = w_{t-1} + mu - x_t.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from foster_cli.baselines.surrogate import Surrogate
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Int


def herd(X: Tensor, M: int) -> Int:
    """Indices (M,) of distinct rows of X (W, d); the first of equal scores."""
    mean = X.mean(0)
    w = mean.clone()
    chosen: list[int] = []
    for _ in range(M):
        score = X @ w
        score[chosen] = -float("inf")
        chosen.append(int(score.argmax()))
        w += mean - X[chosen[-1]]
    return np.array(chosen)


def select(surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT) -> Int:
    """Indices (M,) of training windows. The selection is deterministic: `rng` is not used."""
    X = surrogate.outputs()
    chosen = herd(X, M)
    gap = float((X[chosen].mean(0) - X.mean(0)).norm())
    console.note(f"the mean of the chosen windows lies {gap:.3f} from the mean of all")
    return chosen
