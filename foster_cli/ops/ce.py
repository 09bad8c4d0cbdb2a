"""The op `softmax_ce`, the cross-entropy of targets among all items or a sample of them."""

from __future__ import annotations

import torch
from torch import Tensor

from foster_cli.ops import native, reference


def softmax_ce(H: Tensor, E: Tensor, target: Tensor, correction: Tensor | None = None) -> Tensor:
    """The mean over rows of log sum_c exp(H . E_c + correction_c) - H . E_target, in nats: a scalar.

    H (r, d), E (s, d), target (r,) int64, correction (s,); a row's target has no correction. The gradients to H and E
    are computed with the loss, in blocks of rows, so the scores are never kept. Raises RuntimeError for shapes or
    targets that do not fit (on a GPU a target outside the items gives NaN), FosterError as `native.enabled`.
    """
    if not native.use(H, E) or (correction is not None and correction.requires_grad):
        return reference.softmax_ce(H, E, target, correction)
    gradients = torch.is_grad_enabled() and (H.requires_grad or E.requires_grad)
    loss: Tensor = torch.ops.foster.softmax_ce(H, E, target, correction, gradients)[0]
    return loss


def _fake(
    H: Tensor, E: Tensor, target: Tensor, correction: Tensor | None = None, gradients: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    dH, dE = (x.new_empty(x.shape if gradients else (0,)) for x in (H, E))
    return H.new_empty((), dtype=native.accumulate_dtype(H)), dH, dE


@native.on_load
def _register() -> None:
    torch.library.register_fake("foster::softmax_ce", _fake)
