"""How exact matrix products are: fp32 throughout, or bf16 where a run asks for it.

`bf16` means two things. The text encoder's layers that learn run under autocast (`models.encoder`). And on a CPU,
fp32 products go to oneDNN, which may round their inputs to bf16 where the processor has tile units for it; where
it has none, it computes in fp32, on AMD about twice as fast as MKL does. Ranking is exact in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from foster_cli.errors import FosterError

PRECISIONS = ("fp32", "bf16")


@contextmanager
def _onednn(value: str) -> Iterator[None]:
    """oneDNN's fp32 products at `value`; torch before 2.9 has no such switch, and stays exact."""
    switch = torch.backends.mkldnn
    if not hasattr(switch, "matmul"):
        yield
        return
    before = switch.matmul.fp32_precision
    switch.matmul.fp32_precision = value
    try:
        yield
    finally:
        switch.matmul.fp32_precision = before


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Run a block at `precision`. Raises FosterError for bf16 where neither CPU nor CUDA runs it."""
    if precision == "fp32":
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise FosterError(f"--precision {precision}: not on {device.type}", "use --precision fp32")
    if device.type == "cuda":
        yield
        return
    # the fused CPU attention makes many tiny products, 12 times slower through oneDNN; the plain form makes few
    with _onednn("bf16"), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def exact() -> Iterator[None]:
    """Products in fp32, whatever the run around asks for."""
    with _onednn("ieee"):
        yield
