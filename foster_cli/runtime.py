"""Device, seeds, optimizers and memory: what every layer needs from the machine.

Random generators are made here from named seeds and passed on; foster never draws from a global generator.
This module imports torch lazily, so that `--help` stays fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def stream_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the random stream `names` of `seed`; streams are independent of each other."""
    text = ":".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the random stream `names` of `seed`; foster draws on the CPU for every device."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *names))


def pick_device(name: str) -> torch.device:
    """The device `name`; `auto` is CUDA if available, else the CPU. Raises FosterError for an unavailable device."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise FosterError(f"--device {name}: no such device", "use cpu, cuda, cuda:0, mps or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FosterError(f"--device {name}: torch sees no CUDA device here", "use --device cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise FosterError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices", "use cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise FosterError(f"--device {name}: torch sees no MPS device here", "use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise FosterError(f"--device {name}: not supported", "use cpu, cuda, mps or auto")
    return device


def adamw(groups: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW, in its fused form on devices that have it (CPU and CUDA); on CUDA a graph may hold its steps."""
    import torch

    groups = list(groups)
    first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
    kind = first.device.type
    return torch.optim.AdamW(
        groups, lr=lr, weight_decay=weight_decay, fused=kind in ("cpu", "cuda"), capturable=kind == "cuda"
    )


def set_gradients(parameters: Sequence[torch.nn.Parameter], gradients: Sequence[torch.Tensor]) -> None:
    """Give each parameter its gradient, in the parameter's layout: a fused optimizer takes both as flat memory."""
    import torch

    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`x` on `device`. A CUDA device gets it from pinned memory, and nobody waits for it."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


#: Words in the plain RuntimeErrors that torch's allocators raise when memory runs out.
_FULL = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out: Python's, a GPU's, or torch's on the CPU."""
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)
    return full or isinstance(error, (MemoryError, OutOfMemory))


def reset_peak() -> None:
    """Restart the count of peak memory, for CUDA's allocator and, if Linux permits it, for the process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or not permitted: the peak is then since the process began
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB since `reset_peak`: of the CUDA allocator on a GPU, else the process's resident memory."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def machine() -> dict[str, Any]:
    """The machine and library versions, recorded beside every measured number."""
    import numpy
    import torch
    import transformers

    from foster_cli.version import __version__

    return {
        "foster": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "ops": os.environ.get("FOSTER_OPS", "auto"),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} x{os.cpu_count()}"
    return f"{platform.processor() or platform.machine()} x{os.cpu_count()}"
