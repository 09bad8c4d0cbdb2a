"""GORACS (Mei et al. 2025, KDD; code Mithas-114/GORACS): the M windows closest to validation by optimal transport.

Minimises OT(mu_S, nu_valid) over |S| = M, uniform weights. The cost c(i, j) = |x_i - y_j| / max - lambda g_i / max g is
min-max scaled. x and y are the surrogate's last-step outputs of windows and validation cases, g the gradient norms over
all trainable weights. Stage 1 is greedy (`cover.py`). Stage 2 (ITRA) swaps one row at a time. The duals x* of the
current S and v_j = min_{s in S} (c_sj - x*_s) are a feasible dual pair, so for row i with dual y

    OT >= mean_j min(f_ij, c_ij - y) + (y + sum of the other x*) / M,   f_ij = min_{s in S, s != i} (c_sj - x*_s),

and F_i = mean_j min(c_ij - f_ij - y, 0) + y / M is the contribution of row i: small F is good. The bound is tightest
(largest) at y = the R-th smallest of c_i - f_i, R = ceil(n_valid / M); `order="smallest"` uses this. The default is the
R-th largest, as in the authors' code and BASELINES.md. Either only ranks the rows: a swap is accepted if it lowers the
exact value.

Memory: c (candidates, cases) is float32, by default at most 16,384 x 2,048, which is 128 MiB; three such matrices exist
at once. Larger sets are subsampled at random, with a note.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import ot
import torch
from torch import Tensor

from foster_cli.baselines.cover import euclidean, greedy_cover
from foster_cli.baselines.gradients import gradient_norms
from foster_cli.baselines.surrogate import Surrogate, common_negatives, subsample
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Int
from foster_cli.errors import FosterError

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GORACSConfig:
    """Settings of GORACS; the authors' values where they state one."""

    gradient: float = 0.1
    """lambda, weight of the gradient norms (the authors' 0.1 for sequences)."""
    exchanges: int = 100
    """Maximum number of swaps."""
    tried: int = 30
    """How many rows of S, and how many outside it, are tried for a swap."""
    order: str = "largest"
    """Which c - f the estimate takes as the dual: R-th `largest` (the authors' code) or `smallest` (the best bound)."""
    candidates: int = 16384
    """Maximum number of training windows considered."""
    cases: int = 2048
    """Maximum number of validation cases considered."""


def transport(cost: Tensor) -> tuple[float, Float]:
    """Exact OT value of `cost` (M, n) between uniform weights, and the duals (M,) of its rows."""
    c = np.ascontiguousarray(cost.double().numpy())
    value, log = ot.emd2(np.full(len(c), 1 / len(c)), np.full(c.shape[1], 1 / c.shape[1]), c, 1_000_000, log=True)
    if log["warning"] is not None:
        raise FosterError(f"optimal transport did not finish: {log['warning']}", "use fewer validation cases")
    return float(value), np.asarray(log["u"])


def cost_matrix(X: Tensor, Y: Tensor, g: Tensor, weight: float) -> Tensor:
    """c (C, n) of rows X (C, d), columns Y (n, d) and gradient norms g (C,), scaled to 0…1."""
    c = euclidean(X, Y)
    c /= c.max().clamp_min(1e-30)
    c -= weight * (g / g.max().clamp_min(1e-30))[:, None]
    c -= c.min().clone()
    c /= c.max().clamp_min(1e-30)
    return c


def estimates(cost: Tensor, S: Int, duals: Float, order: str) -> Tensor:
    """F (C,): the estimated contribution of each row of `cost` (C, n) to the OT value of S (M,); small is good."""
    M, n = len(S), cost.shape[1]
    R = math.ceil(n / M)
    reduced = cost[S] - torch.from_numpy(duals).to(cost)[:, None]  # (M, n)
    if M == 1:
        lowest, second = reduced, torch.full_like(reduced, float(cost.max() - cost.min() + reduced.max()))
    else:
        lowest, second = (x[None] for x in reduced.topk(2, dim=0, largest=False).values)
    owner = reduced.argmin(0)
    place = {int(i): m for m, i in enumerate(S)}
    out = []
    for begin in range(0, len(cost), 2048):
        part = cost[begin : begin + 2048]
        gain = part - lowest
        for i in [i for i in place if begin <= i < begin + len(part)]:
            gain[i - begin] = part[i - begin] - torch.where(owner == place[i], second[0], lowest[0])
        y = gain.kthvalue(n - R + 1 if order == "largest" else R, dim=1).values
        out.append((gain - y[:, None]).clamp_max(0).mean(1) + y / M)
    return torch.cat(out)


def exchange(cost: Tensor, S: Int, config: GORACSConfig, console: Console = SILENT) -> tuple[Int, list[float]]:
    """ITRA from S: the final rows, and the exact OT value at the start and after every swap (decreasing)."""
    S = S.copy()
    value, duals = transport(cost[S])
    values = [value]
    with console.progress("exchanging", config.exchanges) as bar:
        while len(values) <= config.exchanges:
            F = estimates(cost, S, duals, config.order).numpy()
            outside = np.setdiff1d(np.arange(len(cost)), S)
            best = outside[np.argsort(F[outside], kind="stable")[: config.tried]]
            worst = np.argsort(-F[S], kind="stable")[: config.tried]
            for m, i in product(worst, best):
                other = S.copy()
                other[m] = i
                found, new = transport(cost[other])
                if found < value - 1e-9:
                    S, value, duals = other, found, new
                    break
            else:
                break
            values.append(value)
            bar.at(len(values) - 1, f"OT {value:.5f}")
    return S, values


def select(
    surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT,
    config: GORACSConfig = GORACSConfig(),
) -> Int:  # fmt: skip
    """Indices (M,) of training windows."""
    rows = subsample(len(surrogate.windows), max(M, config.candidates), rng, console, "GORACS, training windows")
    columns = subsample(len(surrogate.valid), config.cases, rng, console, "GORACS, validation cases")
    negatives = common_negatives(surrogate.model, surrogate.train, rng)
    some = surrogate.windows.take(rows)
    _, g = gradient_norms(surrogate.model, some, negatives, surrogate.train.loss, console)
    X, Y = surrogate.outputs(rows), surrogate.valid_outputs(columns)
    cost = cost_matrix(X, Y, torch.from_numpy(g).to(X), config.gradient)
    S, values = exchange(cost, greedy_cover(cost, M), config, console)
    console.note(
        f"optimal transport to validation: {values[0]:.5f} greedy, {values[-1]:.5f} by {len(values) - 1} swaps"
    )
    return np.asarray(rows[S])
