"""Losses on real data. H (P, d): outputs at the P valid positions; logits are H . e.

`sampled_softmax` and `bce` (Eq. 16) return a mean over the positions, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sampled_softmax(H: Tensor, positive: Tensor, negatives: Tensor, clash: Tensor) -> Tensor:
    """Cross-entropy of the positive e+ (P, d) against K negatives (K, d) shared by all positions.

    `clash` (P, K) bool marks negatives that are the position's positive; they are left out.
    """
    own = (H * positive).sum(-1, keepdim=True)
    others = (H @ negatives.T).masked_fill(clash, -torch.inf)
    return -F.log_softmax(torch.cat([own, others], dim=-1), dim=-1)[:, 0].mean()


def bce(H: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-log s(h.e+) - log(1 - s(h.e-)) with one sampled negative e- (P, d) for each position (Eq. 16)."""
    up, down = (H * positive).sum(-1), (H * negative).sum(-1)
    return -(F.logsigmoid(up) + F.logsigmoid(-down)).mean()
