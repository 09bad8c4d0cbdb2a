"""The definitions of the ops in plain PyTorch, which every other implementation is tested against.

Shapes: U (M, d1), T (L, d2), G (d1, d2, w), V_S (s, w), E_S (s, d), Q (..., w) and H (..., d). All distributions are
over the s items of the subset S, and all losses are in nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: The most scores that `rank_counts` holds in memory: 64 Mi elements, 256 MiB in fp32.
RANK_BLOCK = 1 << 26


def tucker(U: Tensor, T: Tensor, G: Tensor) -> Tensor:
    """Q (M, L, w) = sum_ab U[m,a] T[t,b] G[a,b,:] (Eq. 2 without the item mode)."""
    return torch.einsum("ma,tb,abd->mtd", U, T, G)


def soft_embed(Q: Tensor, V_S: Tensor, E_S: Tensor) -> Tensor:
    """X (..., d) = softmax(Q V_S^T) E_S: the probability-weighted item embedding (Eq. 3, 19)."""
    return torch.softmax(Q @ V_S.T, dim=-1) @ E_S


def tucker_embed(U: Tensor, T: Tensor, G: Tensor, V_S: Tensor, E_S: Tensor) -> tuple[Tensor, Tensor]:
    """X (M, L, d) = softmax(Q V_S^T) E_S of Q = `tucker(U, T, G)`, and lse (M, L), the logsumexp of the scores."""
    scores = tucker(U, T, G) @ V_S.T
    return torch.softmax(scores, dim=-1) @ E_S, scores.detach().logsumexp(-1)


def soft_kl(Q: Tensor, V_S: Tensor, H: Tensor, E_S: Tensor) -> Tensor:
    """KL(softmax(Q V_S^T) || softmax(H E_S^T)) per row (...,) in nats (Eq. 20, 21)."""
    target = F.log_softmax(Q @ V_S.T, dim=-1)
    predicted = F.log_softmax(H @ E_S.T, dim=-1)
    return (target.exp() * (target - predicted)).sum(-1)


#: Scores of a block of `softmax_ce`: 1 MiB in fp32, so that a block stays in the cache of a CPU core.
CE_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}


class _Softmax(torch.autograd.Function):
    """The mean cross-entropy in blocks of rows; the gradients are computed with the loss, so scores are never kept.

    loss = mean_r [log(e^{s_ry} + sum_{c != y} w_c e^{s_rc}) - s_ry] with s = H E^T and weights w = e^correction.
    dloss/ds_rc = (p_rc - [c = y]) / P, p the weighted softmax. From this, dH = (dloss/ds) E and dE = (dloss/ds)^T H.
    """

    @staticmethod
    def forward(ctx: Any, H: Tensor, E: Tensor, goal: Tensor, correction: Tensor | None) -> Tensor:
        total, dH, dE = H.new_zeros(()), torch.empty_like(H), torch.zeros_like(E)
        rows = max(16, CE_BLOCK.get(H.device.type, 1 << 18) // max(1, len(E)))
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


def softmax_ce(H: Tensor, E: Tensor, target: Tensor, correction: Tensor | None = None) -> Tensor:
    """The mean over rows of log sum_c exp(H . E_c + correction_c) - H . E_target: a scalar, in nats.

    H (r, d), E (s, d), target (r,) int64; correction (s,), which a row's target does not have. First derivatives only.
    Raises RuntimeError for a target outside the items.
    """
    loss: Tensor = _Softmax.apply(H, E, target, correction)
    return loss


def check_finite(H: Tensor, E: Tensor) -> None:
    """Raise ValueError if the outputs or embeddings to be ranked hold NaN or Inf."""
    if not all(bool(torch.isfinite(part).all()) for x in (H, E) for part in x.split(1 << 16)):
        raise ValueError("NaN or Inf in the outputs or embeddings to be ranked")


def rank_counts(
    H: Tensor, E: Tensor, target: Tensor, seen: tuple[Tensor, Tensor] | None = None, block: int = RANK_BLOCK
) -> tuple[Tensor, Tensor]:
    """For each row of H (R, d): how many of the n items of E (n, d) score above, and equal to, its target (R,).

    Returns `greater` and `equal` (R,) int64; neither counts the target itself. `seen` = (items, offsets): row r does
    not count items[offsets[r] : offsets[r+1]]. At most `block` scores are in memory at once. Raises ValueError for
    NaN or Inf.
    """
    check_finite(H, E)
    greater, equal = (torch.empty(len(H), dtype=torch.int64, device=H.device) for _ in range(2))
    rows = max(1, block // max(1, len(E)))
    for a in range(0, len(H), rows):
        b = min(a + rows, len(H))
        scores = H[a:b] @ E.T
        index = target[a:b, None]
        target_score = scores.gather(1, index)
        scores.scatter_(1, index, -torch.inf)
        if seen is not None:
            items, offsets = seen
            size = offsets[a + 1 : b + 1] - offsets[a:b]
            row = torch.repeat_interleave(torch.arange(b - a, device=H.device), size)
            scores[row, items[offsets[a] : offsets[b]]] = -torch.inf
        greater[a:b] = torch.count_nonzero(scores > target_score, dim=1)
        equal[a:b] = torch.count_nonzero(scores == target_score, dim=1)
    return greater, equal
