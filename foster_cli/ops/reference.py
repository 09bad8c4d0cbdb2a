"""The definitions of the ops in plain PyTorch, which every other implementation is tested against.

Shapes: U (M, d1), T (L, d2), G (d1, d2, w), V_S (s, w), E_S (s, d), Q (..., w) and H (..., d). All distributions are
over the s items of the subset S, and all losses are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
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
