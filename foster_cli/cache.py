"""The cache folder: trained teachers and encoded texts, each under a hash of everything that it depends on.

Entries are read, made if missing or damaged (`read_or_make`), listed and removed.

<kind>/<entry>              the entry: teachers/<key>/, texts/<key>.safetensors
<kind>/<entry>.about.json   a description for people; entries of an older foster have none
<kind>/<entry>.run/         an unfinished training
<kind>/<entry>.lock         held by the process that makes or reads the entry; the empty file is not removed
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foster_cli.errors import FosterError
from foster_cli.files import writing

if TYPE_CHECKING:
    from foster_cli.console import Console

T = TypeVar("T")

KINDS = ("teachers", "texts")
_KEY = re.compile(r"\.?([0-9a-f]{64})((?:\.safetensors)?)(.*)")


def cache_dir() -> Path:
    """The folder of teachers and encoded texts: `FOSTER_CACHE`, else `XDG_CACHE_HOME`/foster, else ~/.cache/foster. A
    variable that is empty counts as none; ~ is the home folder."""
    own, base = (os.path.expanduser(os.environ.get(name, "")) for name in ("FOSTER_CACHE", "XDG_CACHE_HOME"))  # noqa: PTH111
    if own:
        return Path(own)
    return (Path(base) if base else Path.home() / ".cache") / "foster"


@contextmanager
def cache_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a cache entry: one writer at a time. Raises FosterError if the folder cannot be written.

    `waiting` is called once if another process holds the lock. The system frees the lock of a killed process.
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


def read_or_make(
    path: Path, read: Callable[[], T], make: Callable[[], T], console: Console, what: str = "cache entry",
    lock: bool = True,
) -> T:  # fmt: skip
    """What `read()` returns for `path` or, if the entry is missing or damaged, what `make()` writes there and returns.

    `read` raises for a damaged entry; a note says so and names `what` it is, and `make` replaces it. `lock`: one
    process at a time reads or makes the entry, others wait; partial files of a killed process are removed. Raises
    FosterError if the folder cannot be written.
    """
    from safetensors import SafetensorError

    def wait() -> None:
        console.note(f"another process makes {path}; waiting for it")

    with cache_lock(path, wait) if lock else nullcontext():
        if lock:
            clear_leftovers(path)
        if path.exists():
            try:
                return read()
            except (SafetensorError, FosterError, KeyError, ValueError, OSError) as error:
                why = error.message if isinstance(error, FosterError) else f"{type(error).__name__}: {error}"
                console.note(f"a damaged {what} is made again: {path} ({why})")
        return make()


def discard(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    """`parts`: its files and folders. `size` in bytes; `modified` in seconds since 1970; `whole`: it can be used."""

    kind: str
    key: str
    path: Path
    parts: tuple[Path, ...]
    size: int
    modified: float
    whole: bool
    about: dict[str, Any]


def clear_leftovers(path: Path) -> None:
    """Remove partial files of a process killed while it wrote the entry at `path`. Call this with the lock held."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Write a description of the entry at `path` for people."""
    with writing(Path(f"{path}.about.json")) as tmp:
        tmp.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _read_about(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(Path(f"{path}.about.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        yield from (p for p in path.rglob("*") if p.is_file())
    else:
        yield path


def _entry(kind: str, key: str, path: Path, parts: list[Path]) -> Entry | None:
    size, modified = 0, 0.0
    for part in parts:
        for file in _files(part):
            with suppress(OSError):  # removed in the meantime
                stat = file.stat()
                size, modified = size + stat.st_size, max(modified, stat.st_mtime)
    whole = (path / "teacher.json").is_file() if kind == "teachers" else path.is_file()
    return Entry(kind, key, path, tuple(parts), size, modified, whole, _read_about(path)) if parts else None


def entries() -> list[Entry]:
    """All entries, newest first, with the remains of interrupted runs. Raises FosterError for an unreadable folder."""
    found: list[Entry] = []
    for kind in KINDS:
        folder = cache_dir() / kind
        groups: dict[str, list[Path]] = {}
        try:
            names = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            raise FosterError(
                f"cannot read the cache {folder}: {error.strerror or error}", "set FOSTER_CACHE"
            ) from error
        for path in names:
            match = _KEY.fullmatch(path.name)
            if match and match[3] != ".lock":
                groups.setdefault(match[1], []).append(path)
        for key, parts in groups.items():
            entry = _entry(kind, key, folder / (key if kind == "teachers" else f"{key}.safetensors"), parts)
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda e: (-e.modified, e.kind, e.key))


@contextmanager
def _held(entry: Entry) -> Iterator[bool]:
    """Hold the entry's lock and yield True, or yield False if another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{entry.path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise FosterError(
            f"cannot write the cache {entry.path.parent}: {error.strerror or error}", "set FOSTER_CACHE"
        ) from error
    try:
        yield True
    finally:
        lock.release()


def in_use(entry: Entry) -> bool:
    """Whether another process makes or reads the entry now."""
    with _held(entry) as mine:
        return not mine


def remove(entry: Entry) -> bool:
    """Remove the entry and return True; if another process uses it, do nothing and return False."""
    with _held(entry) as mine:
        if not mine:
            return False
        for part in entry.parts:
            try:
                discard(part)
            except OSError as error:
                raise FosterError(f"cannot remove {part}: {error.strerror or error}", "see who owns it") from error
        return True
