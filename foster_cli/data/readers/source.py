"""Reads the bytes of a file, decompresses gzip (recognised by content) and checks that text is UTF-8."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from foster_cli.console import clean
from foster_cli.errors import FosterError

#: The reader for each file name extension. `.gz` may follow the extension.
KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def kind_of(path: Path) -> str:
    """The format by name: `csv`, `tsv`, `json` or `parquet`. Raises FosterError for a path that is no such file."""
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise FosterError(f"cannot read {clean(path)}: {error.strerror or error}", "check the path") from error
    if folder:
        raise FosterError(f"{clean(path)} is a folder", "give the files in it, e.g. ratings.csv movies.csv")
    if not there:
        raise FosterError(f"{clean(path)}: no such file", "check the path")
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".gzip"):
        suffixes.pop()
    if not suffixes or suffixes[-1] not in KINDS:
        raise FosterError(
            f"{clean(path)}: unknown kind of file",
            "name it .csv, .tsv, .jsonl, .json, .ndjson or .parquet (each also with .gz)",
        )
    return KINDS[suffixes[-1]]


def load(path: Path) -> bytes:
    """All bytes of `path`, decompressed if they begin as gzip. Raises FosterError for an empty file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FosterError(f"cannot read {clean(path)}: {error.strerror or error}", "check the path") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, OSError) as error:
            raise FosterError(
                f"{clean(path)} is a damaged or cut-off gzip file ({clean(error)})",
                "copy or download it again",
            ) from error
    elif path.suffix.lower() in (".gz", ".gzip") and data:
        raise FosterError(f"{clean(path)} is not gzipped though its name says so", "rename it without .gz")
    if not data.strip():
        raise FosterError(f"{clean(path)} is empty", "give a table with at least one row")
    if data[:4] == b"PK\x03\x04":
        raise FosterError(f"{clean(path)} is a zip archive", "unpack it and give the file inside")
    return data


def check_utf8(data: bytes, path: Path) -> bytes:
    """Check that `data` is UTF-8, or raise FosterError. Returns it without a byte order mark."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FosterError(f"{clean(path)} is UTF-16, not UTF-8", "save it as UTF-8")
    decoder = codecs.getincrementaldecoder("utf-8")()
    view, step, start = memoryview(data), 1 << 24, 0
    try:
        for start in range(0, len(data), step):
            decoder.decode(view[start : start + step], final=start + step >= len(data))
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise FosterError(f"{clean(path)} is no text, for it holds NUL bytes", "give a table") from error
        line = data.count(b"\n", 0, start + error.start) + 1
        raise FosterError(
            f"{clean(path)} is not UTF-8 (line {line}: {error.reason})",
            f"convert it: iconv -f latin1 -t utf-8 {clean(path)} > NEW{path.suffix}",
        ) from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise FosterError(f"{clean(path)} is empty", "give a table with at least one row")
    return data
