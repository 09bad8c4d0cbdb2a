"""The C++ extension: finding, checking and loading it, choosing it, and what the Python files of its ops share.

Once `foster_cli._C` is loaded, its ops are found under `torch.ops.foster`. Each has one file here (`embed`, `kl`,
`ce`, `rank`) with its wrapper and its fake kernels. The extension may be missing and is loaded late, so those files
register fake kernels through `on_load`.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foster_cli.errors import FosterError

CHOICES = ("auto", "native", "reference")
FOLDER = Path(__file__).parent.parent
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
#: kMaxSaved in csrc/cpu/tiles.h: a forward saves at most this many scores for its backward.
MAX_SAVED = 1 << 22

_registrations: list[Callable[[], None]] = []


def on_load(register: Callable[[], None]) -> Callable[[], None]:
    """Decorator: `register` is called once per process, when the extension is loaded."""
    _registrations.append(cache(register))
    return register


def built_against() -> dict[str, Any] | None:
    """The record that the extension's build wrote about itself (`extension.py`); None if there was no build."""
    record = FOLDER / "_C.json"
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else None


def minor(version: str) -> str:
    """`2.13.0+cpu` -> `2.13`: an extension fits one minor version of torch."""
    return ".".join(version.split("+")[0].split(".")[:2])


@cache
def load() -> str | None:
    """Load the extension, once. Returns None, or the reason why it cannot be used."""
    record = built_against()
    if record is None:
        return "it was not built (foster build-ext, with a C++ compiler there)"
    if minor(record["torch"]) != minor(torch.__version__):
        return f"it was built against torch {record['torch']}, this is {torch.__version__} (foster build-ext)"
    try:
        importlib.import_module("foster_cli._C")
    except ImportError as error:
        return f"it cannot be loaded: {' '.join(str(error).split())[:200]}"
    for register in _registrations:
        register()
    return None


@cache
def without_cuda(index: int = 0) -> str | None:
    """Why the kernels cannot run on CUDA device `index`, or None if they can."""
    record = built_against() or {}
    if record.get("cuda") is None:
        reason = record.get("without_cuda", "the extension is older than they are")
        return f"it was built without CUDA kernels: {reason} (foster build-ext)"
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"its CUDA kernels need compute capability 8.0, this GPU has {major}.{minor}"
    return None


def missing_for(device: torch.device) -> str | None:
    """Why the loaded extension has no code for `device`, or None if it has."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return without_cuda(device.index or 0)
    return f"it has no code for {device.type}"


def fits(*tensors: Tensor) -> bool:
    """Whether the extension has code for these tensors: one supported dtype and one supported device for all."""
    first = tensors[0]
    same = all(t.device == first.device and t.dtype == first.dtype for t in tensors)
    return same and first.dtype in DTYPES and missing_for(first.device) is None


def enabled() -> bool:
    """Whether `FOSTER_OPS` (`auto` by default) allows the extension and it loads.

    Raises FosterError if `FOSTER_OPS` is none of `CHOICES`, or is `native` and the extension does not load.
    """
    choice = os.environ.get("FOSTER_OPS", "auto")
    if choice not in CHOICES:
        raise FosterError(f"FOSTER_OPS={choice}: not a choice", f"use one of {', '.join(CHOICES)}")
    if choice == "reference":
        return False
    reason = load()
    if reason is not None and choice == "native":
        raise FosterError(f"FOSTER_OPS=native: the C++ extension is not there: {reason}", "use FOSTER_OPS=auto")
    return reason is None


def use(*tensors: Tensor, faster: bool = True) -> bool:
    """Whether the extension computes an op on these tensors; plain PyTorch does otherwise. Raises as `enabled`.

    With `FOSTER_OPS=auto`, what the extension does not do faster is left to plain PyTorch.
    """
    return enabled() and (faster or os.environ.get("FOSTER_OPS") == "native") and fits(*tensors)


def fallback(device: torch.device) -> str | None:
    """Why plain PyTorch computes the ops on `device` without having been asked for; None if it was, or does not.

    Raises FosterError if `FOSTER_OPS` cannot be met on `device`.
    """
    if not enabled():
        return None if os.environ.get("FOSTER_OPS") == "reference" else load()
    reason = missing_for(device)
    if reason is not None and os.environ.get("FOSTER_OPS") == "native":
        raise FosterError(f"FOSTER_OPS=native: not on {device}: {reason}", "use FOSTER_OPS=auto")
    return reason


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which the kernels accumulate: float64 for float64, float32 for the others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def max_scores() -> int:
    """The most scores that an op on a GPU has in memory at once (`FOSTER_SCORES_MB`, see csrc/cuda/binding.cpp)."""
    return int(float(os.environ.get("FOSTER_SCORES_MB", "96")) * (1 << 18))


def fake_saved(Q: Tensor, V: Tensor, save_scores: bool, matrices: int) -> Tensor:
    """The shape of what a forward saves: `matrices` matrices (r, s) of scores of a small problem, else empty."""
    r, s, cuda = len(Q), len(V), Q.device.type == "cuda"
    bound = max_scores() // matrices if cuda else MAX_SAVED
    if not save_scores or r == 0 or r * s > bound:
        return Q.new_empty((0,), dtype=Q.dtype if cuda else accumulate_dtype(Q))
    lead = (r,) if cuda and matrices == 1 else (matrices, r)
    if not cuda:
        return Q.new_empty((*lead, s), dtype=accumulate_dtype(Q))
    pack = 16 // Q.element_size()
    return Q.new_empty((*lead, -(-s // pack) * pack))[..., :s]
