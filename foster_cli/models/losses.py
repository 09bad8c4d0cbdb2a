"""Losses on real data. H (P, d): outputs at the P valid positions; logits are H . e. All return a mean in nats.

`candidate_softmax` is cross-entropy over all items, or over a sample of them that stands for all; `bce` is Eq. 16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: Logits of a block (rows x candidates): 1 MiB in fp32, so that a block stays in the cache of a CPU core.
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}


class _Softmax(torch.autograd.Function):
    """The mean cross-entropy in blocks of rows; the gradients are computed with the loss, so logits are never kept.

    loss = mean_r [log(e^{s_ry} + sum_{c != y} w_c e^{s_rc}) - s_ry] with s = H E^T and weights w = e^correction.
    dloss/ds_rc = (p_rc - [c = y]) / P, p the weighted softmax. From this, dH = (dloss/ds) E and dE = (dloss/ds)^T H.
    """

    @staticmethod
    def forward(ctx: Any, H: Tensor, E: Tensor, goal: Tensor, correction: Tensor | None) -> Tensor:
        total, dH, dE = H.new_zeros(()), torch.empty_like(H), torch.zeros_like(E)
        rows = max(16, BLOCK.get(H.device.type, 1 << 18) // max(1, len(E)))
        for a in range(0, len(H), rows):
            h, y = H[a : a + rows], goal[a : a + rows, None]
            s = h @ E.T
            own = s.gather(1, y)
            if correction is not None:
                s += correction
                s.scatter_(1, y, own)
            top = s.amax(1, keepdim=True)
            s.sub_(top).exp_()
            z = s.sum(1, keepdim=True)
            total += (z.log() + (top - own)).sum()
            s.div_(z * len(H))
            s.scatter_add_(1, y, own.new_full(own.shape, -1.0 / len(H)))
            torch.mm(s, E, out=dH[a : a + rows])
            dE.addmm_(s.T, h)
        ctx.save_for_backward(dH, dE)
        return total / len(H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dH, dE = ctx.saved_tensors
        return grad * dH, grad * dE, None, None


def candidate_softmax(H: Tensor, E: Tensor, goal: Tensor, inclusion: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's positive among the candidates E (C, d). `goal` (P,): the positive's index in E.

    `inclusion` (C,): the probability with which each candidate came into the sample. Another item's term in the sum
    over items is divided by it (importance sampling), so that the expected sum is the one over all items, however
    items are drawn. None: E holds all items. First derivatives only.
    """
    loss: Tensor = _Softmax.apply(H, E, goal, None if inclusion is None else -inclusion.log())
    return loss


def bce(H: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-log s(h.e+) - log(1 - s(h.e-)) with one sampled negative e- (P, d) for each position (Eq. 16)."""
    up, down = (H * positive).sum(-1), (H * negative).sum(-1)
    return -(F.logsigmoid(up) + F.logsigmoid(-down)).mean()
