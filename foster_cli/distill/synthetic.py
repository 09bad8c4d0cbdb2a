"""D~: the synthetic set as Tucker factors, and its starting points.

U (M, d1), T (L, d2), G (d1, d2, d) learn; V (n, d), the item factor, is frozen. Q (M, L, d) is the Tucker
product; P[m, t] = softmax over a subset S of Q[m, t] V_S^T (Eq. 2, 3). Where positions have goals of their own
(`reading.py`), T and Q have 2L rows: L to read, then L to predict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.models.recommender import Recommender
from foster_cli.ops import soft_embed, tucker


class Synthetic(nn.Module):
    """U, T, G as parameters; `forward()` gives Q (M, L, d)."""

    def __init__(self, U: Tensor, T: Tensor, G: Tensor) -> None:
        super().__init__()
        self.U, self.T, self.G = nn.Parameter(U), nn.Parameter(T), nn.Parameter(G)

    def forward(self) -> Tensor:
        return tucker(self.U, self.T, self.G)

    def factors(self) -> dict[str, Tensor]:
        """U, T, G, detached copies on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.named_parameters()}

    def restore(self, factors: dict[str, Tensor]) -> None:
        """Set U, T, G (from `factors`)."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(factors[name])


@dataclass(frozen=True)
class Start:
    """A starting point. `error`: share of |Q|^2 that the ranks could not hold; `contexts` (M,) window indices;
    `name` says how it was made."""

    synthetic: Synthetic
    error: float
    contexts: list[int]
    name: str = "random"


def from_tensor(Q: Tensor, d1: int | None, d2: int | None) -> tuple[Synthetic, float]:
    """Factors of Q (M, L, d) by HOSVD in the first two modes; exact (U = I, T = I, G = Q) at full rank.

    Returns the relative squared error |Q - Q'|^2 / |Q|^2 beside them.
    """
    M, L, _ = Q.shape
    d1, d2 = d1 or M, d2 or L
    if d1 == M and d2 == L:
        return Synthetic(torch.eye(M).to(Q), torch.eye(L).to(Q), Q.clone()), 0.0
    if d1 > M or d2 > L:
        raise FosterError(f"ranks {d1} x {d2} exceed {M} sequences x {L} positions", f"use at most {M} and {L}")
    wide = Q.double()
    U = torch.eye(M).to(wide) if d1 == M else torch.linalg.svd(wide.reshape(M, -1), full_matrices=False)[0][:, :d1]
    by_time = wide.permute(1, 0, 2).reshape(L, -1)
    T = torch.eye(L).to(wide) if d2 == L else torch.linalg.svd(by_time, full_matrices=False)[0][:, :d2]
    G = torch.einsum("ma,tb,mtd->abd", U, T, wide)
    error = float((tucker(U, T, G) - wide).square().sum() / wide.square().sum().clamp_min(1e-300))
    # a fused optimizer reads a factor and its gradient as flat memory, side by side: both must lie row by row
    return Synthetic(*(x.to(Q).contiguous() for x in (U, T, G))), error


def random_start(M: int, L: int, d: int, d1: int | None, d2: int | None, rng: torch.Generator) -> Synthetic:
    """TD3's initialisation: U, T ~ N(0, 0.02^2), G Kaiming normal (fan-in d2 d, as torch counts it)."""
    d1, d2 = d1 or M, d2 or L
    U, T = (torch.empty(size).normal_(0.0, 0.02, generator=rng) for size in ((M, d1), (L, d2)))
    G = torch.empty(d1, d2, d).normal_(0.0, math.sqrt(2.0 / (d2 * d)), generator=rng)
    return Synthetic(U, T, G)


def _unit_rows(V: Tensor) -> Tensor:
    """Rows of V, centred over the catalogue, at length 1."""
    return nn.functional.normalize(V - V.mean(0), dim=-1)


@torch.no_grad()
def diverse_contexts(
    teacher: Recommender, E: Tensor, windows: Windows, M: int, rng: np.random.Generator, most: int = 20000
) -> list[int]:
    """M window indices: k-means on the teacher's last outputs over (at most 20,000) windows, nearest real ones."""
    from sklearn.cluster import KMeans

    chosen = np.sort(rng.choice(len(windows), min(most, len(windows)), replace=False))
    outputs = []
    for part in np.array_split(chosen, max(1, len(chosen) // 512)):
        items = torch.from_numpy(windows.items[part, :-1]).to(E.device)
        last = torch.from_numpy(windows.lengths[part] - 2).to(E.device)
        outputs.append(teacher(E[items.clamp_min(0)])[torch.arange(len(part), device=E.device), last].cpu())
    H = torch.cat(outputs).double().numpy()
    means = KMeans(M, n_init=1, random_state=int(rng.integers(2**31 - 1))).fit(H)
    distance = means.transform(H)  # (W, M)
    picked: list[int] = []
    for m in range(M):
        order = np.argsort(distance[:, m], kind="stable")
        picked.append(next(int(i) for i in order if int(i) not in picked))
    return [int(chosen[i]) for i in picked]


def window_items(windows: Windows, contexts: list[int], L: int) -> np.ndarray:
    """(M, L): the first L items of windows; a short one is repeated."""
    return np.stack([np.resize(windows.items[i, : windows.lengths[i]], L) for i in contexts])


def real_tensor(V: Tensor, windows: Windows, contexts: list[int], L: int, gain: float) -> Tensor:
    """Q (M, L, d) of M real windows: centred unit rows of V times `gain`; a short window is repeated to L."""
    return gain * _unit_rows(V)[torch.from_numpy(window_items(windows, contexts, L)).to(V.device)]


@torch.no_grad()
def rollout_tensor(
    teacher: Recommender, V: Tensor, windows: Windows, contexts: list[int], L: int, gain: float
) -> Tensor:
    """Q (M, L, d): Q[m,0] is the context's first item (centred unit row of V times `gain`); then Q[m,t] is the
    frozen teacher's output on the soft sequence so far, so P[m,t] is its own next-item distribution."""
    first = torch.from_numpy(windows.items[contexts, 0]).to(V.device)
    Q = (gain * _unit_rows(V)[first])[:, None, :]
    for _ in range(1, L):
        H = teacher(soft_embed(Q, V, V))
        Q = torch.cat([Q, H[:, -1:, :]], dim=1)
    return Q


def probe_items(windows: Windows, n: int, M: int, L: int, rng: np.random.Generator) -> np.ndarray:
    """(M, L) items in random order: all different as long as the training windows hold that many.

    Drawn without replacement, with weights that are the square root of how often an item occurs in `windows`:
    between uniform (which asks mostly about items that nobody reads) and by occurrence (mostly about a few).
    """
    count = np.bincount(windows.items[windows.items >= 0], minlength=n)
    known = np.flatnonzero(count)
    keys = rng.exponential(size=len(known)) / np.sqrt(count[known])  # the smallest keys are such a draw
    return np.resize(known[np.argsort(keys, kind="stable")], M * L).reshape(M, L)


@torch.no_grad()
def probe_tensor(teacher: Recommender, V: Tensor, items: np.ndarray, gain: float) -> Tensor:
    """Q (M, 2L, d), goals of their own: rows 0…L-1 read `items` (M, L) (centred unit rows of V times `gain`), row
    L+t is the frozen teacher's output after items 0…t."""
    index = torch.from_numpy(items).to(V.device)
    return torch.cat([gain * _unit_rows(V)[index], teacher(V[index])], dim=1)


def with_own_goals(Q: Tensor) -> Tensor:
    """(M, L+1, d) whose positions are the goals of those before them -> (M, 2L, d) with goals of their own."""
    return torch.cat([Q[:, :-1], Q[:, 1:]], dim=1)
