"""The first-order update direction of Eq. 6 and 7 (BOME, Liu et al. 2022) over the joint vector (phi, D~).

In: gradients of f = L_out and of q = L_in(D~, phi) - L_in(D~, sg phi^T), as flat lists of tensors. Out: the
direction and lambda_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries as one vector, in float64."""
    return torch.cat([x.reshape(-1) for x in tensors]).double()


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries together, in float64: a scalar."""
    return flat(tensors).square().sum().sqrt()


def multiplier(
    f: Sequence[Tensor], q: Sequence[Tensor], eta: float, form: str, q_value: Tensor, inner_loss: Tensor
) -> Tensor:
    """lambda_k = max(0, (phi_k - <grad f, grad q>) / |grad q|^2).

    phi_k is eta |grad q|^2 (`gradient`, Eq. 7) or eta L_in (`loss`, the other form in BOME's code). lambda_k
    is 0 if the constraint has no meaning: q < 0 (the T inner steps made phi worse on D~) or a zero gradient of q.
    All numbers are scalars on the device, in float64; none is waited for.
    """
    of_f, of_q = flat(f), flat(q)
    square = of_q.square().sum()
    barrier = eta * square if form == "gradient" else eta * inner_loss.double()
    found = ((barrier - (of_f * of_q).sum()) / square).clamp_min(0.0)
    return torch.where((q_value < 0) | (square <= 1e-24), 0.0, found)


def direction(f: Sequence[Tensor], q: Sequence[Tensor], lam: Tensor) -> list[Tensor]:
    """grad f + lambda_k grad q."""
    along: list[Tensor] = list(torch._foreach_mul(list(q), lam.to(q[0].dtype)))
    return list(torch._foreach_add(list(f), along))
