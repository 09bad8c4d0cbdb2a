"""Hashes, and atomic writes: after a crash a file is complete or unchanged; what exists is replaced only if that is
asked for. Imports torch lazily."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError

if TYPE_CHECKING:
    import torch


def quoted(path: Path | str) -> str:
    """`path` as it is typed in a shell, in printable characters: others as bash and zsh escape them."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if char in "'\\":
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{code:08x}"


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


def exists(path: Path) -> bool:
    """Whether something is at `path`, also a link to nothing."""
    return os.path.lexists(path)


def taken(path: Path) -> FosterError:
    """The FosterError for a `path` at which another process has put something in the meantime."""
    return FosterError(f"{path}: another process has made it meanwhile", "give another --out")


def may_write(path: Path, force: bool, endings: Collection[str], option: str = "--out") -> None:
    """Raise FosterError if the file `path` exists, unless `force` is given and its name has one of `endings` (such as
    .json), those of the files that the command writes. Called before the slow work that makes the file."""
    if not exists(path):
        return
    if path.is_dir():
        raise FosterError(f"{option} {path} is a folder", "name a file")
    if not force:
        raise FosterError(f"{option} {path}: exists already", "give another name, or --force to replace it")
    if path.suffix.lower() not in endings or not path.is_file():
        raise FosterError(
            f"{option} {path}: --force replaces only files named *{', *'.join(endings)}",
            "give another name, or remove it first",
        )


def _rename_new(tmp: Path, path: Path) -> None:
    """Rename the file `tmp` to `path`. Raises FosterError if something is there, also if it came a moment ago."""
    try:
        os.link(tmp, path)  # unlike a rename, fails if `path` exists
    except FileExistsError:
        raise taken(path) from None
    except OSError:  # a file system without hard links
        if exists(path):
            raise taken(path) from None
        tmp.replace(path)


@contextmanager
def writing(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a file beside `path` to write, then rename it to `path`. Raises FosterError for errors of the system and,
    with `replace` False, if `path` exists by then."""
    tmp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        tmp = Path(name)
        yield tmp
        sync_file(tmp)
        tmp.chmod(0o666 & ~_umask())
        if replace:
            tmp.replace(path)
        else:
            _rename_new(tmp, path)
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
def writing_dir(path: Path, beside: Path | None = None, replace: bool = True) -> Iterator[Path]:
    """Yield a folder beside `path` to fill, then rename it to `path`. It replaces an existing `path` only at the end;
    with `replace` False it raises FosterError if there is one by then, unless that is an empty folder.

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
        if not replace and exists(path) and not (path.is_dir() and not any(path.iterdir())):
            raise taken(path)
        if replace and path.exists():
            path.rename(old)
        try:
            tmp.rename(path)
        except OSError as error:
            if old.exists():
                old.rename(path)
            elif not replace and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise taken(path) from None
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        if tmp is not None:
            shutil.rmtree(tmp, ignore_errors=True)


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of the folder `folder`/cells, which is made, so that one process at a time works there.

    `what`: the command. Raises FosterError if another process holds the lock, or the folder cannot be made. A folder
    in which nothing was done is removed.
    """
    from filelock import FileLock, Timeout

    cells = folder / "cells"
    lock = FileLock(str(cells / "lock"), timeout=0)
    try:
        cells.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FosterError(f"{folder}: another {what} is at work there", "wait for it, or give another --out") from None
    except OSError as error:
        reason = error.strerror or error
        raise FosterError(f"--out {folder}: cannot write there: {reason}", "give another folder") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (cells / "lock").unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            cells.rmdir()
            folder.rmdir()


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
