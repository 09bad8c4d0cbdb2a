"""Readers for untrusted files: a bundle's JSON, tensors and table of items.

In: a path. Out: plain values, tensors, lists. Malformed, unexpected or too large content raises ValueError. Memory use
stays within a small multiple of the file's size, whatever sizes the file claims.
"""

from __future__ import annotations

import json
import math
import os
import stat
import types
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.settings import MOST_TITLE

#: The largest size in bytes of a manifest and of a safetensors header; both usually take kilobytes.
MOST_JSON, MOST_HEADER = 16 << 20, 1 << 16
#: The largest number of characters in all ids and titles together.
MOST_TEXT = 1 << 30
DEEPEST = 32
_FLOATS = {torch.float16, torch.float32, torch.float64}
_NUMBERS, _CODES = {*_FLOATS, torch.int64}, {torch.uint8}
#: What foster, pyarrow and pandas write. Others could turn a kilobyte into a gigabyte (a codec; gzip makes at most a
#: thousand bytes of one) or repeat text (an encoding).
_CODECS = {"UNCOMPRESSED", "SNAPPY", "GZIP"}
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def read_small(path: Path, most: int) -> bytes:
    """The bytes of a plain file. Raises ValueError if there are more than `most`, or if it is no plain file."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name} is no plain file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} is larger than {most:,} bytes")
    return content


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _check_tree(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_tree(key, depth + 1)
            _check_tree(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_tree(inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    elif isinstance(value, str):
        value.encode("utf-8")  # raises for half a surrogate pair, which cannot be written or printed


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """The value in a JSON file: UTF-8, finite numbers, nested at most 32 deep. Raises ValueError for anything else."""
    try:
        value = json.loads(read_small(path, most).decode("utf-8"), parse_constant=_no_constant)
        _check_tree(value)
    except RecursionError:
        raise ValueError(f"{path.name}: nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type `hint` of a settings field."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) in (tuple, list):
        return isinstance(value, list) and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        return whole or (hint is float and isinstance(value, float))
    return isinstance(value, hint)


def check_fields(where: str, values: Any, kind: type) -> None:
    """Raise ValueError unless `values` is an object whose entries have the types of `kind`'s fields (a dataclass)."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no object")
    for name, hint in get_type_hints(kind).items():
        if name in values and not _fits(values[name], hint):
            raise ValueError(f"{where}.{name} is of another type than foster writes")


def read_manifest(path: Path, kinds: dict[str, type]) -> dict[str, Any]:
    """Read bundle.json and check the types of its entries. `kinds`: the dataclass of each section of settings, by name
    (`data.prepare`: nested). Raises ValueError for an entry of another type, or a missing learning rate."""
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise ValueError(f"{path.name} holds no object")
    for name in ("data", "item_factor", "metrics", "machine"):
        if name in manifest and not isinstance(manifest[name], dict):
            raise ValueError(f"{path.name}: {name} is no object")
    if manifest.get("encoder") is not None:
        check_fields("encoder", manifest["encoder"], _Encoder)
    check_fields("data", manifest.get("data", {}), _Data)
    check_fields("manifest", manifest, _Run)
    for name, kind in kinds.items():
        first, _, rest = name.partition(".")
        found = manifest.get(first, {})
        check_fields(name, found.get(rest, {}) if rest else found, kind)
    rate = manifest.get("student", {}).get("lr")
    if rate is None or not 0 <= rate < 1e300:
        raise ValueError(f"{path.name}: student.lr is no learning rate")
    steps = manifest.get("metrics", {}).get("student_steps", 0)
    if not _fits(steps, int) or not 0 <= steps < 1 << 31:
        raise ValueError(f"{path.name}: metrics.student_steps is no number of steps")
    return manifest


@dataclass(frozen=True)
class _Data:
    name: str
    hash: str
    path: list[str]


@dataclass(frozen=True)
class _Run:
    seed: int
    method: str


@dataclass(frozen=True)
class _Encoder:
    name: str
    revision: str
    hash: str


def read_tensors(path: Path, dims: dict[str, int], optional: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Names and numbers of dimensions are those of `dims`; those named in `optional`
    may be missing. All are of a float type or int64 (`codes`: uint8), finite and not empty. Raises ValueError for
    anything else."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(MOST_HEADER, path.stat().st_size):
            raise ValueError(f"{path.name}: a header of {size:,} bytes")
        try:
            header = json.loads(file.read(size).decode("utf-8"))
        except RecursionError:
            raise ValueError(f"{path.name}: its header is nested too deep") from None
    if not isinstance(header, dict) or not set(header) - {"__metadata__"} <= set(dims):
        raise ValueError(f"{path.name}: other tensors than {', '.join(dims)}")
    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error
    missing = [name for name in dims if name not in tensors and name not in optional]
    if missing:
        raise ValueError(f"{path.name}: {missing[0]} is missing")
    for name, x in tensors.items():
        if x.dim() != dims[name] or x.numel() == 0 or x.dtype not in (_CODES if name == "codes" else _NUMBERS):
            raise ValueError(f"{path.name}: {name} {list(x.shape)} of {x.dtype} is none that foster writes")
        if x.dtype in _FLOATS and not torch.isfinite(x).all():
            raise ValueError(f"{path.name}: {name} holds NaN or Inf")
    return tensors


def read_items(path: Path, n: int) -> tuple[list[str], list[str]]:
    """Ids and titles of n items from a parquet table. Raises ValueError for any other table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, read_dictionary=["item_id", "title"]) as table:
            _check_table(table.metadata, table.schema_arrow, n)
            found: dict[str, list[str]] = {"item_id": [], "title": []}
            room = MOST_TEXT
            for batch in table.iter_batches(batch_size=4096, columns=list(found)):
                for name, values in found.items():
                    column = batch.column(name)
                    if not isinstance(column, pa.DictionaryArray) or column.null_count:
                        raise ValueError(f"{path.name}: {name} is no text everywhere")
                    words = column.dictionary.to_pylist()
                    room -= sum(len(words[i]) for i in column.indices.to_pylist())
                    if room < 0 or max(map(len, words), default=0) > MOST_TITLE:
                        raise ValueError(f"{path.name}: more text than foster writes")
                    values += [words[i] for i in column.indices.to_pylist()]
    except (pa.ArrowException, UnicodeDecodeError, OSError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}") from error
    if len(found["item_id"]) != n or len(found["title"]) != n:
        raise ValueError(f"{path.name}: not the {n} items of item_factor.safetensors")
    return found["item_id"], found["title"]


def _check_table(metadata: Any, schema: Any, n: int) -> None:
    """Raise ValueError unless the metadata are those of foster's tables: two text columns, n rows, plain encodings."""
    if metadata.num_rows != n or not {"item_id", "title"} <= set(schema.names) or len(schema.names) > 3:
        raise ValueError(f"items.parquet: not the {n} items of item_factor.safetensors")
    room = MOST_TEXT + 64 * n
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            room -= max(0, chunk.total_uncompressed_size)
            plain = chunk.compression in _CODECS and set(chunk.encodings) <= _ENCODINGS
            if not plain or chunk.physical_type != "BYTE_ARRAY" or room < 0:
                raise ValueError("items.parquet: not compressed or encoded as foster does it")
