"""What every backbone (sequence model) is: item embeddings in, a state per position out.

In: X (B, l, d), l <= L, item embeddings from the left, position 0 the oldest, padding on the right. Out: H (B, l, d);
the score of item i after position t is H[:, t] . e_i. H[:, t] depends on X[:, :t+1] alone: neither a later position
nor padding changes it. A synthetic sequence is soft, so a backbone sees embeddings and never an item's id.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Dropout that draws from its own generator, so that a seed fixes training whatever else draws."""

    def __init__(self, p: float, source: list[torch.Generator]) -> None:
        super().__init__()
        self.p = p
        self.source = source  # one generator on the model's device, shared by all layers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self.source[0])
        return x * keep.div_(1.0 - self.p)


class Backbone(nn.Module):
    """Base of all backbones: `forward` (B, l, d) -> (B, l, d), causal; `last`; a seeded dropout."""

    #: Whether `heads` must divide the width.
    attends = True
    #: Share of a real window's positions that a training step predicts, drawn anew each time; at least one
    #: (all of them where a step sees all windows).
    predicted = 1.0

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.source = [torch.Generator()]
        self.dropout = SeededDropout(dropout, self.source)

    def seed_dropout(self, seed: int) -> None:
        """Start the dropout's own generator afresh, on the device the model is on."""
        self.source[0] = torch.Generator(device=next(self.parameters()).device).manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """H (B, l, d) of X (B, l, d)."""
        raise NotImplementedError

    def at(self, x: Tensor, chosen: Tensor) -> Tensor:
        """H (P, d) at the P positions where `chosen` (B, l) bool holds, row by row: equal to `forward` there."""
        H = self(x)
        return H.flatten(0, 1) if bool(chosen.all()) else H[chosen]

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,): equal to `forward` there, for ranking."""
        return self(x)[torch.arange(len(x), device=x.device), last]


def normal_weights(module: nn.Module, rng: torch.Generator, deviation: float = 0.02) -> None:
    """Matrices N(0, deviation^2) from `rng`; biases 0; the norms' own weights stay as they are."""
    for name, p in module.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, 0.0, deviation, generator=rng)
        elif "norm" not in name:
            nn.init.zeros_(p)
