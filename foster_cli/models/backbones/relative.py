"""SASRec with relative positions: attention adds a learned number for each head and distance, and items have no places.

It starts as a mean of the history in which recent items count more: values and outputs of every attention are the
identity (`as_mean`). Head h adds r_h,j to the score of an item j steps back (as HSTU does). r starts at -j / 2^(h + 1),
steepest in the first heads (as in ALiBi, Press et al. 2022). Histories of any length are then read alike, whereas an
absolute last place is trained once per window. In: X (B, l, d), l <= L. Out: H (B, l, d).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foster_cli.models.backbones.base import SeededDropout
from foster_cli.models.backbones.sasrec import Block, SASRec


def recency(heads: int, length: int) -> nn.Parameter:
    """r (heads, L) at the start."""
    slope = 0.5 ** torch.arange(1, heads + 1)
    return nn.Parameter(-slope[:, None] * torch.arange(length))


def relative_bias(r: Tensor, size: int, at: Tensor | None, device: torch.device) -> Tensor:
    """r (heads, L) at the distances of `size` items from the positions `at` (B,), (B, heads, 1, size), or from all of
    them (None), (heads, size, size); -inf for later items."""
    position = torch.arange(size, device=device)
    distance = (position if at is None else at)[:, None] - position
    bias = r[:, distance.clamp_min(0)].masked_fill(distance < 0, -torch.inf)
    return bias if at is None else bias.transpose(0, 1)[:, :, None]


@torch.no_grad()
def as_mean(qkv: nn.Linear, out: nn.Linear) -> None:
    """Let attention start as a mean of what it reads, with the weights of each head: values and outputs the identity.

    Trained language models are near to that (Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers",
    ICML 2023), and so are good recommenders without training: item kNN sums the neighbours of the last items.
    """
    d = out.in_features
    qkv.weight[2 * d :].copy_(torch.eye(d))
    out.weight.copy_(torch.eye(d))


def and_last_alone(backbone: nn.Module) -> list[list[Tensor]]:
    """`Backbone.origins`: the present parameters, and those with attentions that add nothing, so that the last item
    alone is read."""
    own = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    return [list(own.values()), [torch.zeros_like(p) if ".out." in name else p for name, p in own.items()]]


class RelativeBlock(Block):
    """A block of SASRec whose attention adds r. `relative`: r (heads, L)."""

    def __init__(self, width: int, length: int, heads: int, dropout: SeededDropout) -> None:
        super().__init__(width, heads, dropout)
        self.relative = recency(heads, length)

    def bias(self, size: int, at: Tensor | None, device: torch.device) -> Tensor | None:
        """See `Block.bias` and `relative_bias`."""
        return relative_bias(self.relative, size, at, device)


class RelativeSASRec(SASRec):
    """SASRec's blocks with r, and no positions. Initial weights are N(0, 0.02^2) from `rng`, or those of `as_mean`."""

    def __init__(self, width: int, length: int, layers: int, heads: int, dropout: float, rng: torch.Generator) -> None:
        super().__init__(width, length, layers, heads, dropout, rng)
        del self.position
        for block in self.blocks:
            assert isinstance(block, RelativeBlock)
            block.relative = recency(heads, length)  # not drawn
            as_mean(block.qkv, block.out)

    def origins(self) -> list[list[Tensor]]:
        """See `and_last_alone`."""
        return and_last_alone(self)

    def placed(self, x: Tensor) -> Tensor:
        """X scaled by sqrt(d)."""
        return x * self.scale

    def block(self, width: int, length: int, heads: int) -> Block:
        """A new block."""
        return RelativeBlock(width, length, heads, self.dropout)
