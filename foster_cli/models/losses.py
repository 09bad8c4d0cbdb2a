"""Losses on real data. H (P, d): outputs at the P valid positions; logits are H . e. All return a mean in nats.

`candidate_softmax` is cross-entropy over all items, or over a sample of them that stands for all; `bce` is Eq. 16.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foster_cli.ops import softmax_ce


def candidate_softmax(H: Tensor, E: Tensor, goal: Tensor, inclusion: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's positive among the candidates E (C, d). `goal` (P,): the positive's index in E.

    `inclusion` (C,): the probability with which each candidate came into the sample. Another item's term in the sum
    over items is divided by it (importance sampling), so that the expected sum is the one over all items, however
    items are drawn. None: E holds all items. First derivatives only, without the extension.
    """
    return softmax_ce(H, E, goal, None if inclusion is None else -inclusion.log())


def bce(H: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-log s(h.e+) - log(1 - s(h.e-)) with one sampled negative e- (P, d) for each position (Eq. 16)."""
    up, down = (H * positive).sum(-1), (H * negative).sum(-1)
    return -(F.logsigmoid(up) + F.logsigmoid(-down)).mean()
