"""Parses delimited text (UTF-8, one file) as Arrow tables of strings, one for each block of it.

How a file is read is decided over all of its lines, which are looked at in blocks too (`dialect_of`). A file with a `"`
in it can be read in two ways. Quoted: strict RFC 4180, where a quoted field ends with a quote followed by a delimiter
or the end of the line. Literal: a quote is an ordinary character, as in `7" tablet` or `"Weird Al`. The first of these
readings that fits is used:

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
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from foster_cli.console import clean
from foster_cli.data.ahead import ahead
from foster_cli.data.readers.blocks import Text
from foster_cli.data.readers.escapes import doubled, is_escaped
from foster_cli.data.readers.rows import SHOWN, Bad, Piece, check_names
from foster_cli.errors import FosterError

_BLOCK = 1 << 24  # bytes parsed at a time; no record may be longer
_CACHED = 1 << 18  # bytes that the processor works on quickly
#: What may separate fields. A blank separates only where nothing else does.
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
#: Stands for `::`, which is longer than a delimiter can be. A separator in ASCII, it occurs in no text.
_UNIT = "\x1f"
_QUOTE, _LF, _CR_SIGN = b'"\n\r'
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


def delimiter_of(data: bytes, usual: str | None, file: str) -> str:
    """The delimiter: `usual` if the first line holds it, else the most frequent of the others that it holds."""
    line = first_line(data, file)
    if usual is not None and usual in line:
        return usual
    if "::" in line and (usual is None or not any(sign in line for sign in "\t;|")):
        return "::"
    best = max("\t,;|" if usual is None else ",\t;|", key=line.count)
    return best if best in line else (usual or " ")


def first_line(data: bytes, file: str) -> str:
    """The first line that is not blank, without its end."""
    line = next((line for line in _lines(data) if line.strip()), None)
    if line is None:
        raise FosterError(f"{file} has only blank lines", "give a table with at least one row")
    return line.rstrip("\r\n")


def form_of(data: bytes, delimiter: str, named: bool, file: str) -> Form:
    """The form of a file. `named`: its first record holds names, which are stripped."""
    counted = _Counted(_lines(data))
    try:
        lines = (line.replace("::", _UNIT) for line in counted) if delimiter == "::" else counted
        single = _UNIT if delimiter == "::" else delimiter
        reader = csv.reader(lines, delimiter=single, skipinitialspace=delimiter == " ", strict=True)
        first = next((row for row in reader if any(cell.strip() for cell in row)), None)
        if first is None:
            raise FosterError(f"{file} has only empty cells", "give a table with at least one row")
    except csv.Error:  # such as a quote that is never closed
        counted = _Counted(_lines(data))
        first = next(line for line in counted if line.strip()).rstrip("\r\n").split(delimiter)
    names = [cell.strip() for cell in first]
    return Form(delimiter, names if named else None, counted.lines if named else 0, counted.size if named else 0, first)


class _Counted:
    """Lines, with the number of lines and of UTF-8 bytes taken so far."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.source, self.lines, self.size, self.last = lines, 0, 0, ""

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        self.last = next(self.source)
        self.lines, self.size = self.lines + 1, self.size + len(self.last.encode())
        return self.last


@dataclass(frozen=True)
class Body:
    """The lines below the header in blocks of about `size` bytes (None: in one), with the signs that Arrow takes:
    `escaped`: a backslash escapes quotes; `returns`: a CR within a line is a blank; `ends`: of the blocks, if fields
    span lines."""

    text: Text
    form: Form
    size: int | None
    escaped: bool = False
    returns: bool = False
    ends: Sequence[int] | None = None

    @property
    def delimiter(self) -> str:
        """What separates the fields."""
        return _UNIT if self.form.delimiter == "::" else self.form.delimiter

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks() if self.ends is None else _recut(self._blocks(), self.ends)

    def _blocks(self) -> Iterator[bytes]:
        skip = self.form.size
        for block in self.text.blocks(self.size):
            body = doubled(block, self.form.delimiter) if self.escaped else block
            if skip:
                body, skip = body[skip:], max(skip - len(body), 0)
            if body:
                yield self._plain(body)

    def _plain(self, body: bytes) -> bytes:
        if self.text.end == b"\r":
            body = body.replace(b"\r", b"\n")
        elif _odd(body):
            body = re.sub(rb"\r+\r(?=\n)|\r+\Z", b"\r", body)
        if self.form.delimiter == "::":
            body = body.replace(_UNIT.encode(), b" ").replace(b"::", _UNIT.encode())
        elif self.form.delimiter == " ":
            body = _single_blanks(body)
        return _CR.sub(b" ", body) if self.returns and _odd(body) else body


def _single_blanks(body: bytes) -> bytes:
    """Lines with one blank between fields, and none around them."""
    several = b"\t" in body or b"  " in body
    if not (several or b" \n" in body or b"\n " in body or body.startswith(b" ") or body.endswith(b" ")):
        return body
    return b"".join(
        re.sub(rb"[ \t]+", b" ", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", lines)) for lines in _sliced(body, _CACHED)
    )


def _sliced(body: bytes, size: int) -> Iterator[bytes]:
    """Whole lines of about `size` bytes at a time."""
    begin = 0
    while begin < len(body):
        end = body.rfind(b"\n", begin, begin + size) + 1 or body.find(b"\n", begin) + 1 or len(body)
        yield body[begin:end]
        begin = end


def _odd(body: bytes) -> bool:
    """Whether there is a CR that no LF follows."""
    return b"\r" in body and body.count(b"\r") != body.count(b"\r\n")


def _recut(blocks: Iterator[bytes], ends: Sequence[int]) -> Iterator[bytes]:
    """The same bytes in blocks that end where `ends` says, and one of the rest."""
    rest, at, left = b"", 0, list(reversed(ends))
    for block in blocks:
        rest += block
        while left and left[-1] - at <= len(rest):
            size = left.pop() - at
            yield rest[:size]
            rest, at = rest[size:], at + size
    if rest:
        yield rest


@dataclass(frozen=True)
class Dialect:
    """How the body of a file is read. `quoted`: quotes count; `multiline`: a quoted field may span lines; `leave`: by
    what the lines to leave out are known; `exact`: each line is a row or a bad one; `empty`: all others are blank."""

    body: Body
    quoted: bool
    multiline: bool
    leave: Leave | None
    exact: bool
    empty: bool


def dialect_of(text: Text, form: Form, width: int, size: int | None) -> Dialect:
    """How a file with `width` columns is read, which all of its lines decide. Its blocks will be of about `size` bytes
    (None: one)."""
    body = Body(text, form, size)
    seen = _Seen(body, width)
    if seen.escapes or b'\\"' in text.head[: form.size]:
        body = replace(body, escaped=is_escaped(lambda: text.blocks(size), form.delimiter, width))
    quoted_header = form.header is not None and b'"' in text.head[: form.size]
    faultless = seen.faultless and not body.escaped
    reading = _reading(body, width, quoted_header, faultless) if seen.quotes else _LITERAL
    if seen.returns and not reading[1]:
        body = replace(body, returns=True)
        faultless = seen.faultless and not body.escaped
    reading = _reading(body, width, quoted_header, faultless) if seen.quotes else _LITERAL
    quoted, multiline, leave = reading
    if multiline and size is not None:
        body = replace(body, ends=_record_ends(body, size))
    dialect = Dialect(body, quoted, multiline, leave, seen.exact and not multiline, seen.empty)
    if leave is not None and all(not _kept(dialect, block, width)[0].strip() for block in body):
        return replace(dialect, empty=True)
    return dialect


class _Seen:
    """What the blocks of a body hold. `faultless`: its quotes are, and it has some."""

    def __init__(self, body: Body, width: int) -> None:
        self.quotes = self.escapes = self.returns = False
        self.exact = self.empty = self.faultless = True
        gap = False  # whether the lines before are empty
        without = 0  # the blocks before the first quote
        for block, quotes, faultless in ahead(self._checked(body, width)):
            self.quotes |= quotes
            without += not self.quotes
            self.faultless &= faultless
            self.escapes |= quotes and b'\\"' in block
            self.returns |= _odd(block) and _CR.search(block) is not None
            self.empty = self.empty and block.isspace()
            filled = _filled_bytes(block)
            if filled and self.exact:
                self.exact = not gap and not _hollow(block, filled)
            gap = gap or not filled or block.count(b"\n", filled) > 1
        begin = itertools.islice(body, without)
        self.faultless &= self.quotes and all(_faultless(block, body.delimiter, width) for block in begin)

    def _checked(self, body: Body, width: int) -> Iterator[tuple[bytes, bool, bool]]:
        """The blocks, whether they have quotes, and whether these are faultless, from the first block with one to the
        first with a fault."""
        some, faultless = False, True
        for block in ahead(iter(body)):
            quotes = b'"' in block
            some |= quotes
            faultless = faultless and (not some or _faultless(block, body.delimiter, width))
            yield block, quotes, faultless


def _filled_bytes(block: bytes) -> int:
    """The bytes before the line ends at the end."""
    last = block[-_CACHED:]
    filled = len(last.rstrip(b"\r\n"))
    return len(block) - len(last) + filled if filled else len(block.rstrip(b"\r\n"))


def _hollow(block: bytes, filled: int) -> bool:
    """Whether one of the lines in the first `filled` bytes is empty."""
    if block.startswith((b"\n", b"\r\n")):
        return True
    signs, returned = np.frombuffer(block, np.uint8, filled), b"\r" in block
    for begin in range(0, filled, _CACHED):
        some = signs[begin : begin + _CACHED + 2]
        ends = some == _LF
        if (ends[1:] & ends[:-1]).any():
            return True
        if returned and (ends[2:] & ends[:-2] & (some[1:-1] == _CR_SIGN)).any():
            return True
    return False


def read_delimited(dialect: Dialect, names: Sequence[str], columns: Sequence[str] | None, file: str) -> Iterator[Piece]:
    """The named columns (None: all) of the rows below the header, a piece for each block. `names`: of all columns, in
    their order."""
    check_names(names, file)
    line = records = dialect.body.form.lines
    rows = 0
    for body in dialect.body:
        kept, bad = _kept(dialect, body, len(names))
        table, more = _parse(kept, dialect, names, columns, file)
        given = table.num_rows
        if more and not dialect.multiline:
            place = _filled(kept)
            more = [(int(place[row - 1]), reason, text) for row, reason, text in more]
        found = [Bad(file, line + number, reason, text[:SHOWN]) for number, reason, text in bad]
        if dialect.multiline:
            found += [Bad(file, records + row, reason, text[:SHOWN], "row") for row, reason, text in more]
        else:
            found += [Bad(file, line + number, reason, text[:SHOWN]) for number, reason, text in more]
        at, unit = (line + 1, "line") if dialect.exact else (rows + 1, "row")
        yield Piece(table, file, at, unit, sorted(found, key=lambda one: one.line))
        line, rows, records = line + body.count(b"\n"), rows + given, records + given + len(more)


Fault = tuple[int, str, str]
#: The lines to leave out (from 1) of lines, by the delimiter and the number of the columns.
Leave = Callable[[Iterator[str], str, int], Iterator[Fault]]
_LITERAL: tuple[bool, bool, Leave | None] = (False, False, None)


def _kept(dialect: Dialect, body: bytes, width: int) -> tuple[bytes, list[Fault]]:
    """`body` without the lines that are to be left out, and those."""
    if dialect.leave is None:
        return body, []
    with _long_fields():
        bad = list(dialect.leave(_lines(body), dialect.body.delimiter, width))
    return _without(body, {number for number, _, _ in bad}), bad


def _filled(body: bytes) -> npt.NDArray[np.int64]:
    """The numbers (from 1) of the lines that are not empty."""
    ends = np.flatnonzero(np.frombuffer(body + b"\n", dtype=np.uint8) == ord("\n"))
    length = np.diff(ends, prepend=-1) - 1
    returned = np.frombuffer(b"\0" + body, dtype=np.uint8)[ends] == ord("\r")
    return np.flatnonzero(length - returned > 0) + 1


def _reading(body: Body, width: int, quoted_header: bool, faultless: bool) -> tuple[bool, bool, Leave | None]:
    """Whether quotes count, whether a quoted field may span lines, and by what the lines to leave out are known.
    `faultless`: its quotes are known to be."""
    if faultless or all(_faultless(block, body.delimiter, width) for block in body):
        return True, False, None
    with _long_fields():
        fault, multiline = _quoted_fault(body, width)
        if fault is None and not multiline:
            return True, False, None
        if not quoted_header and next(_ragged(_all_lines(body), body.delimiter, width), None) is None:
            return _LITERAL
        if fault is None:
            return True, True, None
        if quoted_header:
            return True, False, _misquoted
        ragged, misquoted = (sum(1 for _ in leave(_all_lines(body), body.delimiter, width)) for leave in _LEAVES)
        return (True, False, _misquoted) if misquoted <= ragged else (False, False, _ragged)


def _faultless(block: bytes, delimiter: str, width: int) -> bool:
    """Whether the strict quoted reading of lines surely has no error, and no field spans lines: each line has `width`
    fields, and quotes are at both ends of a field, or doubled within quotes."""
    if _odd(block):
        return False
    return all(_well_quoted(lines, ord(delimiter), width) for lines in _sliced(block, 4 * _CACHED))


def _well_quoted(lines: bytes, delimiter: int, width: int) -> bool:
    signs = np.frombuffer(b"\n" + lines + (b"" if lines.endswith(b"\n") else b"\n"), np.uint8)
    quotes = np.flatnonzero(signs == _QUOTE)
    if len(quotes) % 2:
        return False
    before, after = signs[quotes[::2] - 1], signs[quotes[1::2] + 1]
    if not ((before == delimiter) | (before == _LF) | (before == _QUOTE)).all():
        return False
    if not ((after == delimiter) | (after == _LF) | (after == _CR_SIGN) | (after == _QUOTE)).all():
        return False
    ends, between = np.flatnonzero(signs == _LF), np.flatnonzero(signs == delimiter)
    if (np.searchsorted(quotes, ends) % 2).any():
        return False
    between = between[np.searchsorted(quotes, between) % 2 == 0]
    fields = np.diff(np.searchsorted(between, ends)) + 1
    filled = np.diff(ends) - (signs[ends[1:] - 1] == _CR_SIGN) > 1
    return bool((fields[filled] == width).all())


def _lines(data: bytes) -> Iterator[str]:
    return iter(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""))


def _all_lines(blocks: Iterable[bytes]) -> Iterator[str]:
    return itertools.chain.from_iterable(map(_lines, blocks))


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a field be long for the csv module."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _quoted_fault(body: Body, width: int) -> tuple[str | None, bool]:
    """The error of the strict quoted reading (or None), and whether a field spans lines."""
    reader = csv.reader(_all_lines(body), delimiter=body.delimiter, strict=True)
    last, multiline = 0, False
    try:
        for record in reader:
            multiline |= reader.line_num - last > 1
            if record and len(record) != width:
                return f"line {last + 1} has {len(record)} fields, the header {width}", multiline
            last = reader.line_num
    except csv.Error as error:
        return f"line {last + 1}: {clean(error)}", multiline
    return None, multiline


def _record_ends(body: Body, size: int) -> list[int]:
    """Where to cut a body whose fields span lines: the bytes before the end of a record, about every `size`."""
    counted, ends = _Counted(_all_lines(body)), [0]
    with _long_fields():
        for _ in csv.reader(counted, delimiter=body.delimiter, strict=True):
            if counted.size - ends[-1] >= size and counted.last.endswith("\n"):
                ends.append(counted.size)
    return ends[1:]


def _ragged(lines: Iterator[str], delimiter: str, width: int) -> Iterator[Fault]:
    """The lines with more or fewer fields than `width`, quotes read literally."""
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if text and (fields := text.count(delimiter) + 1) != width:
            yield number, _fields(fields, width), text


def _misquoted(lines: Iterator[str], delimiter: str, width: int) -> Iterator[Fault]:
    """The lines that are no `width` fields by the strict quoted reading of each by itself."""
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        try:
            fields = next(csv.reader([text], delimiter=delimiter, strict=True), [])
            if text and len(fields) != width:
                yield number, _fields(len(fields), width), text
        except csv.Error as error:
            yield number, clean(error), text


_LEAVES: tuple[Leave, Leave] = (_ragged, _misquoted)


def _fields(found: int, width: int) -> str:
    return f"has {found} field{'s' * (found != 1)}, not {width}"


def _without(body: bytes, lines: set[int]) -> bytes:
    """`body` with the lines of these numbers (from 1) emptied: Arrow skips them, and numbers stay."""
    parts = body.split(b"\n")
    return b"\n".join(b"" if i in lines else part for i, part in enumerate(parts, 1))


def _parse(
    body: bytes, dialect: Dialect, names: Sequence[str], columns: Sequence[str] | None, file: str
) -> tuple[pa.Table, list[Fault]]:
    bad: list[Fault] = []

    def skip(row: Any) -> str:
        bad.append((row.number, _fields(row.actual_columns, row.expected_columns), row.text))
        return "skip"

    own = [name or f"\0{i}" for i, name in enumerate(names)]  # names of columns without one
    asked = set(own if columns is None else columns)
    wanted = [name for name in own if name in asked]
    if dialect.empty or not body.strip(b"\r\n"):
        return pa.table({name: pa.array([], pa.string()) for name in wanted}), []
    parse = pa_csv.ParseOptions(
        delimiter=dialect.body.delimiter, quote_char='"' if dialect.quoted else False,
        newlines_in_values=dialect.multiline, invalid_row_handler=skip,
    )  # fmt: skip
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
