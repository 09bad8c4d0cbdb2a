"""Writes a prepared `Dataset` to one parquet file, reads it back, and computes the hash of a dataset.

The file has one row per interaction: user_id, item_id, time (int64 ms), split, title, text. Title and text repeat for
each interaction of an item and are dictionary-encoded; in row groups after the one in which an item occurs first, they
are empty. The file's metadata hold name, hash, settings, statistics, the version of the format and a checksum of these
as JSON under `foster`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from foster_cli.console import clean
from foster_cli.data.ahead import ahead
from foster_cli.data.rows import blocks, empty_interactions, release
from foster_cli.data.schema import SPLITS, Catalogue, Dataset, Interactions
from foster_cli.errors import FosterError
from foster_cli.files import writing

FORMAT = 1
#: Rows of a row group.
GROUP = 1 << 22
_KEY = b"foster"
_COLUMNS = ("user_id", "item_id", "time", "split", "title", "text")


def dataset_hash(user_ids: list[str], catalogue: Catalogue, interactions: Interactions) -> str:
    """Hex sha256 over ids, titles, texts and the interaction arrays, each with its lengths."""
    digest = hashlib.sha256()
    for strings in (user_ids, catalogue.ids, catalogue.titles, catalogue.texts):
        encoded = [s.encode() for s in strings]
        digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
        digest.update(b"".join(encoded))
    for array in interactions.arrays:
        digest.update(np.array([len(array)], dtype="<i8").tobytes())
        for block in blocks(array):
            digest.update(np.ascontiguousarray(block, dtype="<i8").tobytes())
    return digest.hexdigest()


def write_prepared(dataset: Dataset, path: Path) -> None:
    """Write `dataset` to the parquet file `path` atomically."""
    header = {
        "format": FORMAT,
        "name": dataset.name,
        "hash": dataset.hash,
        "settings": dataset.settings,
        "statistics": dataset.statistics,
    }
    header["check"] = _check(header)
    encoded = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    with writing(path) as tmp, pq.ParquetWriter(tmp, _schema(encoded), compression="zstd") as writer:
        for group in ahead(_groups(dataset)):
            writer.write_table(group.replace_schema_metadata({_KEY: encoded}), row_group_size=GROUP)


def _schema(header: bytes) -> pa.Schema:
    named = pa.dictionary(pa.int32(), pa.string())
    kinds = [pa.int64() if name == "time" else named for name in _COLUMNS]
    return pa.schema(list(zip(_COLUMNS, kinds, strict=True)), {_KEY: header})


def _groups(dataset: Dataset) -> Iterator[pa.Table]:
    """The rows of the file, group by group."""
    catalogue, rows = dataset.catalogue, dataset.interactions
    written = np.zeros(len(catalogue), dtype=bool)
    for begin in range(0, len(rows), GROUP):
        here = slice(begin, begin + GROUP)
        present = np.bincount(rows.item[here], minlength=len(catalogue)) > 0
        item, place = np.flatnonzero(present), (np.cumsum(present) - 1)[rows.item[here]]
        new = ~written[item]
        written[item] = True
        user, owner = _of_sorted(rows.user[here])
        table = {
            "user_id": _dictionary(owner, [dataset.user_ids[i] for i in user.tolist()]),
            "item_id": _dictionary(place, [catalogue.ids[i] for i in item.tolist()]),
            "time": pa.array(rows.time[here], pa.int64()),
            "split": _dictionary(rows.split[here], SPLITS),
        }
        for name, of_items in (("title", catalogue.titles), ("text", catalogue.texts)):
            values, value_of = _distinct([of_items[i] for i in item[new].tolist()])
            codes = np.full(len(item), -1, dtype=np.int64)
            codes[new] = value_of
            table[name] = _dictionary(codes[place], values)
        yield pa.table(table)
        for array in rows.arrays:
            release(array)


def _check(header: dict[str, Any]) -> str:
    """Hex sha256 of what a header says, without its own `check`."""
    said = {key: header[key] for key in header if key != "check"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _of_sorted(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct ones of sorted codes (R,), and the place of each among them."""
    first = np.append(True, codes[1:] != codes[:-1])
    return codes[first], np.cumsum(first) - 1


def _distinct(strings: list[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct strings and, for each of `strings`, its index among them."""
    place: dict[str, int] = {}
    codes = np.array([place.setdefault(s, len(place)) for s in strings], dtype=np.int64)
    return list(place), codes


def _dictionary(codes: npt.NDArray[Any], values: Iterable[str]) -> pa.DictionaryArray:
    """The values of `codes`, none for -1."""
    index = pa.array(codes, pa.int32(), mask=codes < 0 if codes.min(initial=0) < 0 else None)
    return pa.DictionaryArray.from_arrays(index, pa.array(list(values), pa.string()))


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
    with _undamaged(path, again):
        file = pq.ParquetFile(path)
    with file:
        header = _header(file, path, changed, again)
        try:
            dataset = _dataset(file, header, path, again)
            found = dataset_hash(dataset.user_ids, dataset.catalogue, dataset.interactions)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, pa.ArrowException) as error:
            raise changed from error
    if found != dataset.hash:
        raise changed
    return dataset


@contextmanager
def _undamaged(path: Path, again: str) -> Iterator[None]:
    """Bytes that are no parquet become a FosterError."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FosterError(f"{clean(path)} cannot be read ({clean(error, 80)})", again) from error


def _header(file: pq.ParquetFile, path: Path, changed: FosterError, again: str) -> dict[str, Any]:
    """What the metadata of a prepared file say. Raises `changed` if it is not what foster wrote."""
    metadata = file.schema_arrow.metadata or {}
    if _KEY not in metadata:
        raise FosterError(f"{clean(path)} is not a prepared dataset", "run foster preprocess on it")
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY], parse_constant=_no_constant)
        version = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise changed from error
    if version != FORMAT:
        raise FosterError(f"{clean(path)} has format {clean(version)}, this foster reads {FORMAT}", again)
    if any(name not in file.schema_arrow.names for name in _COLUMNS):
        raise changed
    if header.get("check", "") not in ("", _check(header)):  # files of earlier versions have none
        raise changed
    if not isinstance(header.get("name"), str) or not all(
        isinstance(header.get(key), dict) for key in ("settings", "statistics")
    ):
        raise changed
    return header


def _no_constant(name: str) -> float:
    """Raise ValueError for NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} in the header")


def _dataset(file: pq.ParquetFile, header: dict[str, Any], path: Path, again: str) -> Dataset:
    size = file.metadata.num_rows
    rows = empty_interactions(size)
    users, items = dict[str, int](), dict[str, int]()
    titles, texts, end = list[str](), list[str](), 0
    for group in range(file.num_row_groups):
        with _undamaged(path, again):
            table = file.read_row_group(group, list(_COLUMNS), use_threads=False)
        here = slice(end, end + len(table))
        end += len(table)
        known = len(items)
        item = _numbered(table["item_id"], items)
        rows.user[here], rows.item[here] = _numbered(table["user_id"], users), item
        rows.time[here] = table["time"].to_numpy()
        rows.split[here] = _numbered(table["split"], {name: i for i, name in enumerate(SPLITS)}, len(SPLITS))
        new, first = np.unique(item, return_index=True)
        first = pa.array(first[new >= known])
        for name, found in (("title", titles), ("text", texts)):
            found += [str(value) for value in table[name].take(first).to_pylist()]
        for array in rows.arrays:
            release(array)
    user_ids, item_ids = (_sort(array, ids) for array, ids in ((rows.user, users), (rows.item, items)))
    order = [items[name] for name in item_ids]
    catalogue = Catalogue(item_ids, [titles[i] for i in order], [texts[i] for i in order])
    return Dataset(header["name"], header["hash"], user_ids, catalogue, rows, header["settings"], header["statistics"])


def _numbered(column: pa.ChunkedArray, place: dict[str, int], most: int | None = None) -> npt.NDArray[np.int64]:
    """The numbers (R,) that `place` gives to the strings of a column; new ones follow, up to `most`. Raises ValueError
    for a missing value and for one too many."""
    array = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = array.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    codes = array.indices.to_numpy(zero_copy_only=False)
    if array.null_count:
        raise ValueError("a value is missing")
    values = array.dictionary.to_pylist()
    used = np.bincount(codes, minlength=len(values)) > 0
    numbers = np.array(
        [place.setdefault(v, len(place)) if u else -1 for v, u in zip(values, used.tolist(), strict=True)]
    )
    if most is not None and len(place) > most:
        raise ValueError("an unknown value")
    return numbers[codes]


def _sort(array: npt.NDArray[np.int64], place: dict[str, int]) -> list[str]:
    """The sorted strings of `place`, with `array` (N,) of their numbers changed to their places in it."""
    names = sorted(place)
    number = np.empty(len(names), dtype=np.int64)
    number[[place[name] for name in names]] = np.arange(len(names))
    for block in blocks(array):
        block[:] = number[block]
    return names
