"""BERT4Rec (Sun et al. 2019): a bidirectional encoder over a prefix with [MASK] appended to it.

In: X (B, l, d). Out: H (B, l, d). H[:, t] is the output of the published model at a [MASK] appended to the prefix
X[:, :t+1], which is how it recommends. Within a prefix, all positions and the mask attend to each other at every layer.
Above the first layer, prefixes share nothing, so that no position sees its future.

Differences from the paper, and their reasons:
- Training. The cloze task masks items inside a sequence and predicts them from both sides. Distillation needs a causal
  prediction after each position (for the KL against P[:, t+1], anchors and feature matching), and an output that has
  seen t+1 cannot be compared there. So the mask is always the last position of a prefix. The paper itself adds such
  samples, with the last item masked, because they match how the model is used.
- Cost. A bidirectional encoder cannot share one pass among prefixes, because position u has another state in each.
  The l prefixes hold l (l + 3) / 2 tokens instead of l, 230 for l = 20. A step on real windows therefore predicts only
  a fifth of each window's items (`predicted`), drawn anew at every step, as the paper masks only some; `at` encodes
  only the prefixes before these items. The sequences of a synthetic set or a coreset are few, so training uses all
  their prefixes. `forward` computes the first layer's projections once for all prefixes, and in the last layer only
  the masks are queries. `last`, for ranking, encodes one prefix per sequence.
- The item embeddings are given and tied. There is no item bias, because items are known only by their vectors.
  Attention weights have no dropout (as in `sasrec.py`).
As in the paper: GELU feed-forward of width 4 d, post-norm, truncated normal weights in [-0.02, 0.02]. As in the
authors' code: norm and dropout on the summed embeddings, norm after the GELU projection before the item scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.models.backbones.base import Backbone, SeededDropout

#: Prefix tokens in one pass on the CPU. In such parts 256 sequences of 20 positions, 384 wide, take 6.4 s (forward and
#: backward on one core); in one pass they take 11.9 s.
PART_TOKENS = 8192


class Block(nn.Module):
    """One post-norm encoder block in parts: the caller runs `project`, attention and `finish`."""

    def __init__(self, width: int, heads: int, dropout: SeededDropout) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = dropout

    def project(self, ask: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries q (B, Q, d) of `ask`; keys k and values v (B, N, d) of `x`."""
        d = x.shape[-1]
        W, b = self.qkv.weight, self.qkv.bias
        if ask is x:
            q, k, v = self.qkv(x).split(d, dim=-1)
        else:
            q, (k, v) = F.linear(ask, W[:d], b[:d]), F.linear(x, W[d:], b[d:]).split(d, dim=-1)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Tensor | None = None) -> Tensor:
        """Softmax attention (B, Q, d) over k, v (B, N, d); `seen` (B, N) bool is false at padding."""
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if seen is None else seen[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block after attention: residuals, norms and feed-forward, (B, Q, d)."""
        x = self.norm1(x + self.dropout(self.out(attended)))
        return self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))


class BERT4Rec(Backbone):
    """Mask, L + 1 positions, blocks, output projection."""

    #: The paper's share of masked items for its longer sequences.
    predicted = 0.2

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(dropout)
        self.mask = nn.Parameter(torch.empty(1, width))
        self.position = nn.Parameter(torch.empty(length + 1, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, self.dropout) for _ in range(layers))
        self.project, self.norm_out = nn.Linear(width, width), nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.trunc_normal_(p, 0.0, 0.02, -0.02, 0.02, generator=rng)
            elif "norm" not in name:
                nn.init.zeros_(p)

    def _embedded(self, x: Tensor, position: Tensor) -> Tensor:
        return self.dropout(self.norm(x + position))

    def _output(self, x: Tensor) -> Tensor:
        return self.norm_out(F.gelu(self.project(x)))

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,); equals `forward` there. Encodes one prefix per sequence."""
        size = x.shape[1]
        items = self._embedded(x, self.position[:size])
        mask = self._embedded(self.mask, self.position[last + 1])[:, None]  # first in z; its position follows `last`
        z = torch.cat([mask, items], dim=1)
        seen = torch.arange(-1, size, device=x.device)[None, :] <= last[:, None]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            ask = z if i + 1 < len(self.blocks) else z[:, :1]
            z = block.finish(ask, block.attend(*block.project(ask, z), seen=seen))
        return self._output(z[:, 0])

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """See the base class. Encodes only the prefixes up to `places`, in parts of similar length."""
        row, last = places // x.shape[1], places % x.shape[1]
        order = last.argsort(stable=True)
        found = []
        for part in order.split(max(1, PART_TOKENS // (x.shape[1] + 1))):
            size = int(last[part[-1]]) + 1
            found.append(self.last(x[row[part], :size], last[part]))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(found)[back]

    def forward(self, x: Tensor) -> Tensor:
        rows = max(1, PART_TOKENS // (x.shape[1] * (x.shape[1] + 3) // 2))
        if x.device.type != "cpu" or len(x) <= rows:
            return self._prefixes(x)
        return torch.cat([self._prefixes(part) for part in x.split(rows)])

    def _prefixes(self, x: Tensor) -> Tensor:
        """H (B, l, d): the output at [MASK] after each of the l prefixes of X (B, l, d)."""
        b, size, _ = x.shape
        items = self._embedded(x, self.position[:size])
        masks = self._embedded(self.mask, self.position[1 : size + 1].expand(b, -1, -1))
        z = torch.cat([masks, items], dim=1)  # (B, 2l, d): the tokens of all prefixes
        # the tokens of prefix t: mask t, then items 0…t
        parts = [torch.tensor([t, *range(size, size + t + 1)]) for t in range(size)]
        tokens = torch.cat(parts).to(x.device)
        lengths = [len(part) for part in parts]
        first = torch.tensor(lengths).cumsum(0).to(x.device) - torch.tensor(lengths, device=x.device)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            final = i + 1 == len(self.blocks)
            ask = z[:, :size] if i == 0 else z[:, first]
            q, k, v = block.project(ask if final else z, z)
            if i == 0:
                k, v, z = k[:, tokens], v[:, tokens], z[:, tokens]
                q = q if final else q[:, tokens]
            asking = [1] * size if final else lengths
            rows = zip(q.split(asking, 1), k.split(lengths, 1), v.split(lengths, 1), strict=True)
            z = block.finish(ask if final else z, torch.cat([block.attend(*row) for row in rows], dim=1))
        return self._output(z)
