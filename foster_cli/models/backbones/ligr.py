"""LiGR (Borisyuk et al. 2025): SASRec's attention and a SwiGLU feed-forward, each behind a learned gate.

In each block, with x the residual stream: x <- x + attention(norm(x)) * sigmoid(W_1 x + b_1), then
x <- x + W_down(SiLU(W_gate y) * W_up y) * sigmoid(W_2 x + b_2) with y = norm(x). In: X (B, l, d), l <= L, item
embeddings, the oldest at position 0. Out: H (B, l, d). Padding is on the right and needs no mask.

As in eSASRec (Tikhonovich et al. 2025), whose code is RecTools' `LiGRLayers`: the feed-forward's inner width is 4 d and
it has no biases, and the gates read x before the norm. Unlike there, X is scaled by sqrt(d), a norm follows the last
block, attention weights are not dropped, and positions and first weights are those of `relative.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.models.backbones.base import Backbone, SeededDropout, normal_weights
from foster_cli.models.backbones.relative import and_last_alone, as_mean, recency, relative_bias

#: Inner width of the feed-forward in units of d, RecTools' default.
INNER = 4


class GatedBlock(nn.Module):
    """One LiGR block (B, l, d) -> (B, l, d). `heads` divides the width d; `relative` (heads, L): r."""

    def __init__(self, width: int, length: int, heads: int, dropout: SeededDropout) -> None:
        super().__init__()
        self.heads = heads
        self.relative = recency(heads, length)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.pass1, self.pass2 = nn.Linear(width, width), nn.Linear(width, width)  # W_1, W_2
        self.gate, self.up = (nn.Linear(width, INNER * width, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER * width, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.by_head(y) for y in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        bias = relative_bias(self.relative, x.shape[1], None, x.device)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.pointwise(x, a.transpose(1, 2).flatten(2))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, l, d) -> (B, heads, l, d / heads), as a view."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def pointwise(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block, position by position: x and the heads' output, both (..., d) -> (..., d)."""
        x = x + self.dropout(self.out(attended)) * self.pass1(x).sigmoid()
        y = self.norm2(x)
        inner = self.dropout(F.silu(self.gate(y)) * self.up(y))
        return x + self.dropout(self.down(inner)) * self.pass2(x).sigmoid()

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """(B, l, d), positions `last` (B,) -> (B, d): equals `forward` there. Only keys and values are computed at
        all positions."""
        b, size, d = x.shape
        row = torch.arange(b, device=x.device)
        y = self.norm1(x)
        weight, own = self.qkv.weight, self.qkv.bias
        q = self.by_head(F.linear(y[row, last], weight[:d], own[:d])[:, None])
        k, v = (self.by_head(z) for z in F.linear(y, weight[d:], own[d:]).chunk(2, dim=-1))
        bias = relative_bias(self.relative, size, last, x.device)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.pointwise(x[row, last], a.flatten(1))


class LiGR(Backbone):
    """Blocks, final norm. Initial weights are N(0, 0.02^2) from `rng`, so that the gates start half open."""

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.blocks = nn.ModuleList(GatedBlock(width, length, heads, self.dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        normal_weights(self, rng)
        for block in self.blocks:
            assert isinstance(block, GatedBlock)
            block.relative = recency(heads, length)  # not drawn
            as_mean(block.qkv, block.out)

    def origins(self) -> list[list[Tensor]]:
        """See `and_last_alone`."""
        return and_last_alone(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x * self.scale)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,), for ranking; equals `forward` there."""
        x = self.dropout(x * self.scale)
        for block in self.blocks[:-1]:
            x = block(x)
        final = self.blocks[-1]
        assert isinstance(final, GatedBlock)
        return self.norm(final.at(x, last))
