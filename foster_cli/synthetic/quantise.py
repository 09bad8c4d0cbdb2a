"""The item factor in few bits: V (n, d) as codes of 8 bits, or as numbers of 16, whichever loses little enough.

In: V, and a measure of a rounded V. Out: the tensors that store it. A set is made with what they restore, so that a
bundle holds exactly what its set was made with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: The share of the measure that rounding may lose.
LOSS = 0.01
#: Codes of 8 bits, each column from its smallest to its largest value.
CODES = 255


def coded(V: Tensor) -> dict[str, Tensor]:
    """`codes` (n, d) uint8, and `low`, `step` (d,) float32: V is about low + codes * step."""
    low, high = V.min(dim=0).values, V.max(dim=0).values
    step = ((high - low) / CODES).clamp_min(torch.finfo(torch.float32).tiny)
    codes = ((V - low) / step).round().clamp(0, CODES).to(torch.uint8)
    return {"codes": codes, "low": low, "step": step}


def stored(V: Tensor, bits: int) -> dict[str, Tensor]:
    """The tensors that store V with `bits` per number: 8 (`coded`), 16 or 32 (`V`)."""
    if bits == 8:
        return coded(V)
    return {"V": V.half() if bits == 16 else V}


def restored(tensors: dict[str, Tensor]) -> Tensor:
    """V (n, d) in fp32 from what `stored` made."""
    if "codes" in tensors:
        return tensors["low"] + tensors["codes"].float() * tensors["step"]
    return tensors["V"].float() if tensors["V"].dtype == torch.float16 else tensors["V"]


def rounded(V: Tensor, measure: Callable[[Tensor], float]) -> dict[str, Tensor]:
    """The tensors of V in the fewest bits with which `measure` of the rounded V loses less than `LOSS` of its value."""
    least = (1.0 - LOSS) * measure(V)
    for bits in (8, 16):
        tensors = stored(V, bits)
        found = restored(tensors)
        if bool(torch.isfinite(found).all()) and measure(found) >= least:
            return tensors
    return stored(V, 32)
