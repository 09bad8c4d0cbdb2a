"""The real part of the outer loss and its gradient, some windows at a time: L_BCE + alpha |h_phi - h_real|^2.

In: a `RealBatch` of B windows, phi, the teacher M. Out: the loss as a tensor that knows its gradient to phi. Memory is
that of `rows` windows, whatever B is, and what a layer reads is still in the processor's cache when it is read. Sums
over positions are taken in another order than at once, so results agree up to rounding; with `rows` >= B they are the
same bits. Where memory does not hold `rows` windows, half as many are tried, and it is said once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from foster_cli.errors import OutOfMemory
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import out_of_memory
from foster_cli.train.fit import RealBatch, real_loss

#: Numbers in one activation (windows x positions x width) that is worked on at once.
ELEMENTS = 1 << 21
#: Positions that each thread of a CPU works on at once: where they are narrow, its cache holds no more. At width 32 an
#: outer step on 4,096 windows of 50 takes 1.21 s in such parts and 1.48 s in parts of `ELEMENTS`.
CPU_POSITIONS = 8192


def rows_at_once(length: int, width: int, device: torch.device) -> int:
    """How many windows of `length` positions are worked on at once where nothing else is said; at least 1."""
    positions = ELEMENTS // width
    if device.type == "cpu":
        positions = min(positions, CPU_POSITIONS * torch.get_num_threads())
    return max(1, positions // length)


@dataclass
class Micro:
    """How many windows are worked on at once; `rows` None: what `rows_at_once` says. `note`
    hears of it where memory does not hold them, and `rows` is halved for good."""

    rows: int | None = None
    note: Callable[[str], None] = lambda text: None

    def shrink(self, rows: int) -> int:
        """Half of `rows`, from now on. Raises OutOfMemory where not even one window fits."""
        if rows == 1:
            raise OutOfMemory(
                "out of memory with one real window at a time", "use a smaller --width or fewer --train-layers"
            )
        self.rows = rows // 2
        self.note(f"out of memory with {rows} real windows at a time; going on with {self.rows}, to the same result")
        return self.rows


class _Known(torch.autograd.Function):
    """A scalar whose gradient to `parameters` has been computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *up: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g * up[0] for g in ctx.gradients)


def _part(batch: RealBatch, a: int, b: int) -> RealBatch:
    """Windows a to b of the batch, with their negatives where each position has its own."""
    negatives = batch.negatives
    if batch.per_position:
        before = int(batch.valid[:a].sum())
        negatives = negatives[before : before + int(batch.valid[a:b].sum())]
    return RealBatch(
        batch.unique, batch.inputs[a:b], batch.targets[a:b], batch.valid[a:b], negatives, batch.per_position
    )


def outer_real(
    phi: Recommender, teacher: Recommender, batch: RealBatch, loss: str, alpha: float, micro: Micro | None = None
) -> tuple[Tensor, float, float]:
    """L_BCE + alpha |h_phi - h_real|^2 (Eq. 16, 17), means over all valid positions: a scalar with its gradient to
    phi's parameters (first derivatives alone), and the two parts as numbers. `loss`: `bce` or `softmax`.

    Raises OutOfMemory where memory does not hold a single window.
    """
    micro = micro or Micro()
    count, length = batch.inputs.shape
    rows = min(micro.rows or rows_at_once(length, phi.width, batch.inputs.device), count)
    while True:
        try:
            return _outer_real(phi, teacher, batch, loss, alpha, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        rows = micro.shrink(rows)  # out of the `except`, so that nothing of the failed try is held
        if batch.inputs.is_cuda:
            torch.cuda.empty_cache()


def _outer_real(
    phi: Recommender, teacher: Recommender, batch: RealBatch, loss: str, alpha: float, rows: int
) -> tuple[Tensor, float, float]:
    """`outer_real`, `rows` windows at a time."""
    count = len(batch.inputs)
    parameters = [p for p in phi.parameters() if p.requires_grad]
    with torch.enable_grad():
        E = phi.embed(batch.unique)
    leaf = E.detach().requires_grad_()
    over = [*parameters, leaf]
    with torch.no_grad():
        E_real = teacher.embed(batch.unique) if alpha > 0 else leaf
    total = torch.zeros((), device=E.device, dtype=E.dtype)
    found: list[Tensor | None] = [None] * len(over)
    real = feature = 0.0
    positions = int(batch.valid.sum())
    for a in range(0, count, rows):
        part = _part(batch, a, min(a + rows, count))
        share = int(part.valid.sum()) / positions
        with torch.enable_grad():
            H = phi.at(leaf[part.inputs], part.valid)
            base = real_loss(H, leaf, part, loss)
            value = base
            if alpha > 0:
                with torch.no_grad():
                    H_real = teacher.at(E_real[part.inputs], part.valid)
                apart = F.mse_loss(H, H_real)
                value = base + alpha * apart
                feature += share * apart.item()
            value = value * share
        real += share * base.item()
        total += value.detach()
        given = torch.autograd.grad(value, over, allow_unused=True)
        found = [g if f is None else f if g is None else f + g for f, g in zip(found, given, strict=True)]
    gradients = _through(E, found.pop(), parameters, found)
    return cast(Tensor, _Known.apply(total, gradients, *parameters)), real, feature


def _through(E: Tensor, up: Tensor | None, parameters: list[Any], found: list[Tensor | None]) -> list[Tensor]:
    """The gradients `found`, with what reaches `parameters` through the embeddings E; zeros where nothing does."""
    through: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if up is not None and E.requires_grad:
        through = torch.autograd.grad(E, parameters, up, allow_unused=True)
    both = [[g for g in pair if g is not None] for pair in zip(found, through, strict=True)]
    return [sum(pair[1:], pair[0]) if pair else torch.zeros_like(p) for pair, p in zip(both, parameters, strict=True)]
