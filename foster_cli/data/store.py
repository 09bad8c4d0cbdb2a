"""Writes a prepared `Dataset` to one parquet file, reads it back, and computes the hash of a dataset.

The file has one row per interaction: user_id, item_id, time (int64 ms), split, title, text. Title and text repeat for
each interaction of an item and are dictionary-encoded. The file's metadata hold name, hash, settings, statistics,
the version of the format and a checksum of these as JSON under `foster`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from foster_cli.console import clean
from foster_cli.data.schema import SPLITS, Catalogue, Dataset, Interactions
from foster_cli.errors import FosterError
from foster_cli.files import writing

FORMAT = 1
_KEY = b"foster"
_COLUMNS = ("user_id", "item_id", "time", "split", "title", "text")


def dataset_hash(user_ids: list[str], catalogue: Catalogue, interactions: Interactions) -> str:
    """Hex sha256 over ids, titles, texts and the interaction arrays, each with its lengths."""
    digest = hashlib.sha256()
    for strings in (user_ids, catalogue.ids, catalogue.titles, catalogue.texts):
        encoded = [s.encode() for s in strings]
        digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
        digest.update(b"".join(encoded))
    for array in (interactions.user, interactions.item, interactions.time, interactions.split):
        digest.update(np.array([len(array)], dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()


def write_prepared(dataset: Dataset, path: Path) -> None:
    """Write `dataset` to the parquet file `path` atomically."""
    catalogue, rows = dataset.catalogue, dataset.interactions
    title, title_of = _distinct(catalogue.titles)
    text, text_of = _distinct(catalogue.texts)
    table = pa.table(
        {
            "user_id": _dictionary(rows.user, dataset.user_ids),
            "item_id": _dictionary(rows.item, catalogue.ids),
            "time": pa.array(rows.time, pa.int64()),
            "split": _dictionary(rows.split, SPLITS),
            "title": _dictionary(title_of[rows.item], title),
            "text": _dictionary(text_of[rows.item], text),
        }
    )
    header = {
        "format": FORMAT,
        "name": dataset.name,
        "hash": dataset.hash,
        "settings": dataset.settings,
        "statistics": dataset.statistics,
    }
    header["check"] = _check(header)
    encoded = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    table = table.replace_schema_metadata({_KEY: encoded})
    with writing(path) as tmp:
        pq.write_table(table, tmp, compression="zstd")


def _check(header: dict[str, Any]) -> str:
    """Hex sha256 of what a header says, without its own `check`."""
    said = {key: header[key] for key in header if key != "check"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _distinct(strings: list[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct strings and, for each of `strings`, its index among them."""
    place: dict[str, int] = {}
    codes = np.array([place.setdefault(s, len(place)) for s in strings], dtype=np.int64)
    return list(place), codes


def _dictionary(codes: npt.NDArray[Any], values: Iterable[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(values), pa.string()))


def is_prepared(path: Path) -> bool:
    """Whether `path` is a parquet file written by `write_prepared` (False for anything else)."""
    try:
        if not Path(path).is_file():  # a pipe can be read only once
            return False
        with Path(path).open("rb") as f:
            if f.read(4) != b"PAR1":
                return False
        return _KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return False


def read_prepared(path: Path) -> Dataset:
    """Read the dataset in `path`. Raises FosterError for a file that is damaged or was changed since it was written."""
    path = Path(path)
    again = "run foster preprocess on the raw table again"
    changed = FosterError(f"{clean(path)} was changed after foster wrote it", again)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FosterError(f"{clean(path)} cannot be read ({clean(error, 80)})", again) from error
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        raise FosterError(f"{clean(path)} is not a prepared dataset", "run foster preprocess on it")
    try:
        header = json.loads(metadata[_KEY], parse_constant=_no_constant)
        version = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise changed from error
    if version != FORMAT:
        raise FosterError(f"{clean(path)} has format {clean(version)}, this foster reads {FORMAT}", again)
    if any(name not in table.column_names for name in _COLUMNS):
        raise changed
    if header.get("check", "") not in ("", _check(header)):  # files of earlier versions have none
        raise changed
    if not isinstance(header.get("name"), str) or not all(
        isinstance(header.get(key), dict) for key in ("settings", "statistics")
    ):
        raise changed
    try:
        dataset = _dataset(table, header)
        found = dataset_hash(dataset.user_ids, dataset.catalogue, dataset.interactions)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, pa.ArrowException) as error:
        raise changed from error
    if found != dataset.hash:
        raise changed
    return dataset


def _no_constant(name: str) -> float:
    """Raise ValueError for NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} in the header")


def _dataset(table: pa.Table, header: dict[str, Any]) -> Dataset:
    user, user_ids = _codes(table["user_id"])
    item, item_ids = _codes(table["item_id"])
    split, names = _codes(table["split"])
    place = np.array([SPLITS.index(name) for name in names], dtype=np.int8)
    interactions = Interactions(user, item, table["time"].to_numpy().astype(np.int64), place[split])
    _, row = np.unique(item, return_index=True)
    titles, texts = (_strings(table[name], row) for name in ("title", "text"))
    return Dataset(
        header["name"],
        header["hash"],
        user_ids,
        Catalogue(item_ids, titles, texts),
        interactions,
        header["settings"],
        header["statistics"],
    )


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Codes (N,) into the sorted strings of a column, and these strings."""
    array = column.unify_dictionaries().combine_chunks() if pa.types.is_dictionary(column.type) else column
    array = array.dictionary_encode().combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    values = np.array(array.dictionary.to_pylist(), dtype=object)
    codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    used = np.flatnonzero(np.bincount(codes, minlength=len(values)))
    ordered = used[np.argsort(values[used], kind="stable")]
    lookup = np.full(len(values), -1, dtype=np.int64)
    lookup[ordered] = np.arange(len(ordered))
    return lookup[codes], values[ordered].tolist()


def _strings(column: pa.ChunkedArray, rows: npt.NDArray[np.intp]) -> list[str]:
    return [str(value) for value in column.take(pa.array(rows)).to_pylist()]
