"""Reads a table of any kind as a data frame.

`open_table(given)` finds the files, the format, the encoding and the names of the columns; `Table.read(columns)` gives
the named columns of all rows. Text becomes pandas `string`, and so does every column of delimited text, so that "007"
keeps its zeros. Dictionary-encoded text becomes a categorical of strings, integers nullable Int64, times datetime64.
Lists are joined with ", ". A file that cannot be read raises a FosterError of one line; single rows that cannot be read
are counted (`Read.bad`).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.readers.arrow import ARROW, PARQUET, STREAM, arrow_names, read_arrow, tidy
from foster_cli.data.readers.delimited import Form, delimiter_of, first_line, form_of, read_delimited
from foster_cli.data.readers.encoding import decoded
from foster_cli.data.readers.escapes import unescaped
from foster_cli.data.readers.layouts import (
    ORDER,
    Layout,
    atomic_names,
    header_layout,
    layout_of,
    looks_like_data,
    refused,
    sequences_of,
)
from foster_cli.data.readers.objects import read_objects
from foster_cli.data.readers.rows import Bad, Piece, Place, Read
from foster_cli.data.readers.source import Part, parts_of
from foster_cli.data.schema import TIME_COLUMNS
from foster_cli.errors import FosterError, did_you_mean

__all__ = ["FORMATS", "ORDER", "Bad", "Read", "Table", "open_table", "read_table"]

#: The formats by the name that `--format` takes, and the delimiter of delimited ones.
FORMATS: dict[str, str | None] = {
    "csv": ",", "tsv": "\t", "semicolon": ";", "bar": "|", "colons": "::", "blank": " ", "json": None, "python": None,
    "parquet": None, "arrow": None, "sequences": None,
}  # fmt: skip
_ARROW = (".parquet", ".pq", ".feather", ".arrow", ".ipc")
_USUAL = {".csv": ",", ".tsv": "\t"}
#: Kinds of files that are no tables of text, and what to do.
_OTHERS = {
    ".xls": "save it as CSV", ".xlsx": "save it as CSV", ".ods": "save it as CSV",
    ".pkl": "write it as parquet: a pickle can run code", ".pickle": "write it as parquet: a pickle can run code",
    ".npy": "write it as parquet", ".npz": "write it as parquet", ".h5": "write it as parquet",
    ".mat": "write it as parquet", ".rar": "unpack it", ".7z": "unpack it",
}  # fmt: skip
#: Records from which a layout without a header is known.
_FIRST = 50


@dataclass
class Table:
    """A table: one file or several of the same form. `given`: as it was typed; `kind`: of `FORMATS`; `names`: of its
    columns; `notes`: what the user should know of how it is read."""

    given: str
    parts: list[Part]
    kind: str
    names: list[str]
    encoding: str | None = None
    form: Form | None = None
    layout: Layout | None = None
    notes: list[str] = field(default_factory=list)
    text: bytes | None = field(default=None, repr=False)
    objects: Piece | None = field(default=None, repr=False)
    """What opening it has read of the first file already: its text until it is parsed, or its rows."""

    @property
    def stem(self) -> str:
        """The name of its file without endings."""
        name = self.parts[0].stem if len(self.parts) == 1 else Path(self.given.rstrip("/*")).name
        return name.split(".")[0]

    @property
    def bare(self) -> bool:
        """Whether it has no header, so that foster gave the names."""
        return self.kind == "sequences" or (self.form is not None and self.form.header is None)

    @property
    def in_order(self) -> bool:
        """Whether its rows have no times, but an order, which goes on from file to file."""
        timed = {name for group in TIME_COLUMNS for name in group}
        return ORDER in self.names and not any(name.lower() in timed for name in self.names)

    def read(self, columns: Sequence[str] | None = None) -> Read:
        """The named columns (None: all) of all rows."""
        frames, places, bad, count = list[pd.DataFrame](), list[Place](), list[Bad](), 0
        for part in self.parts:
            piece = self._piece(part, columns)
            frame = tidy(piece.table, part.name)
            if self.layout is not None and self.layout.unfold is not None:
                frame = self.layout.unfold(frame)
            if columns is not None:
                frame = frame[[name for name in columns if name in frame.columns]]
            if frames and self.in_order:
                frame = frame.assign(**{ORDER: frame[ORDER] + 1 + frames[-1][ORDER].max()})
            if len(frame):
                places += _places(piece, count)
                frames.append(frame)
            bad += piece.bad
            count += len(frame)
        if not frames:
            if bad:
                raise FosterError(f"{bad[0].where()} {bad[0].reason}", "give a table that can be read")
            raise FosterError(f"{clean(self.given)} has no rows", "give a table with at least one interaction or item")
        return Read(frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True), places, bad)

    def _piece(self, part: Part, columns: Sequence[str] | None) -> Piece:
        if self.kind in ("parquet", "arrow"):
            return self._columnar(part, columns)
        if part is self.parts[0]:
            return self._first(columns)
        data = _text(part, self.encoding)[0]
        return self._parsed(part, data, columns)

    def _columnar(self, part: Part, columns: Sequence[str] | None) -> Piece:
        own = self.layout.columns if self.layout is not None else self.names
        wanted = own if columns is None or self.layout is not None else [name for name in own if name in columns]
        try:
            table = read_arrow(part, list(wanted))
        except KeyError:
            table = None
        lost = next((name for name in wanted if table is None or name not in table.column_names), None)
        if table is None or lost is not None:
            raise FosterError(
                f"{clean(part.name)} has other columns than {clean(self.parts[0].name)}: no {clean(lost)}",
                "give parts of one table",
            )
        return Piece(table, part.name)

    def _first(self, columns: Sequence[str] | None) -> Piece:
        if self.objects is not None:
            return self.objects
        data, self.text = self.text, None
        return self._parsed(self.parts[0], data or _text(self.parts[0], self.encoding)[0], columns)

    def _parsed(self, part: Part, data: bytes, columns: Sequence[str] | None) -> Piece:
        name = clean(part.name)
        if self.kind in ("json", "python"):
            return read_objects(data, name, self.kind == "python" or None)
        if self.kind == "sequences":
            return Piece(_sequences(data, part), name)
        form = self.form
        assert form is not None
        names, wanted = self.layout.columns if self.layout else self.names, columns
        if self.layout is not None and self.layout.unfold is not None:
            wanted = None
        if part is not self.parts[0]:
            form = form_of(data, form.delimiter, form.header is not None)
            if form.header is not None:
                own = atomic_names(form.header) or form.header
                if sorted(own) != sorted(names):
                    raise FosterError(
                        f"{name} has other columns than {clean(self.parts[0].name)}: {clean(', '.join(own))}",
                        "give parts of one table",
                    )
                names = own
        return read_delimited(unescaped(data, form.delimiter, len(names)), form, names, wanted, name)


def _places(piece: Piece, count: int) -> list[Place]:
    """The places of the rows of a piece that follow `count` rows: they go on after each row that could not be read."""
    places, line, row = [Place(count, piece.file, piece.line, piece.unit)], piece.line, count
    for one in piece.bad if piece.unit == "line" else []:
        if one.line == line:
            line += 1
            places[-1] = replace(places[-1], line=line)
        elif one.line > line:
            row += one.line - line
            line = one.line + 1
            places.append(Place(row, piece.file, line, piece.unit))
    return places


def _text(part: Part, encoding: str | None) -> tuple[bytes, str | None]:
    """The UTF-8 text of a part, and the encoding that it was in, if that was guessed."""
    found = decoded(part, encoding)
    with found.open() as file:
        data = file.read()
    if not data.strip():
        raise FosterError(f"{clean(part.name)} is empty", "give a table with at least one row")
    return data, found.encoding if found.guessed else None


def _sequences(data: bytes, part: Part) -> pa.Table:
    found = sequences_of(data.decode().splitlines(), lists=True)
    if found is None:
        raise FosterError(f"{clean(part.name)} does not hold a sequence in each line", "leave out --format sequences")
    return pa.Table.from_pandas(found, preserve_index=False)


def open_table(
    given: str | Path, kind: str | None = None, encoding: str | None = None, columns: Sequence[str] | None = None,
    parts: list[Part] | None = None,
) -> Table:  # fmt: skip
    """The table that was typed as `given`: a file, a folder, a pattern, an archive, `-` or an address (`parts_of`).

    `kind`: of `FORMATS`, None: found from content and name; `columns`: the names, for a file without a header; `parts`:
    its files, if they are known. Raises FosterError for what cannot be read.
    """
    if kind is not None and kind not in FORMATS:
        hint = did_you_mean(kind, FORMATS)
        raise FosterError(f"--format {clean(kind)}: unknown", hint or f"use one of {', '.join(FORMATS)}")
    parts = parts or parts_of(given)
    part = parts[0]
    if part.suffix in _OTHERS:
        raise FosterError(f"{clean(part.name)}: unknown kind of file ({part.suffix})", _OTHERS[part.suffix])
    with part.open() as file:
        first = file.read(6)
    binary = first[:4] == PARQUET or first == ARROW or first[:4] == STREAM or part.suffix in _ARROW
    if kind in ("parquet", "arrow") or (kind is None and binary):
        return _unfolding(Table(str(given), parts, kind or "parquet", arrow_names(part)))
    data, guessed = _text(part, encoding)
    found = _text_table(str(given), parts, data, kind, columns)
    found.encoding, found.text = encoding, None if found.objects is not None else data
    if guessed:
        found.notes.append(f"{clean(part.name)} is taken to be {guessed} (--encoding says otherwise)")
    return found


def _text_table(given: str, parts: list[Part], data: bytes, kind: str | None, columns: Sequence[str] | None) -> Table:
    part, begin = parts[0], data.lstrip()[:1]
    if kind in ("json", "python") or (kind is None and (begin == b"{" or (begin == b"[" and part.suffix != ".csv"))):
        table = Table(given, parts, kind or "json", [])
        piece = read_objects(data, clean(part.name), True if kind == "python" else None)
        table.names = [name for name in piece.table.column_names if name]
        if not table.names and piece.bad:
            raise FosterError(f"{piece.bad[0].where()} {piece.bad[0].reason}", "leave out --format, or mend the line")
        table.objects = piece
        return _unfolding(table)
    if kind == "sequences":
        return Table(given, parts, kind, ["user_id", "item_id", ORDER])
    useless = refused(first_line(data))
    if useless is not None:
        raise FosterError(f"{clean(part.name)} {useless.message}", useless.hint)
    delimiter = FORMATS[kind] if kind else delimiter_of(data, _USUAL.get(part.suffix))
    assert delimiter is not None
    form = form_of(data, delimiter, named=True)
    header = form.header or []
    if columns is None and not looks_like_data(header) and not _mind_like(data, delimiter):
        return _unfolding(Table(given, parts, kind or _kind(delimiter), atomic_names(header) or header, form=form))
    bare = form_of(data, delimiter, named=False)
    if columns is not None:
        if len(columns) != len(bare.first):
            raise FosterError(
                f"--columns names {len(columns)} columns, and line 1 of {clean(part.name)} has {len(bare.first)}",
                "name each of them",
            )
        return Table(given, parts, kind or _kind(delimiter), list(columns), form=bare)
    return _without_header(given, parts, data, delimiter, bare, kind)


def _unfolding(table: Table) -> Table:
    """`table`, with a layout if its rows are no interactions as they stand."""
    layout = header_layout(table.names)
    if layout is not None:
        table.layout, table.names = layout, list(layout.names)
        table.notes.append(f"{clean(table.parts[0].name)} is read as: {clean(layout.name)}")
    return table


def _mind_like(data: bytes, delimiter: str) -> bool:
    layout = layout_of(_records(data, delimiter), delimiter)
    return layout is not None and layout.name.startswith("MIND")


def _kind(delimiter: str) -> str:
    return next(kind for kind, found in FORMATS.items() if found == delimiter)


def _records(data: bytes, delimiter: str) -> list[list[str]]:
    begin = io.TextIOWrapper(io.BytesIO(data), "utf-8")
    filled = (line.rstrip("\r\n") for line in begin if line.strip())
    lines = list(itertools.islice(filled, _FIRST))
    if delimiter == " ":
        return [line.split() for line in lines]
    if len(delimiter) == 1 and any('"' in line for line in lines):
        try:
            quoted = list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:
            quoted = []
        if quoted and len({len(row) for row in quoted}) == 1:
            return quoted
    return [[cell.strip().strip('"') for cell in line.split(delimiter)] for line in lines]


def _without_header(given: str, parts: list[Part], data: bytes, delimiter: str, form: Form, kind: str | None) -> Table:
    """The table of a file that begins with data, by its layout. Raises FosterError if none is known."""
    name, layout = clean(parts[0].name), layout_of(_records(data, delimiter), delimiter)
    if layout is not None:
        if layout.refused is not None:
            raise FosterError(f"{name} {layout.refused[0]}", layout.refused[1])
        note = f"{name} has no header; it is read as: {layout.name}"
        return Table(given, parts, kind or _kind(delimiter), list(layout.names), form=form, layout=layout, notes=[note])
    if kind is None and sequences_of(data[: 1 << 20].decode(errors="ignore").splitlines()[:1000]) is not None:
        note = f"{name} has no header; it is read as the sequence of a user in each line"
        return Table(given, parts, "sequences", ["user_id", "item_id", ORDER], notes=[note])
    shown = ", ".join(form.first[:6]) + (", …" if len(form.first) > 6 else "")
    raise FosterError(
        f"line 1 of {name} looks like data, not like a header: {clean(shown, 120)}",
        "name the columns: --columns user_id,item_id,timestamp,title, one name for each, or --format sequences if each "
        "line holds the items of a user",
    )


def read_table(path: str | Path) -> pd.DataFrame:
    """All columns of a table whose every row can be read. Raises FosterError for the first that cannot."""
    read = open_table(path).read()
    if read.bad:
        raise FosterError(f"{read.bad[0].where()} {read.bad[0].reason}", "mend or remove the line")
    return read.frame
