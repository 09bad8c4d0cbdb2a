"""Parses the UTF-8 bytes of a CSV, TSV or JSON-lines file as an Arrow table (R rows, the file's columns).

A delimited file with a `"` in it can be read in two ways. Quoted: strict RFC 4180, where a quoted field ends with a
quote followed by a delimiter or the end of the line. Literal: a quote is an ordinary character, as in `7" tablet` or
`"Weird Al`. The first of these readings that fits is used:

1. quoted, if it has no error and no field spans lines;
2. literal, if the header has no quotes and every line has as many fields as the header. An unpaired quote then does
   not swallow the rows after it;
3. quoted, if it has no error (the fields really span lines).

If none fits, a FosterError names the line. No row is dropped, padded or merged.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from foster_cli.console import clean
from foster_cli.data.readers.parquet import flat
from foster_cli.errors import FosterError

_BLOCK = 1 << 24  # bytes parsed at a time; no record may be longer
_SAMPLE = 1000  # JSON lines that are read to find the columns of text
_SURROGATE = re.compile("[\ud800-\udfff]")


def delimiter_of(data: bytes, usual: str) -> str:
    """The delimiter: `usual` if the header holds it, else the most frequent of comma, tab, semicolon and bar."""
    header = next(line for line in _lines(data) if line.strip())
    if usual in header:
        return usual
    best = max(",\t;|", key=header.count)
    return best if best in header else usual


def read_delimited(data: bytes, delimiter: str, path: Path) -> pa.Table:
    """Parse CSV or TSV text (without a byte order mark) as a table of strings. Column names are stripped."""
    table = _read_delimited(data, delimiter, path)
    return table.rename_columns([name.strip() for name in table.column_names])


def _read_delimited(data: bytes, delimiter: str, path: Path) -> pa.Table:
    if b'"' not in data:
        return _parse(data, delimiter, False, path)
    fault, multiline = _quoted_fault(data, delimiter)
    if fault is None and not multiline:
        return _parse(data, delimiter, True, path)
    header = next(line for line in _lines(data) if line.strip())
    if '"' not in header and _ragged_line(data, delimiter) is None:
        return _parse(data, delimiter, False, path)
    if fault is None:
        return _parse(data, delimiter, True, path)
    raise FosterError(
        f"{clean(path)} {fault}",
        'put fields that hold quotes or delimiters in quotes, with " inside written ""',
    )


def _lines(data: bytes) -> Iterator[str]:
    return iter(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""))


def _quoted_fault(data: bytes, delimiter: str) -> tuple[str | None, bool]:
    """The error of the strict quoted reading (or None), and whether a field spans lines."""
    reader = csv.reader(_lines(data), delimiter=delimiter, strict=True)
    width, last, multiline = 0, 0, False
    limit = csv.field_size_limit(min(len(data), 2**31 - 1))  # a field may be long: restored below
    try:
        for record in reader:
            multiline |= reader.line_num - last > 1
            width = width or len(record)
            if record and len(record) != width:
                return f"line {last + 1} has {len(record)} fields, the header {width}", multiline
            last = reader.line_num
    except csv.Error as error:
        return f"line {last + 1}: {clean(error)}", multiline
    finally:
        csv.field_size_limit(limit)
    return None, multiline


def _ragged_line(data: bytes, delimiter: str) -> str | None:
    """The first line with more or fewer fields than the header, quotes read literally; None if there is none."""
    width = 0
    for number, line in enumerate(_lines(data), 1):
        if line.rstrip("\r\n"):
            found = line.count(delimiter) + 1
            width = width or found
            if found != width:
                return f"line {number} has {found} fields, the header {width}"
    return None


def _parse(data: bytes, delimiter: str, quoted: bool, path: Path) -> pa.Table:
    rows = csv.reader(
        _lines(data),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
    )
    names = next(row for row in rows if row)
    try:
        return pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(block_size=_BLOCK),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        fault = None if quoted else _ragged_line(data, delimiter)
        raise FosterError(
            f"{clean(path)} {fault or f'cannot be read: {clean(error)}'}",
            "give every line the header's fields",
        ) from error


def read_json_lines(data: bytes, path: Path) -> pa.Table:
    """Parse one JSON object per line (or one array of objects) as a table. `tidy` later turns nested values into text.

    Arrow parses the plain case. A file that it refuses (columns of mixed types, duplicate keys) or would guess at
    (text that looks like a date) is parsed line by line.
    """
    if data.lstrip()[:1] == b"[":
        return _columns([(1, row) for row in _json(data, 1, path)], path)
    text: dict[str, bool] = {}
    for _, row in _rows(data, path, _SAMPLE):
        for key, value in row.items():
            text[key] = text.get(key, True) and isinstance(value, str)
    schema = pa.schema([(key, pa.string()) for key, is_text in text.items() if is_text])
    try:
        table = pa_json.read_json(
            pa.BufferReader(data),
            read_options=pa_json.ReadOptions(block_size=_BLOCK),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return _columns(_rows(data, path), path)
    if any(pa.types.is_timestamp(field.type) for field in table.schema):
        return _columns(_rows(data, path), path)
    return table


def _json(line: bytes, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FosterError(
            f"{clean(path)} line {number} is not JSON: {clean(error)}", "write one JSON object per line"
        ) from error


def _rows(data: bytes, path: Path, limit: int | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (line number, object) for the non-empty lines, at most `limit` of them."""
    seen = 0
    for number, line in enumerate(io.BytesIO(data), 1):
        if line.strip():
            row = _json(line, number, path)
            if not isinstance(row, dict):
                raise FosterError(f"{clean(path)} line {number} is not an object", "write one JSON object per line")
            yield number, row
            seen += 1
            if seen == limit:
                return


def _columns(rows: Any, path: Path) -> pa.Table:
    """Rows (dicts, any keys) as a table. A column of ints only or floats only stays numeric; others become text."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, row in rows:
        if not isinstance(row, dict):
            raise FosterError(f"{clean(path)} line {number} is not an object", "give objects with named fields")
        for key, value in row.items():
            column = columns.setdefault(key, [])
            column.extend([None] * (count - len(column)))
            column.append(value)
        count += 1
    arrays = {}
    for key, column in columns.items():
        column.extend([None] * (count - len(column)))
        arrays[_SURROGATE.sub("\ufffd", key)] = _array(column)
    return pa.table(arrays) if arrays else pa.table({"": pa.nulls(0)})


def _array(values: list[Any]) -> pa.Array:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds == {float}:
        return pa.array(values, pa.float64())
    texts = (flat(v) for v in values)
    return pa.array([t if t is None else _SURROGATE.sub("\ufffd", t) for t in texts], pa.string())
