"""A loss on real windows and its gradient, a few windows at a time, so that memory does not grow with the batch.

In: the items that the windows read, a loss of the windows a to b, the recommender. Out: the loss as a number and its
gradient (`Gradient`). Small parts also keep the activations in the processor's cache. Parts change the order of the
sums over positions, so results agree with those of one part up to rounding; if one part holds all windows, they are
bit-identical. If memory does not hold a part, half as many windows are tried, with a note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.errors import OutOfMemory
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import out_of_memory
from foster_cli.train.batch import RealBatch, real_loss

#: Elements of one activation (windows x positions x width) in a part.
ELEMENTS = 1 << 21
#: Positions of a part for each thread of a CPU: more do not fit its cache, even at a small width. At width 32 an outer
#: step on 4,096 windows of 50 takes 1.21 s in such parts and 1.48 s in parts of `ELEMENTS`.
CPU_POSITIONS = 8192


def rows_at_once(length: int, width: int, device: torch.device) -> int:
    """The default number of windows of `length` positions in a part; at least 1."""
    positions = ELEMENTS // width
    if device.type == "cpu":
        positions = min(positions, CPU_POSITIONS * torch.get_num_threads())
    return max(1, positions // length)


@dataclass
class Micro:
    """The number of windows in a part: `rows`, or by `rows_at_once` if None. If memory does not hold them, `rows` is
    halved for good, and `note` is called with a message."""

    rows: int | None = None
    note: Callable[[str], None] = lambda text: None

    def shrink(self, rows: int) -> int:
        """Use half of `rows` from now on, and return it. Raises OutOfMemory if even one window does not fit."""
        if rows == 1:
            raise OutOfMemory(
                "out of memory with one real window at a time", "use a smaller --width or fewer --train-layers"
            )
        self.rows = rows // 2
        self.note(f"out of memory with {rows} real windows at a time; continuing with {self.rows}, to the same result")
        return self.rows


@dataclass(frozen=True)
class Gradient:
    """A loss `value` (a mean over all windows or positions), its `parts` by name and its gradient to each parameter.

    The numbers are scalars on the device, which nobody has waited for.
    """

    value: Tensor
    parts: dict[str, Tensor]
    gradients: list[Tensor]


#: Maps embeddings E and windows a to b to their loss and its parts, both weighted by the windows' share of the batch.
PartLoss = Callable[[Tensor, int, int], tuple[Tensor, dict[str, Tensor]]]


def gradient_in_parts(
    phi: Recommender, items: Tensor, count: int, length: int, loss: PartLoss, micro: Micro | None = None
) -> Gradient:
    """The gradient of a loss over `count` windows of `length` positions to the trainable parameters of `phi`.

    `phi` embeds `items` (u,) once; `loss` gets these embeddings and must be additive over windows. First derivatives
    only. Raises OutOfMemory if memory does not hold a single window.
    """
    micro = micro or Micro()
    rows = min(micro.rows or rows_at_once(length, phi.width, items.device), count)
    while True:
        try:
            return _in_parts(phi, items, count, loss, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        rows = micro.shrink(rows)  # outside the `except`, so that the memory of the failed try is freed
        if items.is_cuda:
            torch.cuda.empty_cache()


def _in_parts(phi: Recommender, items: Tensor, count: int, loss: PartLoss, rows: int) -> Gradient:
    """`gradient_in_parts` with `rows` windows in a part."""
    parameters = [p for p in phi.parameters() if p.requires_grad]
    with torch.enable_grad():
        E = phi.embed(items)
    leaf = E.detach().requires_grad_()
    over = [*parameters, leaf]
    found: list[Tensor | None] = [None] * len(over)
    total = torch.zeros((), dtype=torch.float64, device=items.device)
    parts: dict[str, Tensor] = {}
    for a in range(0, count, rows):
        with torch.enable_grad():
            value, named = loss(leaf, a, min(a + rows, count))
        total = total + value.detach()
        for name, number in named.items():
            parts[name] = parts[name] + number if name in parts else number
        given = torch.autograd.grad(value, over, allow_unused=True)
        found = [g if f is None else f if g is None else f + g for f, g in zip(found, given, strict=True)]
    return Gradient(total, parts, _through(E, found.pop(), parameters, found))


def _through(
    E: Tensor, up: Tensor | None, parameters: list[torch.nn.Parameter], found: list[Tensor | None]
) -> list[Tensor]:
    """`found` plus the gradients `up` propagated through the embeddings E to `parameters`; zeros if there are none."""
    through: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if up is not None and E.requires_grad:
        through = torch.autograd.grad(E, parameters, up, allow_unused=True)
    both = [[g for g in pair if g is not None] for pair in zip(found, through, strict=True)]
    return [sum(pair[1:], pair[0]) if pair else torch.zeros_like(p) for pair, p in zip(both, parameters, strict=True)]


def _part(batch: RealBatch, a: int, b: int) -> RealBatch:
    """Windows a to b of the batch; their negatives are cut too if they are per position."""
    if a == 0 and b == len(batch.inputs):
        return batch
    first, last = int(batch.counts[:a].sum()), int(batch.counts[:b].sum())
    negatives = batch.negatives[first:last] if batch.per_position else batch.negatives
    goals = None if batch.goals is None else batch.goals[a:b]
    return replace(
        batch, inputs=batch.inputs[a:b], targets=batch.targets[a:b], valid=batch.valid[a:b], negatives=negatives,
        goals=goals, places=batch.places[first:last] - a * batch.inputs.shape[1], counts=batch.counts[a:b],
    )  # fmt: skip


def outer_real(
    phi: Recommender, teacher: Recommender, batch: RealBatch, loss: str, alpha: float, micro: Micro | None = None
) -> Gradient:
    """L_BCE + alpha mean |h_phi - h_real|^2 (Eq. 16, 17), means over all valid positions, and its gradient to phi.

    `loss`: `bce` or `softmax`. Parts: `outer_real`, `outer_feature`. Raises OutOfMemory like `gradient_in_parts`.
    """
    with torch.no_grad():
        E_real = teacher.embed(batch.unique) if alpha > 0 else None
    positions, (count, length) = int(batch.counts.sum()), batch.inputs.shape

    def part_loss(E: Tensor, a: int, b: int) -> tuple[Tensor, dict[str, Tensor]]:
        part = _part(batch, a, b)
        share = int(part.counts.sum()) / positions
        H = phi.at(E[part.inputs], part.places)
        value = base = real_loss(H, E, part, loss)
        parts = {"outer_real": share * base.detach(), "outer_feature": base.new_zeros(())}
        if E_real is not None:
            with torch.no_grad():
                H_real = teacher.at(E_real[part.inputs], part.places)
            apart = F.mse_loss(H, H_real)
            value = base + alpha * apart
            parts["outer_feature"] = share * apart.detach()
        return value * share, parts

    return gradient_in_parts(phi, batch.unique, count, length, part_loss, micro)
