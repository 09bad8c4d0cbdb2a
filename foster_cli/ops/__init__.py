"""The hot path's operations: by the C++ extension where it is there and fits, else by plain PyTorch.

`FOSTER_OPS=auto|native|reference` decides. `reference` holds the definitions; both give the same numbers up to
rounding.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

from foster_cli.errors import FosterError
from foster_cli.ops import native, reference
from foster_cli.ops.reference import tucker

__all__ = ["fallback", "rank_counts", "soft_embed", "soft_kl", "tucker", "tucker_embed"]

CHOICES = ("auto", "native", "reference")


@cache
def _use_native(choice: str) -> bool:
    if choice not in CHOICES:
        raise FosterError(f"FOSTER_OPS={choice}: not a choice", f"use one of {', '.join(CHOICES)}")
    if choice == "reference":
        return False
    reason = native.load()
    if reason is not None and choice == "native":
        raise FosterError(f"FOSTER_OPS=native: the C++ extension is not there: {reason}", "use FOSTER_OPS=auto")
    return reason is None


def _native() -> bool:
    return _use_native(os.environ.get("FOSTER_OPS", "auto"))


def fallback(device: torch.device) -> str | None:
    """Why plain PyTorch does the work on `device` though nobody asked for it; None where it does not, or somebody did.

    Raises FosterError for a `FOSTER_OPS` that cannot be met.
    """
    if not _native():
        return None if os.environ.get("FOSTER_OPS") == "reference" else native.load()
    reason = native.missing_for(device)
    if reason is not None and os.environ.get("FOSTER_OPS") == "native":
        raise FosterError(f"FOSTER_OPS=native: not on {device}: {reason}", "use FOSTER_OPS=auto")
    return reason


def soft_embed(Q: Tensor, V_S: Tensor, E_S: Tensor) -> Tensor:
    """X (..., d) = softmax(Q V_S^T) E_S: the probability-weighted item embedding (Eq. 3, 19).

    Q (..., w), V_S (s, w), E_S (s, d). Gradients to Q and E_S; to V_S only by plain PyTorch.
    """
    if not (_native() and native.fits(Q, V_S, E_S)) or V_S.requires_grad:
        return reference.soft_embed(Q, V_S, E_S)
    return _soft_embed(Q, V_S, E_S)[0]


def _soft_embed(Q: Tensor, V_S: Tensor, E_S: Tensor) -> tuple[Tensor, Tensor]:
    keep = torch.is_grad_enabled() and (Q.requires_grad or E_S.requires_grad)
    X, lse, _ = torch.ops.foster.soft_embed(Q.reshape(-1, Q.shape[-1]), V_S, E_S, keep)
    return X.view(*Q.shape[:-1], E_S.shape[1]), lse.view(Q.shape[:-1])


def tucker_embed(U: Tensor, T: Tensor, G: Tensor, V_S: Tensor, E_S: Tensor) -> tuple[Tensor, Tensor]:
    """Sampled Tucker reconstruction and embedding in one (Eq. 2, 3, 19): X (M, L, d) and lse (M, L).

    U (M, d1), T (L, d2), G (d1, d2, w), V_S (s, w), E_S (s, d). P itself is never held; its entry for item i of S is
    exp(Q . V_S[i] - lse). Gradients of X to U, T, G and E_S; lse has none.
    """
    if not (_native() and native.fits(U, T, G, V_S, E_S)) or V_S.requires_grad:
        return reference.tucker_embed(U, T, G, V_S, E_S)
    return _soft_embed(tucker(U, T, G), V_S, E_S)


def soft_kl(Q: Tensor, V_S: Tensor, H: Tensor, E_S: Tensor) -> Tensor:
    """KL(softmax(Q V_S^T) || softmax(H E_S^T)) per row (...,) in nats (Eq. 20, 21).

    Q (..., w), V_S (s, w), H (..., d), E_S (s, d). Gradients to Q, H and E_S; to V_S only by plain PyTorch.
    """
    if not (_native() and native.fits(Q, V_S, H, E_S)) or V_S.requires_grad:
        return reference.soft_kl(Q, V_S, H, E_S)
    keep = torch.is_grad_enabled() and (Q.requires_grad or H.requires_grad or E_S.requires_grad)
    loss, *_ = torch.ops.foster.soft_kl(Q.reshape(-1, Q.shape[-1]), V_S, H.reshape(-1, H.shape[-1]), E_S, keep)
    return loss.view(Q.shape[:-1])


def rank_counts(
    H: Tensor, E: Tensor, target: Tensor, seen: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """For each row of H (R, d): how many of the n items of E (n, d) score above, and equal to, its target (R,).

    Returns `greater`, `equal` (R,) int64; the target itself is counted in neither. `seen` = (items, offsets):
    items[offsets[r] : offsets[r+1]] are left out of row r. Raises ValueError on NaN or Inf, which no ranking
    survives.
    """
    if not (_native() and native.fits(H, E)):
        return reference.rank_counts(H, E, target, seen)
    reference.check_finite(H, E)
    items, offsets = seen if seen is not None else (None, None)
    return torch.ops.foster.rank_counts(H, E, target, items, offsets)
