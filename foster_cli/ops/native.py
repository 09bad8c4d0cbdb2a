"""The C++ extension: found, checked, loaded; fake kernels and autograd for its ops (`torch.ops.foster`).

In: matrices Q, H (r, d), V, E (s, d) as in `reference`. The backward passes compute the scores again instead of
keeping them, except for small ones on a CPU (`keep`). Where a graph of them is asked for (second derivatives), they go
through `reference`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foster_cli.ops import reference

FOLDER = Path(__file__).parent.parent
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
#: csrc/cpu/tiles.h: up to this many scores a forward keeps for its backward.
KEPT = 1 << 22


def built_against() -> dict[str, Any] | None:
    """What the extension's build wrote about itself (`extension.py`); None where nothing was built."""
    record = FOLDER / "_C.json"
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else None


def short(version: str) -> str:
    """`2.13.0+cpu` -> `2.13`: an extension fits one minor version of torch."""
    return ".".join(version.split("+")[0].split(".")[:2])


@cache
def load() -> str | None:
    """Load the extension, once. Returns None, or the reason why it is not there."""
    record = built_against()
    if record is None:
        return "it was not built (foster build-ext, with a C++ compiler there)"
    if short(record["torch"]) != short(torch.__version__):
        return f"it was built against torch {record['torch']}, this is {torch.__version__} (foster build-ext)"
    try:
        importlib.import_module("foster_cli._C")
    except ImportError as error:
        return f"it cannot be loaded: {' '.join(str(error).split())[:200]}"
    _register()
    return None


@cache
def without_cuda(index: int = 0) -> str | None:
    """Why the kernels cannot run on CUDA device `index`; None where they can."""
    record = built_against() or {}
    if record.get("cuda") is None:
        reason = record.get("without_cuda", "the extension is older than they are")
        return f"it was built without CUDA kernels: {reason} (foster build-ext)"
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"its CUDA kernels need compute capability 8.0, this GPU has {major}.{minor}"
    return None


def missing_for(device: torch.device) -> str | None:
    """Why the extension, once loaded, has no code for `device`; None where it has."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return without_cuda(device.index or 0)
    return f"it has no code for {device.type}"


def fits(*tensors: Tensor) -> bool:
    """Whether the extension has code for these: one type of float, all on one device that it knows."""
    first = tensors[0]
    same = all(t.device == first.device and t.dtype == first.dtype for t in tensors)
    return same and first.dtype in DTYPES and missing_for(first.device) is None


def _sums(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _twice(
    definition: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `definition` to the inputs that need them, with a graph of their own.

    Taken at aliases: where one input was made from another (H from E), a gradient to the latter must not go through
    the former, which the graph outside does already.
    """
    inputs = [x.view_as(x) for x in inputs]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(definition(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


@cache
def _register() -> None:
    """Shapes for tracing, and gradients. torch wants plain functions, so they stand here."""
    ops = torch.ops.foster

    def kept(Q: Tensor, V: Tensor, keep: bool, kinds: int) -> Tensor:
        there = keep and Q.device.type == "cpu" and 0 < len(Q) * len(V) <= KEPT
        return Q.new_empty((kinds, len(Q), len(V)) if there else (0,), dtype=_sums(Q))

    @torch.library.register_fake("foster::soft_embed")
    def _(Q: Tensor, V: Tensor, E: Tensor, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        return E.new_empty(len(Q), E.shape[1]), Q.new_empty(len(Q), dtype=_sums(Q)), kept(Q, V, keep, 1)

    @torch.library.register_fake("foster::soft_embed_backward")
    def _(
        grad: Tensor, Q: Tensor, V: Tensor, E: Tensor, X: Tensor, lse: Tensor, kept: Tensor, need_Q: bool, need_E: bool
    ) -> tuple[Tensor, Tensor]:
        return Q.new_empty(Q.shape if need_Q else (0,)), E.new_empty(E.shape if need_E else (0,))

    @torch.library.register_fake("foster::soft_kl")
    def _(Q: Tensor, V: Tensor, H: Tensor, E: Tensor, keep: bool = False) -> tuple[Tensor, ...]:
        return (*(Q.new_empty(len(Q), dtype=_sums(Q)) for _ in range(4)), kept(Q, V, keep, 2))

    @torch.library.register_fake("foster::soft_kl_backward")
    def _(
        grad: Tensor, Q: Tensor, V: Tensor, H: Tensor, E: Tensor, centre: Tensor, lse_Q: Tensor, lse_H: Tensor,
        kept: Tensor, need_Q: bool, need_H: bool, need_E: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        a, b, c = (x.new_empty(x.shape if need else (0,)) for x, need in ((Q, need_Q), (H, need_H), (E, need_E)))
        return a, b, c

    @torch.library.register_fake("foster::rank_counts")
    def _(
        H: Tensor, E: Tensor, target: Tensor, seen_items: Tensor | None = None, seen_offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return torch.empty_like(target), torch.empty_like(target)

    def keep_embed(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.mark_non_differentiable(*output[1:])

    def embed_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed, rest = ctx.needs_input_grad[:3], (None,) * (len(ctx.needs_input_grad) - 3)
        if torch.is_grad_enabled():
            return *_twice(reference.soft_embed, ctx.saved_tensors[:3], needed, grad), *rest
        dQ, dE = ops.soft_embed_backward(grad, *ctx.saved_tensors, needed[0], needed[2])
        return dQ if needed[0] else None, None, dE if needed[2] else None, *rest

    def keep_kl(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    def kl_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed, rest = ctx.needs_input_grad[:4], (None,) * (len(ctx.needs_input_grad) - 4)
        if torch.is_grad_enabled():
            return *_twice(reference.soft_kl, ctx.saved_tensors[:4], needed, grad), *rest
        dQ, dH, dE = ops.soft_kl_backward(grad, *ctx.saved_tensors, needed[0], needed[2], needed[3])
        return dQ if needed[0] else None, None, dH if needed[2] else None, dE if needed[3] else None, *rest

    torch.library.register_autograd("foster::soft_embed", embed_backward, setup_context=keep_embed)
    torch.library.register_autograd("foster::soft_kl", kl_backward, setup_context=keep_kl)
