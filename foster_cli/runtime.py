"""Device, seeds, hashing, memory and atomic files: what every layer needs from the machine.

Random generators are made here from named seeds and passed on; nothing in foster draws from a global one.
This module imports no torch at import time, so that `--help` stays fast.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError, OutOfMemory

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one named stream of randomness, independent between names."""
    text = ":".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the stream `names` of `seed` (draws are made on the CPU on every device)."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, *names))


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one, else the CPU. Raises FosterError for one that is not there."""
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
    """AdamW, fused where the device has it (CPU and CUDA)."""
    import torch

    groups = list(groups)
    first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=first.device.type in ("cpu", "cuda"))


#: How torch's allocators put it where they raise a plain RuntimeError.
_FULL = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is short: Python's, a GPU's, or torch's on the CPU."""
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)
    return full or isinstance(error, (MemoryError, OutOfMemory))


def reset_peak() -> None:
    """Start counting peak memory afresh (CUDA's allocator, and the process where Linux lets it)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # not Linux, or not permitted: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB since `reset_peak`: of the CUDA allocator on a GPU, resident in the process elsewhere."""
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
    """The machine and library versions, for the record beside every measured number."""
    import numpy
    import torch
    import transformers

    from foster_cli import __version__

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


def cache_dir() -> Path:
    """Where teachers and encoded texts are kept: `FOSTER_CACHE`, else `XDG_CACHE_HOME`/foster, else ~/.cache/foster."""
    if "FOSTER_CACHE" in os.environ:
        return Path(os.environ["FOSTER_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "foster"


@contextmanager
def cache_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a cache entry: one writer at a time. A folder that cannot be written is a FosterError.

    `waiting` is called once where another process holds it. The system frees the lock of a process that is killed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(str(path) + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FosterError(
            f"cannot write the cache {path.parent}: {reason}", "set FOSTER_CACHE to another folder, or give --no-cache"
        ) from error
    try:
        yield
    finally:
        lock.release()


def real_path(path: Path) -> Path:
    """`path` from the root, links followed; unlike `Path.resolve` without a fault where they form a ring."""
    return Path(os.path.realpath(path))


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def disk_error(error: OSError, path: Path, hint: str | None = None) -> FosterError:
    """What a failed write to `path` is to the user; `hint`: what to do, if not to give another --out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = hint or "free some space or give another --out"
        return FosterError(f"the disk is full: writing {path} failed", hint)
    reason = error.strerror or str(error)
    return FosterError(f"cannot write {path}: {reason}", hint or "give another --out")


def sync_file(path: Path) -> None:
    """What was written to `path` is on the disk when this returns."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in `path` are on the disk when this returns (a system that cannot flush a folder has none to flush)."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, then rename it: `path` is whole or untouched. OS faults become FosterError."""
    tmp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        tmp = Path(name)
        yield tmp
        sync_file(tmp)
        tmp.chmod(0o666 & ~_umask())
        tmp.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """FosterError, before anything slow, where the file `path` could not be written in the end."""
    if path.is_dir():
        raise FosterError(f"{path}: is a folder", "name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise disk_error(error, path) from error


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors. Its own error for a failed write becomes an OSError, so that `writing` can name it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata)
    except SafetensorError as error:
        code = errno.ENOSPC if "os error 28" in str(error) or "No space" in str(error) else errno.EIO
        raise OSError(code, str(error)) from error


@contextmanager
def writing_dir(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Fill a folder beside `path`, then rename it. An existing `path` is replaced only once the new one is whole.

    `beside`: a folder on the same disk to fill it in, for a writer that clears what a killed one left there.
    """
    tmp: Path | None = None
    place = beside or path.parent
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=place))
        yield tmp
        for file in tmp.rglob("*"):
            if file.is_file():
                sync_file(file)
            file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
            if file.is_dir():
                sync_folder(file)
        tmp.chmod(0o777 & ~_umask())
        sync_folder(tmp)
        old = place / f".{path.name}.old-{os.getpid()}"
        if path.exists():
            path.rename(old)
        try:
            tmp.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        if tmp is not None:
            shutil.rmtree(tmp, ignore_errors=True)
