"""D~: the synthetic set as Tucker factors.

U (M, d1), T (L, d2), G (d1, d2, d) are trained; V (n, d), the item factor, is frozen. Q (M, L, d) is the Tucker
product; P[m, t] = softmax over a subset S of Q[m, t] V_S^T (Eq. 2, 3). With separate targets (`reading.py`), T and Q
have 2L rows: L inputs, then L targets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foster_cli.errors import FosterError
from foster_cli.ops import tucker


class Synthetic(nn.Module):
    """U, T, G as parameters; `forward()` gives Q (M, L, d)."""

    def __init__(self, U: Tensor, T: Tensor, G: Tensor) -> None:
        super().__init__()
        self.U, self.T, self.G = nn.Parameter(U), nn.Parameter(T), nn.Parameter(G)

    def forward(self) -> Tensor:
        return tucker(self.U, self.T, self.G)

    def factors(self) -> dict[str, Tensor]:
        """Detached copies of U, T, G on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.named_parameters()}

    def restore(self, factors: dict[str, Tensor]) -> None:
        """Set U, T, G in place from what `factors` returned."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(factors[name])


def from_tensor(Q: Tensor, d1: int | None, d2: int | None) -> tuple[Synthetic, float]:
    """Factors of Q (M, L, d) by HOSVD in the first two modes; exact (U = I, T = I, G = Q) at full rank (None).

    Also returns the relative squared error |Q - Q'|^2 / |Q|^2. Raises FosterError for ranks above M or L.
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
    # a fused optimizer reads a factor and its gradient as flat memory, in parallel: both must be row-major
    return Synthetic(*(x.to(Q).contiguous() for x in (U, T, G))), error


def random_start(M: int, L: int, d: int, d1: int | None, d2: int | None, rng: torch.Generator) -> Synthetic:
    """TD3's initialisation: U, T ~ N(0, 0.02^2), G Kaiming normal (fan-in d2 d, as torch counts it)."""
    d1, d2 = d1 or M, d2 or L
    U, T = (torch.empty(size).normal_(0.0, 0.02, generator=rng) for size in ((M, d1), (L, d2)))
    G = torch.empty(d1, d2, d).normal_(0.0, math.sqrt(2.0 / (d2 * d)), generator=rng)
    return Synthetic(U, T, G)
