"""SASRec (Kang and McAuley 2018): causal self-attention over item embeddings, tied with the output.

In: X (B, l, d), l <= L, item embeddings, the oldest at position 0. Out: H (B, l, d); the score of item i after
position t is H[:, t] . e_i. Padding is on the right and needs no mask, because attention is causal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.models.backbones.base import Backbone, SeededDropout, normal_weights


class Block(nn.Module):
    """One block: x + attention(norm(x)), then x + feed-forward(norm(x)) with inner width d, as in SASRec."""

    def __init__(self, width: int, heads: int, dropout: SeededDropout) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, l, d) -> (B, l, d)."""
        d = x.shape[-1]
        q, k, v = (self.by_head(y) for y in self.qkv(self.norm1(x)).split(d, dim=-1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(a.transpose(1, 2).flatten(2)))
        return self.feed_forward(x)

    def by_head(self, x: Tensor) -> Tensor:
        """(B, l, d) -> (B, heads, l, d / heads), as a view, so that its gradient needs no extra copy."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half of the block, x + feed-forward(norm(x)), at every position."""
        return x + self.dropout(self.down(self.dropout(F.relu(self.up(self.norm2(x))))))

    def at(self, x: Tensor, last: Tensor) -> Tensor:
        """(B, l, d), positions `last` (B,) -> (B, d): equals `forward` there, at a third of the work."""
        b, size, d = x.shape
        row = torch.arange(b, device=x.device)
        y = self.norm1(x)
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(y[row, last], weight[:d], bias[:d]).view(b, self.heads, 1, d // self.heads)
        k, v = (self.by_head(z) for z in F.linear(y, weight[d:], bias[d:]).split(d, dim=-1))
        mask = (torch.arange(size, device=x.device)[None, :] <= last[:, None])[:, None, None, :]
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.feed_forward(x[row, last] + self.dropout(self.out(a.reshape(b, d))))


class SASRec(Backbone):
    """Positions, blocks, final norm. Initial weights are N(0, 0.02^2) from `rng`."""

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, self.dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        normal_weights(self, rng)

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,), for ranking; equals `forward` there."""
        x = self.dropout(x * self.scale + self.position[: x.shape[1]])
        for block in self.blocks[:-1]:
            x = block(x)
        final = self.blocks[-1]
        assert isinstance(final, Block)
        return self.norm(final.at(x, last))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x * self.scale + self.position[: x.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
