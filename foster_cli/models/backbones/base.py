"""The base class of the backbones (sequence models): item embeddings in, one state per position out.

In: X (B, l, d), l <= L, item embeddings, the oldest at position 0, padding on the right. Out: H (B, l, d); the score
of item i after position t is H[:, t] . e_i. H[:, t] depends only on X[:, :t+1], not on later positions or padding.
Synthetic sequences are soft, so a backbone reads embeddings and never item ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Dropout with a separate generator, so that a seed fixes training whatever random numbers other code draws."""

    def __init__(self, p: float, source: list[torch.Generator]) -> None:
        super().__init__()
        self.p = p
        self.source = source  # one generator on the model's device, shared by all layers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        return x * self.kept(x.shape, x).div_(1.0 - self.p)

    def kept(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of `shape`, of the dtype and device of `like`: 0 with probability p, else 1."""
        return like.new_empty(shape).bernoulli_(1.0 - self.p, generator=self.source[0])


class Backbone(nn.Module):
    """Base class of all backbones: a causal `forward` (B, l, d) -> (B, l, d), `at`, `last`, and a seeded dropout."""

    #: Whether `heads` must divide the width.
    attends = True
    #: Share of a real window's positions that a training step predicts, at least one; drawn anew at every step.
    #: A step that sees all windows predicts all positions.
    predicted = 1.0

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.source = [torch.Generator()]
        self.dropout = SeededDropout(dropout, self.source)

    def seed_dropout(self, seed: int) -> None:
        """Reset the dropout's generator to `seed`, on the device of the model."""
        self.source[0] = torch.Generator(device=next(self.parameters()).device).manual_seed(seed)

    def origins(self) -> list[list[Tensor]]:
        """States of the parameters from which a validated backbone may have gone part of the way (`train.best`): the
        present ones, as copies, and others that read a history more simply, if there are any."""
        return [[p.detach().clone() for p in self.parameters()]]

    def forward(self, x: Tensor) -> Tensor:
        """H (B, l, d) of X (B, l, d)."""
        raise NotImplementedError

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """H (P, d) at the positions `places` (P,), ascending indices into all B l ones; equals `forward` there."""
        H: Tensor = self(x).flatten(0, 1)
        return H if len(places) == len(H) else H.index_select(0, places)

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,), for ranking; equals `forward` there."""
        return self(x)[torch.arange(len(x), device=x.device), last]


def normal_weights(module: nn.Module, rng: torch.Generator, deviation: float = 0.02) -> None:
    """Draw matrices from N(0, deviation^2) with `rng` and set biases to 0. Norm layers are not changed."""
    for name, p in module.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, 0.0, deviation, generator=rng)
        elif "norm" not in name:
            nn.init.zeros_(p)
