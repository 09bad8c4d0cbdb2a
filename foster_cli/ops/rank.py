"""The op `rank_counts`, from which the rank of each row's target among all items follows; it has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from foster_cli.ops import native, reference


def rank_counts(
    H: Tensor, E: Tensor, target: Tensor, seen: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """For each row of H (R, d): how many of the n items of E (n, d) score above, and equal to, its target (R,).

    Returns `greater` and `equal` (R,) int64; neither counts the target itself. `seen` = (items, offsets): row r does
    not count items[offsets[r] : offsets[r+1]]. Raises ValueError for NaN or Inf, because such scores have no order,
    RuntimeError for shapes or targets that do not fit, FosterError as `native.enabled`.
    """
    if not native.use(H, E):
        return reference.rank_counts(H, E, target, seen)
    reference.check_finite(H, E)
    items, offsets = seen if seen is not None else (None, None)
    return torch.ops.foster.rank_counts(H, E, target, items, offsets)


def _fake(
    H: Tensor, E: Tensor, target: Tensor, seen_items: Tensor | None = None, seen_offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(target), torch.empty_like(target)


@native.on_load
def _register() -> None:
    torch.library.register_fake("foster::rank_counts", _fake)
