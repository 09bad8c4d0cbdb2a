"""Parses delimited text (UTF-8 bytes of one file) as an Arrow table of strings.

A file with a `"` in it can be read in two ways. Quoted: strict RFC 4180, where a quoted field ends with a quote
followed by a delimiter or the end of the line. Literal: a quote is an ordinary character, as in `7" tablet` or
`"Weird Al`. The first of these readings that fits is used:

1. quoted, if it has no error and no field spans lines;
2. literal, if the header has no quotes and every line has as many fields as the header. An unpaired quote then does
   not swallow the rows after it;
3. quoted, if it has no error (the fields really span lines);
4. quoted line by line, or literal, whichever fits more lines.

A line that does not fit is returned as a `Bad`; none is padded or merged. Lines end with LF, CR LF, or in files without
LF with CR. Elsewhere a CR that no faultless quoted reading explains is a blank.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from foster_cli.console import clean
from foster_cli.data.readers.rows import SHOWN, Bad, Piece, check_names
from foster_cli.errors import FosterError

_BLOCK = 1 << 24  # bytes parsed at a time; no record may be longer
#: What may separate fields. A blank separates only where nothing else does.
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
#: Stands for `::`, which is longer than a delimiter can be. A separator in ASCII, it occurs in no text.
_UNIT = "\x1f"
#: A CR that does not end a line with LF.
_CR = re.compile(rb"\r(?!\n|\Z)")


@dataclass(frozen=True)
class Form:
    """How a file is written: what separates its fields; its `header` (None: it begins with data), of `lines` lines
    that take `size` bytes; the fields of its first line."""

    delimiter: str
    header: list[str] | None
    lines: int
    size: int
    first: list[str]


def delimiter_of(data: bytes, usual: str | None) -> str:
    """The delimiter: `usual` if the first line holds it, else the most frequent of the others that it holds."""
    line = first_line(data)
    if usual is not None and usual in line:
        return usual
    if "::" in line and (usual is None or not any(sign in line for sign in "\t;|")):
        return "::"
    best = max("\t,;|" if usual is None else ",\t;|", key=line.count)
    return best if best in line else (usual or " ")


def first_line(data: bytes) -> str:
    """The first line that is not blank, without its end."""
    line = next((line for line in _lines(data) if line.strip()), None)
    if line is None:
        raise FosterError("the table has only blank lines", "give a table with at least one row")
    return line.rstrip("\r\n")


def form_of(data: bytes, delimiter: str, named: bool) -> Form:
    """The form of a file. `named`: its first record holds names, which are stripped."""
    counted = _Counted(_lines(data))
    try:
        lines = (line.replace("::", _UNIT) for line in counted) if delimiter == "::" else counted
        single = _UNIT if delimiter == "::" else delimiter
        reader = csv.reader(lines, delimiter=single, skipinitialspace=delimiter == " ", strict=True)
        first = next((row for row in reader if any(cell.strip() for cell in row)), None)
        if first is None:
            raise FosterError("the table has only empty cells", "give a table with at least one row")
    except csv.Error:  # such as a quote that is never closed
        counted = _Counted(_lines(data))
        first = next(line for line in counted if line.strip()).rstrip("\r\n").split(delimiter)
    names = [cell.strip() for cell in first]
    return Form(delimiter, names if named else None, counted.lines if named else 0, counted.size if named else 0, first)


class _Counted:
    """Lines, with the number of lines and of UTF-8 bytes taken so far."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.source, self.lines, self.size = lines, 0, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self.source)
        self.lines, self.size = self.lines + 1, self.size + len(line.encode())
        return line


def read_delimited(data: bytes, form: Form, names: Sequence[str], columns: Sequence[str] | None, file: str) -> Piece:
    """The named columns (None: all) of the rows below the header. `names`: of all columns, in their order."""
    check_names(names, file)
    body = data[form.size :] if form.size else data
    if body.count(b"\r") != body.count(b"\r\n"):
        body = re.sub(rb"\r+\r(?=\n)|\r+\Z", b"\r", body) if b"\n" in data else body.replace(b"\r", b"\n")
    delimiter = form.delimiter
    if delimiter == "::":
        body, delimiter = body.replace(_UNIT.encode(), b" ").replace(b"::", _UNIT.encode()), _UNIT
    if delimiter == " ":
        body, delimiter = re.sub(rb"[ \t]+", b" ", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", body)), " "
    quoted_header = form.header is not None and '"' in first_line(data)
    quoted, multiline, bad = _reading(body, delimiter, len(names), quoted_header)
    if not multiline and body.count(b"\r") != body.count(b"\r\n") and _CR.search(body):
        body = _CR.sub(b" ", body)
        quoted, multiline, bad = _reading(body, delimiter, len(names), quoted_header)
    written = _written(body)
    if bad:
        body = _without(body, {line for line, _, _ in bad})
    table, more = _parse(body, delimiter, quoted, multiline, names, columns, file)
    exact = not multiline and written == table.num_rows + len(bad) + len(more)
    if more and not multiline:
        place = _filled(body)
        more = [(int(place[row - 1]), reason, text) for row, reason, text in more]
    found = [Bad(file, form.lines + line, reason, text[:SHOWN]) for line, reason, text in bad]
    found += [Bad(file, form.lines + n, why, text[:SHOWN], "row" if multiline else "line") for n, why, text in more]
    unit = "line" if exact else "row"
    return Piece(table, file, form.lines + 1 if exact else 1, unit, sorted(found, key=lambda one: one.line))


Fault = tuple[int, str, str]


def _written(body: bytes) -> int:
    """The lines of `body` up to the last that is not empty."""
    body = body.rstrip(b"\r\n")
    return body.count(b"\n") + bool(body)


def _filled(body: bytes) -> npt.NDArray[np.int64]:
    """The numbers (from 1) of the lines that are not empty."""
    ends = np.flatnonzero(np.frombuffer(body + b"\n", dtype=np.uint8) == ord("\n"))
    length = np.diff(ends, prepend=-1) - 1
    returned = np.frombuffer(b"\0" + body, dtype=np.uint8)[ends] == ord("\r")
    return np.flatnonzero(length - returned > 0) + 1


def _reading(body: bytes, delimiter: str, width: int, quoted_header: bool) -> tuple[bool, bool, list[Fault]]:
    """Whether quotes count, whether a quoted field may span lines, and the lines to leave out (from 1)."""
    if b'"' not in body:
        return False, False, []
    fault, multiline = _quoted_fault(body, delimiter, width)
    if fault is None and not multiline:
        return True, False, []
    ragged = [] if quoted_header else _ragged(body, delimiter, width)
    if not quoted_header and not ragged:
        return False, False, []
    if fault is None:
        return True, True, []
    misquoted = _misquoted(body, delimiter, width)
    if quoted_header or len(misquoted) <= len(ragged):
        return True, False, misquoted
    return False, False, ragged


def _lines(data: bytes) -> Iterator[str]:
    return iter(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""))


def _quoted_fault(body: bytes, delimiter: str, width: int) -> tuple[str | None, bool]:
    """The error of the strict quoted reading (or None), and whether a field spans lines."""
    reader = csv.reader(_lines(body), delimiter=delimiter, strict=True)
    last, multiline = 0, False
    limit = csv.field_size_limit(min(max(len(body), 1), 2**31 - 1))  # a field may be long: restored below
    try:
        for record in reader:
            multiline |= reader.line_num - last > 1
            if record and len(record) != width:
                return f"line {last + 1} has {len(record)} fields, the header {width}", multiline
            last = reader.line_num
    except csv.Error as error:
        return f"line {last + 1}: {clean(error)}", multiline
    finally:
        csv.field_size_limit(limit)
    return None, multiline


def _ragged(body: bytes, delimiter: str, width: int) -> list[Fault]:
    """The lines with more or fewer fields than `width`, quotes read literally."""
    found = []
    for number, line in enumerate(_lines(body), 1):
        text = line.rstrip("\r\n")
        if text and (fields := text.count(delimiter) + 1) != width:
            found.append((number, _fields(fields, width), text))
    return found


def _misquoted(body: bytes, delimiter: str, width: int) -> list[Fault]:
    """The lines that are no `width` fields by the strict quoted reading of each by itself."""
    found: list[Fault] = []
    limit = csv.field_size_limit(min(max(len(body), 1), 2**31 - 1))
    try:
        for number, line in enumerate(_lines(body), 1):
            text = line.rstrip("\r\n")
            try:
                fields = next(csv.reader([text], delimiter=delimiter, strict=True), [])
                if text and len(fields) != width:
                    found.append((number, _fields(len(fields), width), text))
            except csv.Error as error:
                found.append((number, clean(error), text))
    finally:
        csv.field_size_limit(limit)
    return found


def _fields(found: int, width: int) -> str:
    return f"has {found} field{'s' * (found != 1)}, not {width}"


def _without(body: bytes, lines: set[int]) -> bytes:
    """`body` with the lines of these numbers (from 1) emptied: Arrow skips them, and numbers stay."""
    parts = body.split(b"\n")
    return b"\n".join(b"" if i in lines else part for i, part in enumerate(parts, 1))


def _parse(
    body: bytes, delimiter: str, quoted: bool, multiline: bool, names: Sequence[str], columns: Sequence[str] | None,
    file: str,
) -> tuple[pa.Table, list[Fault]]:  # fmt: skip
    bad: list[Fault] = []

    def skip(row: Any) -> str:
        bad.append((row.number, _fields(row.actual_columns, row.expected_columns), row.text))
        return "skip"

    own = [name or f"\0{i}" for i, name in enumerate(names)]  # names of columns without one
    asked = set(own if columns is None else columns)
    wanted = [name for name in own if name in asked]
    if not body.strip():
        return pa.table({name: pa.array([], pa.string()) for name in wanted}), []
    parse = pa_csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=multiline, invalid_row_handler=skip
    )
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in own}, strings_can_be_null=False, include_columns=wanted
    )

    def read(block: int) -> pa.Table:
        bad.clear()
        options = pa_csv.ReadOptions(column_names=own, block_size=block, use_threads=False)
        return pa_csv.read_csv(pa.py_buffer(body), options, parse, convert)

    try:
        try:
            table = read(_BLOCK)
        except pa.ArrowInvalid:
            if len(body) <= _BLOCK:
                raise
            table = read(min(len(body) + 1, 2**31 - 1))  # a record is longer than a block
    except pa.ArrowInvalid as error:
        raise FosterError(
            f"{clean(file)} cannot be read: {clean(error, 200)}", "give every line the header's fields"
        ) from error
    return table.rename_columns(["" if name.startswith("\0") else name for name in table.column_names]), bad
