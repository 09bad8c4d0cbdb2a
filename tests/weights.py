"""Weights for tests: larger than at the start of a training, so that every part of a model matters to its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


def enlarged(model: M, seed: int = 9) -> M:
    """`model` itself, each of its weights moved by a draw from N(0, 0.3^2)."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.empty_like(p).normal_(0.0, 0.3, generator=rng))
    return model
