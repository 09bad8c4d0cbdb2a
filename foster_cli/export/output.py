"""Writes an export to a file, a folder or standard output. Files and folders are written atomically.

In: a format, a job and a target. The target is written under a temporary name beside it and then renamed. An existing
folder with files is replaced only if that is asked for and its `foster-export.json` shows that an export wrote it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foster_cli.errors import FosterError
from foster_cli.files import real_path, writing, writing_dir

if TYPE_CHECKING:
    from foster_cli.export import Format
    from foster_cli.export.job import Job

RECORD = "foster-export.json"


def endings(chosen: Format) -> tuple[str, ...]:
    """The endings of the files that --force replaces: those that exports in the format have."""
    return (".jsonl", ".json") if chosen.extension == "jsonl" else (f".{chosen.extension}",)


def check_target(chosen: Format, target: Path, bundle: Path, replace: bool) -> None:
    """Raise FosterError if writing `target` would destroy other files, or if `target` does not fit the format.
    `replace`: whether a folder that an earlier export wrote is replaced."""
    if not chosen.folder:
        if target.is_dir():
            raise FosterError(f"--out {target} is a folder", f"give a file, such as {target / chosen.default}")
        inside = target.exists() and real_path(target.parent) == real_path(bundle)
        if inside and not target.name.startswith("synthetic."):
            raise FosterError(f"--out {target} is a file of the bundle itself", "give another name")
        return
    if target.name in ("", ".."):
        raise FosterError(f"--out {target}: {chosen.name} names a folder", f"give a name, such as {chosen.default}")
    if target.exists() and not target.is_dir():
        raise FosterError(f"--out {target} is a file, {chosen.name} writes a folder", "give another name")
    if target.is_dir() and any(target.iterdir()) and not _written_here(target):
        raise FosterError(f"--out {target}: a folder with other files", "give another name, or remove it first")
    if target.is_dir() and any(target.iterdir()) and not replace:
        raise FosterError(f"--out {target}: exists already", "give another name, or --force to replace it")


def _written_here(folder: Path) -> bool:
    """Whether an export wrote `folder`."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "foster_export" in record


def to_target(chosen: Format, job: Job, target: Path, replace: bool = True) -> None:
    """Write the export to `target`. Raises FosterError if it exists by then, unless `replace` is True."""
    if not chosen.folder:
        with writing(target, replace) as temporary, temporary.open("wb") as file:
            chosen.write(job, file)
        return
    with writing_dir(target, replace=replace) as folder:
        chosen.write(job, folder)
        record = json.dumps(job.record(chosen.name, chosen.hard), indent=1)
        (folder / RECORD).write_text(record + "\n", encoding="utf-8")


class _Stdout:
    """Standard output for bytes. With `python -u` it is unbuffered and may write a part only, so `write` repeats."""

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[sys.stdout.buffer.write(left) :]


def check_stdout(chosen: Format, measure: bool) -> None:
    """Raise FosterError if standard output cannot take the format."""
    if measure:
        raise FosterError("--measure: prints a table, which --out - has no place for", "give --out FILE")
    if chosen.folder:
        raise FosterError(f"--out -: {chosen.name} writes a folder", "name one: --out FOLDER")
    if sys.stdout is None:
        raise FosterError("--out -: standard output is closed", "give --out FILE")
    if chosen.binary and sys.stdout.isatty():
        raise FosterError(f"{chosen.name} is binary and not for a terminal", "give --out FILE, or pipe it on")


def to_stdout(chosen: Format, job: Job) -> bool:
    """Write the export to standard output. Returns False if the reader has closed the pipe (`| head`)."""
    try:
        chosen.write(job, _Stdout())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The buffered rest would fail again when the interpreter closes stdout, so it is sent to the null device.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    except OSError as error:
        raise FosterError(f"cannot write to standard output: {error.strerror}", "give --out FILE") from error
    return True
