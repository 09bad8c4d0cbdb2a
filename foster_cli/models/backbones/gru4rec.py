"""GRU4Rec (Hidasi et al. 2016): a recurrent network reads the items in order; its state scores the next one.

In: X (B, l, d). Out: H (B, l, d), the state of the top GRU after each position. Differences from the paper: the
item embeddings are given and tied with the output (no item bias), and the losses are foster's own (`losses.py`,
the inner loss), not TOP1 or BPR. The weights of each gate are Glorot uniform, as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foster_cli.models.backbones.base import Backbone


class GRU(nn.Module):
    """One `nn.GRU` layer of width d -> d whose weights come from `rng`; (B, l, d) -> (B, l, d).

    The layer stays in training mode, because cuDNN gives no gradient in eval mode and phi is in eval mode in the outer
    loop. This changes no result, because the layer has no dropout.
    """

    def __init__(self, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)
        bound = math.sqrt(6.0 / (2 * width))
        for p in self.gru.parameters():
            nn.init.uniform_(p, -bound, bound, generator=rng) if p.dim() > 1 else nn.init.zeros_(p)

    def train(self, mode: bool = True) -> GRU:
        super().train(mode)
        self.gru.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out


class GRU4Rec(Backbone):
    """`layers` GRUs with dropout before each. `heads` and `length` are unused.

    X is scaled by sqrt(d) as in SASRec: text vectors have length 1, which is too short to move a gate.
    """

    attends = False

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.layers = nn.ModuleList(GRU(width, rng) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        for layer in self.layers:
            x = layer(self.dropout(x))
        return x
