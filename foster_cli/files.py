"""Hashes, and atomic writes: after a crash a file is complete or unchanged. Imports torch lazily."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError

if TYPE_CHECKING:
    import torch


def real_path(path: Path) -> Path:
    """The absolute `path` with links followed. Unlike `Path.resolve`, it does not raise for a cycle of links."""
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
    """The FosterError for a failed write to `path`. `hint`: what to do, by default to give another --out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = hint or "free some space or give another --out"
        return FosterError(f"the disk is full: writing {path} failed", hint)
    reason = error.strerror or str(error)
    return FosterError(f"cannot write {path}: {reason}", hint or "give another --out")


def sync_file(path: Path) -> None:
    """Flush the file `path` to disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush the file names in the folder `path` to disk, on systems that can flush a folder."""
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
    """Yield a file beside `path` to write, then rename it to `path`. Raises FosterError for errors of the system."""
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
    """Raise FosterError if the file `path` cannot be written. Called before the slow work that makes it."""
    if path.is_dir():
        raise FosterError(f"{path}: is a folder", "name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise disk_error(error, path) from error


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors. A failed write raises OSError, not SafetensorError, so that `writing` can report it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata)
    except SafetensorError as error:
        code = errno.ENOSPC if "os error 28" in str(error) or "No space" in str(error) else errno.EIO
        raise OSError(code, str(error)) from error


@contextmanager
def writing_dir(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a folder beside `path` to fill, then rename it to `path`. It replaces an existing `path` only at the end.

    `beside`: the parent of that folder, on the same disk. The caller removes what a killed process leaves there.
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


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` and flush it to disk. Raises OSError; the old file then remains."""
    tmp = path.with_name(f".{path.name}.part")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise
