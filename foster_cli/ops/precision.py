"""The precision of matrix products: fp32 throughout, or bf16 if a run asks for it (`--precision`).

`bf16` has two effects. The trainable layers of the text encoder run under autocast (`models.encoder`). On a CPU, fp32
products also go to oneDNN, which may round their inputs to bf16 if the processor has tile units for it. If it has
none, oneDNN computes in fp32, on AMD about twice as fast as MKL. Ranking is always in fp32.
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
    """Set the precision of oneDNN's fp32 products. Torch before 2.9 has no such switch and always uses fp32."""
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
    """Run a block at `precision`. Raises FosterError for bf16 on any device but a CPU or a CUDA GPU."""
    if precision == "fp32":
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise FosterError(f"--precision {precision}: not on {device.type}", "use --precision fp32")
    if device.type == "cuda":
        yield
        return
    # Fused CPU attention computes many tiny products, 12 times slower through oneDNN; unfused attention computes few.
    with _onednn("bf16"), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def exact() -> Iterator[None]:
    """Compute products in fp32, whatever precision the surrounding run uses."""
    with _onednn("ieee"):
        yield
