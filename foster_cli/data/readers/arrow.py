"""Reads parquet, feather and Arrow files, and converts any Arrow table to the data frame of `read_table`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foster_cli.console import clean
from foster_cli.data.readers.rows import check_names
from foster_cli.data.readers.source import Part, on_disk
from foster_cli.errors import FosterError

#: The first bytes of a parquet file, and of an Arrow file (feather is one); an Arrow stream begins with the others.
PARQUET, ARROW, STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
#: The keys with which MongoDB's export names the type of a value.
WRAPPED = frozenset(["$date", "$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid"])
#: Bytes of a column of parquet and rows that are read at a time, and bytes of a table that is put together.
_PAGES, _BATCH, _HELD = 1 << 20, 1 << 16, 256 << 20


def read_arrow(part: Part, columns: Sequence[str]) -> pa.Table:
    """The named columns of a parquet, feather or Arrow file. Raises KeyError for a missing column, FosterError for
    damaged bytes."""
    with _undamaged(part) as first:
        if first[:4] == PARQUET:
            # in this thread alone: threads of its dataset reader may outlive a buffer of Python's
            with pq.ParquetFile(on_disk(part)) as parquet:
                _check(parquet.schema_arrow.names, columns, part)
                return parquet.read(list(columns), use_threads=False)
        with _ipc(part, first) as reader:
            _check(reader.schema.names, columns, part)
            return reader.read_all().select(list(columns))


def arrow_batches(part: Part, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """The same in tables of about `rows` rows, of which few are held at a time."""
    with _undamaged(part) as first:
        if first[:4] == PARQUET:
            with pq.ParquetFile(on_disk(part), buffer_size=_PAGES, pre_buffer=False) as parquet:
                _check(parquet.schema_arrow.names, columns, part)
                size = min(rows, _BATCH)
                batches = parquet.iter_batches(size, columns=list(columns), use_threads=False)
                yield from _of_about(rows, batches, parquet.schema_arrow, columns)
            return
        with _ipc(part, first, mapped=True) as reader:
            _check(reader.schema.names, columns, part)
            held = range(reader.num_record_batches) if first == ARROW else None
            batches = iter(reader) if held is None else (reader.get_batch(i) for i in held)
            yield from _of_about(rows, (batch.select(list(columns)) for batch in batches), reader.schema, columns)


def _check(names: Sequence[str], columns: Sequence[str], part: Part) -> None:
    check_names(names, part.name)
    for column in columns:
        if column not in names:
            raise KeyError(column)


def _of_about(
    rows: int, batches: Iterable[pa.RecordBatch], schema: pa.Schema, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of `batches` in tables of about `rows`, at least one: large batches are cut, small ones put together."""
    held, count, size, given = list[pa.RecordBatch](), 0, 0, False
    for batch in batches:
        for begin in range(0, len(batch), rows):
            piece = batch.slice(begin, rows)
            if held and (count + len(piece) > rows or size + piece.nbytes > _HELD):
                yield pa.Table.from_batches(held)
                held, count, size, given = [], 0, 0, True
            held.append(piece)
            count, size = count + len(piece), size + piece.nbytes
    if held:
        yield pa.Table.from_batches(held)
    elif not given:
        yield pa.Table.from_batches([], schema).select(list(columns))


def arrow_names(part: Part) -> list[str]:
    """The names of the columns of a parquet, feather or Arrow file. Raises FosterError like `read_arrow`."""
    with _undamaged(part) as first:
        if first[:4] == PARQUET:
            with pq.ParquetFile(on_disk(part)) as parquet:
                names = list(parquet.schema_arrow.names)
        else:
            with _ipc(part, first) as reader:
                names = list(reader.schema.names)
    check_names(names, part.name)
    return names


@contextmanager
def _undamaged(part: Part) -> Iterator[bytes]:
    """Yield the first bytes of a part; errors of Arrow become a FosterError that names it."""
    try:
        with part.open() as file:
            first = file.read(6)
        yield first
    except (pa.ArrowException, OSError) as error:
        raise FosterError(
            f"{clean(part.name)} is not a parquet or Arrow file or is damaged ({clean(error, 80)})",
            "write or download it again",
        ) from error


@contextmanager
def _ipc(part: Part, first: bytes, mapped: bool = False) -> Iterator[Any]:
    """The reader of an Arrow file, which may be `mapped` into memory, or of a stream."""
    if first == ARROW:
        path = str(on_disk(part))
        with pa.memory_map(path) if mapped else pa.OSFile(path) as raw, pa.ipc.open_file(raw) as file:
            yield file
    elif first[:4] == STREAM:
        with part.open() as raw, pa.ipc.open_stream(raw) as stream:
            yield stream
    else:
        raise pa.ArrowInvalid("neither parquet nor Arrow")


def flat(value: Any) -> str | None:
    """One value as text: lists joined with ", ", whole floats without ".0", missing values as None.

    A set is in the order of its texts, and bytes are UTF-8. It takes linear time at any depth. A value that MongoDB
    writes with its type, such as {"$date": "2020-01-01T00:00:00Z"}, is the value.
    """
    while isinstance(value, dict) and len(value) == 1 and next(iter(value)) in WRAPPED:
        value = next(iter(value.values()))
    if value is None or isinstance(value, str):
        return value
    if not _is_nested(value):
        return _leaf(value)
    open_: list[_Open] = [_opened(value)]
    while True:
        top = open_[-1]
        for key, inner in top.values:
            if _is_nested(inner):
                top.key = key
                open_.append(_opened(inner))
                break
            top.add(key, _leaf(inner))
        else:
            open_.pop()
            text = ", ".join(sorted(top.texts) if top.is_set else top.texts)
            if not open_:
                return text
            open_[-1].add(open_[-1].key, text)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, set, frozenset)) or (
        hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0
    )


class _Open:
    """A list or dictionary whose values are being made text."""

    def __init__(self, values: Iterator[tuple[Any, Any]], is_set: bool) -> None:
        self.values, self.is_set, self.texts, self.key = values, is_set, list[str](), None

    def add(self, key: Any, text: str | None) -> None:
        """A value, which is left out if it is empty."""
        if text:
            self.texts.append(text if key is None else f"{key}: {text}")


def _opened(value: Any) -> _Open:
    if isinstance(value, dict):
        return _Open(((str(_leaf(key)), inner) for key, inner in value.items()), False)
    if not isinstance(value, (list, tuple, set, frozenset)):
        value = value.tolist()
    return _Open(((None, inner) for inner in value), isinstance(value, (set, frozenset)))


def _leaf(value: Any) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "tolist") and not isinstance(value, float):
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return hex(value)


def tidy(table: pa.Table, name: str) -> pd.DataFrame:
    """`table` as a data frame of strings, Int64, float64, datetime64 and categoricals of strings. `name`: the file."""
    names = table.column_names
    check_names(names, name)
    columns = {column: _as_known(table.column(i), column, name) for i, column in enumerate(names) if column}
    mapper: dict[pa.DataType, Any] = {
        pa.large_string(): pd.StringDtype("pyarrow"),
        pa.int64(): pd.Int64Dtype(),
    }
    return pa.table(columns).to_pandas(types_mapper=mapper.get)


def _as_known(column: pa.ChunkedArray, name: str, file: str) -> pa.ChunkedArray:
    """One column as `_tidy` makes it. Raises FosterError for what cannot be text."""
    try:
        found = _tidy(column)
        if not pa.types.is_primitive(found.type):
            found.validate(full=True)  # text that is no UTF-8
        return found
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise FosterError(
            f"{clean(file)}: column {clean(name)} of type {clean(column.type)} cannot be read as text",
            "store it as text or drop it",
        ) from error


def _tidy(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One column as large_string, dictionary of different strings, int64, float64 or timestamp."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        text = pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
        if (
            text
            and not _as_many(column)
            and all(
                chunk.dictionary.null_count == 0 and len(chunk.dictionary.unique()) == len(chunk.dictionary)
                for chunk in column.chunks
            )
        ):
            return column
        return _tidy(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(kind):
        return column if kind.tz is None else column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms"))
    if pa.types.is_integer(kind):
        too_big = kind == pa.uint64() and column.length() > column.null_count and pc.max(column).as_py() >= 2**63
        return column.cast(pa.large_string() if too_big else pa.int64())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _joined(column)
    if pa.types.is_struct(kind) and kind.num_fields == 1 and kind.field(0).name in WRAPPED:
        return _tidy(pc.struct_field(column, 0))
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return pa.chunked_array([pa.array([flat(v) for v in column.to_pylist()], pa.large_string())])
    return column.cast(pa.large_string())


def _as_many(column: pa.ChunkedArray) -> bool:
    """Whether the dictionaries of a long column have so many values that they save nothing."""
    return len(column) > 1 << 16 and 8 * sum(len(chunk.dictionary) for chunk in column.chunks) > len(column)


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of lists as text, "a, b, c"."""
    values = pc.list_flatten(column)
    plain = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if plain and values.null_count == 0 and not pc.any(pc.equal(values, "")).as_py():
        return pc.binary_join(column, ", ").cast(pa.large_string())
    return pa.chunked_array([pa.array([flat(v) for v in column.to_pylist()], pa.large_string())])
