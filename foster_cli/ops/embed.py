"""The op `soft_embed`, the probability-weighted item embedding, and its composition with the Tucker product."""

from __future__ import annotations

import torch
from torch import Tensor

from foster_cli.ops import native, reference

#: Scores up to which plain PyTorch is as fast on a CPU, and takes at most 0.4 GiB. On a GPU it always is (docs/ops.md).
PLAIN = 1 << 25


def soft_embed(Q: Tensor, V_S: Tensor, E_S: Tensor) -> Tensor:
    """X (..., d) = softmax(Q V_S^T) E_S: the probability-weighted item embedding (Eq. 3, 19).

    Q (..., w), V_S (s, w), E_S (s, d), with s items. There are gradients to Q and E_S; if V_S requires one too, plain
    PyTorch computes the op. Raises RuntimeError for shapes that do not fit, FosterError as `native.enabled`.
    """
    if not native.use(Q, V_S, E_S, faster=_faster(Q.shape[:-1].numel(), V_S)) or V_S.requires_grad:
        return reference.soft_embed(Q, V_S, E_S)
    return _native(Q, V_S, E_S)[0]


def tucker_embed(U: Tensor, T: Tensor, G: Tensor, V_S: Tensor, E_S: Tensor) -> tuple[Tensor, Tensor]:
    """`soft_embed` of the Tucker product Q = `tucker(U, T, G)` (Eq. 2, 3, 19): X (M, L, d) and its lse (M, L).

    U (M, d1), T (L, d2), G (d1, d2, w), V_S (s, w), E_S (s, d). The probabilities P are not stored; the entry for
    item i of S is exp(Q . V_S[i] - lse). X has gradients to U, T, G and E_S, lse has none. Raises as `soft_embed`.
    """
    if not native.use(U, T, G, V_S, E_S, faster=_faster(len(U) * len(T), V_S)) or V_S.requires_grad:
        return reference.tucker_embed(U, T, G, V_S, E_S)
    return _native(reference.tucker(U, T, G), V_S, E_S)


def _faster(rows: int, V: Tensor) -> bool:
    return not V.is_cuda and rows * len(V) > PLAIN


def _native(Q: Tensor, V: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    save_scores = torch.is_grad_enabled() and (Q.requires_grad or E.requires_grad)
    X, lse, _ = torch.ops.foster.soft_embed(Q.reshape(-1, Q.shape[-1]), V, E, save_scores)
    return X.view(*Q.shape[:-1], E.shape[1]), lse.view(Q.shape[:-1])


def _fake(Q: Tensor, V: Tensor, E: Tensor, save_scores: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    lse = Q.new_empty(len(Q), dtype=native.accumulate_dtype(Q))
    return E.new_empty(len(Q), E.shape[1]), lse, native.fake_saved(Q, V, save_scores, 1)


def _fake_backward(
    grad: Tensor, Q: Tensor, V: Tensor, E: Tensor, X: Tensor, lse: Tensor, saved: Tensor, need_Q: bool, need_E: bool
) -> tuple[Tensor, Tensor]:
    return Q.new_empty(Q.shape if need_Q else (0,)), E.new_empty(E.shape if need_E else (0,))


@native.on_load
def _register() -> None:
    torch.library.register_fake("foster::soft_embed", _fake)
    torch.library.register_fake("foster::soft_embed_backward", _fake_backward)
