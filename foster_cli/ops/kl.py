"""The op `soft_kl`, the row-wise KL divergence between two softmax distributions over the same items."""

from __future__ import annotations

import torch
from torch import Tensor

from foster_cli.ops import native, reference


def soft_kl(Q: Tensor, V_S: Tensor, H: Tensor, E_S: Tensor) -> Tensor:
    """KL(softmax(Q V_S^T) || softmax(H E_S^T)) per row (...,) in nats (Eq. 20, 21).

    Q (..., w), V_S (s, w), H (..., d), E_S (s, d), with s items. There are gradients to Q, H and E_S; if V_S requires
    one too, plain PyTorch computes the op. Raises RuntimeError for shapes that do not fit, FosterError as
    `native.enabled`.
    """
    if not native.use(Q, V_S, H, E_S) or V_S.requires_grad:
        return reference.soft_kl(Q, V_S, H, E_S)
    save_scores = torch.is_grad_enabled() and (Q.requires_grad or H.requires_grad or E_S.requires_grad)
    rows_Q, rows_H = Q.reshape(-1, Q.shape[-1]), H.reshape(-1, H.shape[-1])
    loss, *_ = torch.ops.foster.soft_kl(rows_Q, V_S, rows_H, E_S, save_scores)
    return loss.view(Q.shape[:-1])


def _fake(Q: Tensor, V: Tensor, H: Tensor, E: Tensor, save_scores: bool = False) -> tuple[Tensor, ...]:
    rows = (Q.new_empty(len(Q), dtype=native.accumulate_dtype(Q)) for _ in range(4))
    return *rows, native.fake_saved(Q, V, save_scores, 2)


def _fake_backward(
    grad: Tensor, Q: Tensor, V: Tensor, H: Tensor, E: Tensor, mean_diff: Tensor, lse_Q: Tensor, lse_H: Tensor,
    saved: Tensor, need_Q: bool, need_H: bool, need_E: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dQ, dH, dE = (x.new_empty(x.shape if need else (0,)) for x, need in ((Q, need_Q), (H, need_H), (E, need_E)))
    return dQ, dH, dE


@native.on_load
def _register() -> None:
    torch.library.register_fake("foster::soft_kl", _fake)
    torch.library.register_fake("foster::soft_kl_backward", _fake_backward)
