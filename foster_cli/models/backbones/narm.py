"""NARM (Li et al. 2017): a GRU whose last state (global) and attention over all its states (local) make the output.

With h_1…h_t the GRU's states: alpha_tj = v^T sigmoid(A1 h_t + A2 h_j), c_t = [h_t ; sum_{j<=t} alpha_tj h_j], and
H_t = B c_t, so that the score e_i^T B c_t is the paper's bilinear one. The weights alpha are not normalised, as in
the paper; the global and the local encoder share their states. In: X (B, l, d). Out: H (B, l, d). Differences: the
item embeddings are given and tied, and the losses are foster's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foster_cli.models.backbones.base import Backbone
from foster_cli.models.backbones.gru4rec import GRU


class NARM(Backbone):
    """`layers` GRUs, then attention; dropout on X and on c_t. `heads` and `length` are unused.

    Weights are Glorot uniform from `rng`. `forward` takes O(B l^2 d) memory, as additive attention does.
    """

    attends = False

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(GRU(width, rng) for _ in range(layers))
        self.A1, self.A2 = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.v = nn.Linear(width, 1, bias=False)
        self.B = nn.Linear(2 * width, width, bias=False)
        for layer in (self.A1, self.A2, self.v, self.B):
            nn.init.xavier_uniform_(layer.weight, generator=rng)

    def states(self, x: Tensor) -> Tensor:
        """h (B, l, d) of X (B, l, d)."""
        x = self.dropout(x * self.scale)
        for layer in self.layers:
            x = layer(x)
        return x

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,); equals `forward` there, without attention at the other positions."""
        h = self.states(x)
        own = h[torch.arange(len(h), device=h.device), last]
        seen = torch.arange(h.shape[1], device=h.device)[None, :] <= last[:, None]
        alpha = self.v(torch.sigmoid(self.A1(own)[:, None] + self.A2(h))).squeeze(-1) * seen
        return self.B(self.dropout(torch.cat([own, torch.einsum("bj,bjd->bd", alpha, h)], dim=-1)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.states(x)
        alpha = self.v(torch.sigmoid(self.A1(h)[:, :, None] + self.A2(h)[:, None, :])).squeeze(-1).tril()
        return self.B(self.dropout(torch.cat([h, alpha @ h], dim=-1)))
