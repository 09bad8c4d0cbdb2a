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
        bias = self.bias(x.shape[1], None, x.device)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)
        x = x + self.dropout(self.out(a.transpose(1, 2).flatten(2)))
        return self.feed_forward(x)

    def bias(self, size: int, at: Tensor | None, device: torch.device) -> Tensor | None:
        """What is added to the scores of `size` items after the positions `at` (B,), (B, heads or 1, 1, size), or after
        all of them (None), (heads or 1, size, size): -inf for later items. None for `at` None: nothing else is."""
        if at is None:
            return None
        later = torch.arange(size, device=device)[None, :] > at[:, None]
        return torch.zeros(later.shape, device=device).masked_fill(later, -torch.inf)[:, None, None, :]

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
        mask = self.bias(size, last, x.device)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(x.dtype))
        return self.feed_forward(x[row, last] + self.dropout(self.out(a.reshape(b, d))))


class SASRec(Backbone):
    """Positions, blocks, final norm. Initial weights are N(0, 0.02^2) from `rng`."""

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.scale = math.sqrt(width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(self.block(width, length, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        normal_weights(self, rng)

    def placed(self, x: Tensor) -> Tensor:
        """X scaled by sqrt(d), plus the vectors of the positions."""
        return x * self.scale + self.position[: x.shape[1]]

    def block(self, width: int, length: int, heads: int) -> Block:
        """A new block."""
        return Block(width, heads, self.dropout)

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,), for ranking; equals `forward` there."""
        x = self.dropout(self.placed(x))
        for block in self.blocks[:-1]:
            x = block(x)
        final = self.blocks[-1]
        assert isinstance(final, Block)
        return self.norm(final.at(x, last))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.placed(x))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
