"""HSTU (Zhai et al. 2024): gated blocks of pointwise SiLU attention with a relative bias, without feed-forward.

In each block, with x the residual stream: U, V, Q, K = SiLU(W norm(x)); A_tj = SiLU(q_t . k_j + r_{t-j}) / L for
j <= t, one for each head; x <- x + W_o(norm(A V) * U) + b_o. In: X (B, l, d). Out: H (B, l, d).

Differences from the paper: r depends on positions only (foster's sequences have no times), and stochastic length and
the fused kernels are left out. As in the authors' code: X is scaled by sqrt(d), learned positions are added, q . k
is not scaled, and N in A / N is the longest length L, so that padding changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.models.backbones.base import Backbone, SeededDropout, normal_weights


class Unit(nn.Module):
    """One sequential transduction unit (B, l, d) -> (B, l, d). U, V, Q and K all have heads of width d / heads."""

    def __init__(self, width: int, length: int, heads: int, dropout: SeededDropout) -> None:
        super().__init__()
        self.heads, self.length = heads, length
        self.norm, self.norm_attended = nn.LayerNorm(width), nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.relative = nn.Parameter(torch.empty(1, length))  # r at distances 0…L-1, shared by the heads
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        b, size, d = x.shape
        u, v, q, k = F.silu(self.uvqk(self.norm(x))).split(d, dim=-1)
        v, q, k = (y.view(b, size, self.heads, d // self.heads).transpose(1, 2) for y in (v, q, k))
        position = torch.arange(size, device=x.device)
        distance = position[:, None] - position[None, :]
        bias = self.relative[0, distance.clamp_min(0)]
        a = (F.silu(q @ k.transpose(2, 3) + bias) / self.length).tril()
        attended = self.norm_attended((a @ v).transpose(1, 2).reshape(b, size, d))
        return x + self.out(self.dropout(attended * u))


class HSTU(Backbone):
    """Positions, units, final norm. Weights are N(0, 0.02^2) from `rng`, W_o Glorot uniform."""

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.units = nn.ModuleList(Unit(width, length, heads, self.dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        normal_weights(self, rng)
        for unit in self.units:
            assert isinstance(unit, Unit)
            nn.init.xavier_uniform_(unit.out.weight, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x * self.scale + self.position[: x.shape[1]])
        for unit in self.units:
            x = unit(x)
        return self.norm(x)
