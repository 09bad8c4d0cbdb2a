"""The first-order update direction of Eq. 6 and 7 (BOME, Liu et al. 2022) over the joint vector (phi, D~).

In: gradients of f = L_out and of q = L_in(D~, phi) - L_in(D~, sg phi^T), as flat lists of tensors. Out: the
direction and lambda_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """<a, b> summed over all tensors, in float64."""
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


def multiplier(
    f: Sequence[Tensor], q: Sequence[Tensor], eta: float, form: str, q_value: float, inner_loss: float
) -> float:
    """lambda_k = max(0, (phi_k - <grad f, grad q>) / |grad q|^2).

    phi_k is eta |grad q|^2 (`gradient`, Eq. 7) or eta L_in (`loss`, the other form in BOME's code). lambda_k
    is 0 if the constraint has no meaning: q < 0 (the T inner steps made phi worse on D~) or a zero gradient of q.
    """
    square = dot(q, q)
    if q_value < 0 or square <= 1e-24:
        return 0.0
    barrier = eta * square if form == "gradient" else eta * inner_loss
    return max(0.0, (barrier - dot(f, q)) / square)


def direction(f: Sequence[Tensor], q: Sequence[Tensor], lam: float) -> list[Tensor]:
    """grad f + lambda_k grad q."""
    return [torch.add(x, y, alpha=lam) for x, y in zip(f, q, strict=True)]
