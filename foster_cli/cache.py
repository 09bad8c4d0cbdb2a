"""What lies in the cache folder, and how it is removed: teachers and read texts, each under a hash of what decides it.

<kind>/<entry>              the entry: teachers/<key>/, texts/<key>.safetensors
<kind>/<entry>.about.json   what it is, for people; entries of an older foster have none
<kind>/<entry>.run/         a training that is not finished
<kind>/<entry>.lock         held by the process that makes or reads it; stays behind, empty
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foster_cli.errors import FosterError
from foster_cli.runtime import cache_dir, writing

KINDS = ("teachers", "texts")
_KEY = re.compile(r"\.?([0-9a-f]{64})((?:\.safetensors)?)(.*)")


@dataclass(frozen=True)
class Entry:
    """`parts`: all that belongs to it. `size` in bytes; `modified` in seconds since 1970; `whole`: it can be used."""

    kind: str
    key: str
    path: Path
    parts: tuple[Path, ...]
    size: int
    modified: float
    whole: bool
    about: dict[str, Any]


def clear_leftovers(path: Path) -> None:
    """Remove what a process that was killed while it wrote the entry at `path` left; call it with the lock held."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Say for people what the entry at `path` is."""
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
            with suppress(OSError):  # it went away meanwhile
                stat = file.stat()
                size, modified = size + stat.st_size, max(modified, stat.st_mtime)
    whole = (path / "teacher.json").is_file() if kind == "teachers" else path.is_file()
    return Entry(kind, key, path, tuple(parts), size, modified, whole, _read_about(path)) if parts else None


def entries() -> list[Entry]:
    """All that is kept, the newest first; what an interrupted or killed run left too. Raises FosterError where the
    folder cannot be read."""
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
    """Hold the entry's lock while it is looked at; False where another process has it."""
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
    """Whether another process makes or reads it now."""
    with _held(entry) as mine:
        return not mine


def remove(entry: Entry) -> bool:
    """Remove it, unless another process uses it: then nothing is done and the answer is False."""
    with _held(entry) as mine:
        if not mine:
            return False
        for part in entry.parts:
            try:
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)
            except OSError as error:
                raise FosterError(f"cannot remove {part}: {error.strerror or error}", "see who owns it") from error
        return True
