"""Parses text in which each line is an object (JSON, or a Python dictionary), or which is one JSON array of them.

Arrow parses plain JSON lines. A file that it refuses (columns of mixed types, duplicate keys), would guess at (text
that looks like a date) or cannot hold (integers of 2^63 and more, integers beside decimals) is parsed line by line.
Lines that are no objects are returned as `Bad`. A large file is parsed block by block: the type of a column may then
differ between blocks, and its values do not, but for the order of the keys of objects within objects.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from foster_cli.console import clean
from foster_cli.data.readers.arrow import flat
from foster_cli.data.readers.blocks import Text
from foster_cli.data.readers.rows import SHOWN, Bad, Piece
from foster_cli.errors import FosterError

_BLOCK = 1 << 24  # bytes parsed at a time; no record may be longer
_SAMPLE = 1000  # lines that are read to find the columns of text
_SURROGATE = re.compile("[\ud800-\udfff]")
#: A value that follows an object without being in another one, or text that looks like it.
_BESIDE = re.compile(rb"\}\s*[^\s,\]{}]")
#: A line with more brackets than this is not read by Arrow.
_DEEP = 1000
#: Integers above this are not exact as floating numbers.
_EXACT = 2**53
#: The longest line that is read as a Python literal, in bytes: its syntax tree takes a hundred times as much.
_LITERAL = 1 << 20


def read_objects(data: bytes, file: str, python: bool | None = None) -> Piece:
    """The objects of a file as an Arrow table; `tidy` later turns nested values into text.

    `python`: lines are Python dictionaries, as in Amazon's files of 2014; None: if the first line is one and no JSON.
    They are parsed as literals and never evaluated.
    """
    if data.lstrip()[:1] == b"[" and not python:
        return _array_of(data, file)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # which neither JSON nor Python holds within a value
    if python is None:
        python = _is_python(_first(data))
    table, bad = _parsed(data, file, python)
    line = not _has_gap([data]) and (bool(bad) or _lines(data) == table.num_rows)
    return Piece(table, file, 1, "line" if line else "row", bad)


def objects_by_block(text: Text, names: Sequence[str], file: str, python: bool | None, size: int) -> Iterator[Piece]:
    """The columns `names` of the objects of a file, a piece for each block of about `size` bytes of lines.

    A file that is one JSON array, or whose first object spans lines, is read as a whole.
    """
    begin = text.head.lstrip()[:1]
    if python is None and begin != b"[":
        python = _is_python(_first(text.head))
    if is_one(text.head, python):
        piece = read_objects(text.held().head, file, python)
        yield replace(piece, table=_columns(piece.table, names))
        return
    unit = "row" if _has_gap(_ended(text, size)) else "line"
    lines = rows = 0
    for data in _ended(text, size):
        table, bad = _parsed(data, file, bool(python))
        found = [replace(one, line=one.line + lines) for one in bad]
        yield Piece(_columns(table, names), file, (lines if unit == "line" else rows) + 1, unit, found)
        lines, rows = lines + data.count(b"\n"), rows + table.num_rows


def _ended(text: Text, size: int) -> Iterator[bytes]:
    """The blocks of a text, of which each line ends with LF."""
    for block in text.blocks(size):
        yield block if text.end == b"\n" else block.replace(b"\r", b"\n")


def is_one(begin: bytes, python: bool | None) -> bool:
    """Whether a file that begins with these lines is one JSON array, or its first object spans lines."""
    if python:
        return False
    first = _first(begin).lstrip()
    if first[:1] != b"{":
        return first[:1] == b"["
    try:
        _json(first)
    except (ValueError, RecursionError):
        return not _is_python(first)
    return False


def _parsed(data: bytes, file: str, python: bool) -> tuple[pa.Table, list[Bad]]:
    """The objects of lines, and the lines that are none."""
    table = None if python else _plain(data)
    if table is not None:
        return table, []
    bad: list[Bad] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's compiler, about literals such as "\d"
        found = _rows(data, _literal if python else _json, file, bad, "a Python dictionary" if python else "JSON")
        return _table((row for _, row in found), python), bad


def _columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """These columns of `table`; those that it lacks hold no values."""
    there = set(table.column_names)
    lost = pa.nulls(table.num_rows, pa.string())
    return pa.table({name: table.column(name) if name in there else lost for name in names})


def _first(data: bytes) -> bytes:
    """The first line that is not blank."""
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return next((line for line in io.BytesIO(data) if line.strip()), b"")


def _lines(data: bytes) -> int:
    """The lines of `data` up to the last that is not blank."""
    return data.rstrip().count(b"\n") + 1


def _has_gap(blocks: Iterable[bytes]) -> bool:
    """Whether there is a blank line before one that is not."""
    gap = False
    for block in blocks:
        filled = block.rstrip()
        if filled and (gap or (not _dense(filled) and any(not line.strip() for line in io.BytesIO(filled)))):
            return True
        gap = not filled or block.count(b"\n", len(filled)) > 1
    return False


def _dense(filled: bytes) -> bool:
    """Whether every line begins with an object; if not, some may be blank."""
    return filled.startswith(b"{") and filled.count(b"\n{") == filled.count(b"\n")


def _is_python(line: bytes) -> bool:
    try:
        json.loads(line)
        return False
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return isinstance(_literal(line), dict)
    except (ValueError, RecursionError):
        return False


def _json(text: bytes) -> Any:
    """The JSON value in `text`. Numbers that no float holds stay text; NaN and Infinity, which JSON lacks, are None."""
    return json.loads(text, parse_float=_number, parse_constant=_no_value)


def _number(text: str) -> float | str:
    number = float(text)
    if abs(number) < _EXACT:
        return number
    return number if math.isfinite(number) and Decimal(text) == Decimal(number) else text


def _no_value(name: str) -> None:
    return None


def _literal(line: bytes) -> Any:
    """The Python literal in `line`; nothing is evaluated. Raises ValueError for anything else."""
    if len(line) > _LITERAL:
        raise ValueError(f"longer than {_LITERAL:,} bytes")
    try:
        return ast.literal_eval(line.decode().strip())
    except (SyntaxError, TypeError, MemoryError) as error:
        raise ValueError(clean(error, 60) or "too complex") from error
    except ValueError as error:
        raise ValueError("no literal" if "malformed node" in str(error) else clean(error, 60)) from error


def _array_of(data: bytes, file: str) -> Piece:
    try:
        rows = _json(data)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise FosterError(
            f"{clean(file)} line {line} is not JSON: {clean(reason)}", "mend it, or write one JSON object per line"
        ) from error
    odd = next((i for i, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if odd is not None:
        raise FosterError(f"{clean(file)} value {odd} is not an object", "give objects with named fields")
    return Piece(_table(rows, False), file)


def _plain(data: bytes) -> pa.Table | None:
    """`data` by Arrow's reader; None if it would refuse, guess or round, or crash."""
    if _harms_arrow(data):
        return None
    text: dict[str, bool] = {}
    try:
        for _, row in _rows(data, _json, "", [], "JSON", _SAMPLE):
            for key, value in row.items():
                text[key] = text.get(key, True) and isinstance(value, str)
        schema = pa.schema([(key, pa.string()) for key, is_text in text.items() if is_text])
        table = pa_json.read_json(
            pa.py_buffer(data),
            read_options=pa_json.ReadOptions(block_size=_BLOCK),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeEncodeError):
        return None
    return None if any(_guessed(column) for column in table.columns) else table


def _harms_arrow(data: bytes) -> bool:
    """Whether `data` may have a value beside its objects, or be nested deeply: Arrow's reader ends the process then."""
    if data.lstrip()[:1] != b"{" or _BESIDE.search(data):
        return True
    return any(len(line) > _DEEP and line.count(b"{") + line.count(b"[") > _DEEP for line in io.BytesIO(data))


def _guessed(column: pa.ChunkedArray | pa.Array, depth: int = 0) -> bool:
    """Whether Arrow made a time of a text, or a number that is not exact, in a column, or it is too deep to say."""
    kind = column.type
    if pa.types.is_timestamp(kind) or depth > 50:
        return True
    if pa.types.is_list(kind):
        return _guessed(pc.list_flatten(column), depth + 1)
    if pa.types.is_struct(kind):
        return any(_guessed(pc.struct_field(column, [i]), depth + 1) for i in range(kind.num_fields))
    if pa.types.is_floating(kind) and len(column) > column.null_count:
        ends = pc.min_max(column).as_py()
        return not max(abs(ends["min"]), abs(ends["max"])) < _EXACT or bool(pc.any(pc.is_nan(column)).as_py())
    return False


def _rows(
    data: bytes, parse: Callable[[bytes], Any], file: str, bad: list[Bad], what: str, limit: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of the lines, at most `limit`; lines that are none are added to `bad`."""
    seen = 0
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            row, reason = parse(line), "is not an object"
        except (ValueError, RecursionError) as error:
            row, reason = None, f"is not {what}: {clean(error, 80)}"
        if isinstance(row, dict):
            yield number, row
            seen += 1
        else:
            bad.append(Bad(file, number, reason, line[:SHOWN].decode(errors="replace").rstrip()))
        if seen == limit:
            return


def _table(rows: Iterable[dict[Any, Any]], python: bool) -> pa.Table:
    """Rows (dicts, any keys) as a table. A column of ints only or floats only stays numeric; others become text."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for row in rows:
        for key, value in row.items():
            column = columns.setdefault(str(key), [])
            column.extend([None] * (count - len(column)))
            column.append(value)
        count += 1
    arrays = {}
    for key, column in columns.items():
        column.extend([None] * (count - len(column)))
        arrays[_SURROGATE.sub("\ufffd", key)] = _array(column, python)
    return pa.table(arrays) if arrays else pa.table({"": pa.nulls(count)})


def _array(values: list[Any], python: bool) -> pa.Array:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds == {float}:
        return pa.array(values, pa.float64())
    if bool in kinds and not python:  # as Arrow's reader has them
        values = [str(v).lower() if isinstance(v, bool) else v for v in values]
    texts = (flat(v) for v in values)
    return pa.array([t if t is None else _SURROGATE.sub("\ufffd", t) for t in texts], pa.string())
