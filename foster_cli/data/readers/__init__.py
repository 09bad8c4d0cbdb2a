"""Reads a table of any kind as a data frame.

`open_table(given)` finds the files, the format, the encoding and the names of the columns; `Table.read(columns)` gives
the named columns of all rows, `Table.chunks(columns)` in parts that need little memory. Text becomes pandas `string`,
and so does every column of delimited text, so that "007" keeps its zeros. Dictionary-encoded text becomes a categorical
of strings, integers nullable Int64, times datetime64. Lists are joined with ", ". A file that cannot be read raises a
FosterError of one line; single rows that cannot be read are counted (`Read.bad`).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.readers import blocks
from foster_cli.data.readers.arrow import ARROW, PARQUET, STREAM, arrow_batches, arrow_names, read_arrow, tidy
from foster_cli.data.readers.blocks import Text, text_of
from foster_cli.data.readers.delimited import (
    Dialect,
    Form,
    delimiter_of,
    dialect_of,
    first_line,
    form_of,
    read_delimited,
)
from foster_cli.data.readers.encoding import Decoded
from foster_cli.data.readers.layouts import (
    ORDER,
    Layout,
    atomic_names,
    header_layout,
    layout_of,
    looks_like_data,
    refused,
    sequence_rows,
    sequences_of,
    users_named,
)
from foster_cli.data.readers.objects import is_one, objects_by_block, read_objects
from foster_cli.data.readers.rows import Bad, Piece, Place, Read
from foster_cli.data.readers.source import Part, parts_of
from foster_cli.data.schema import TIME_COLUMNS
from foster_cli.errors import FosterError, did_you_mean

__all__ = ["FORMATS", "ORDER", "ROWS", "Bad", "Read", "Table", "open_table", "read_table"]

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
#: Rows of a chunk of a table.
ROWS = 1 << 20
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
    text: Text | None = field(default=None, repr=False)
    """The text of its first file: its beginning, or all if that is short."""
    objects: Piece | None = field(default=None, repr=False)
    """Its first file's rows, if opening it had to read them all: of objects that are few or in one array."""
    _found: dict[int, Decoded] = field(default_factory=dict, repr=False)
    _dialects: dict[tuple[int, int | None], Dialect] = field(default_factory=dict, repr=False)
    """What is known of each file, so that `chunks` decides it once."""

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
        reads, places, count = list(self._filled(columns, None)), list[Place](), 0
        for read in reads:
            places += [replace(place, first=place.first + count) for place in read.places]
            count += len(read.frame)
        frames = [read.frame for read in reads]
        frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
        return Read(frame, places, [one for read in reads for one in read.bad])

    def chunks(self, columns: Sequence[str] | None = None, rows: int = ROWS) -> Iterator[Read]:
        """The same rows, one part of them after the other, so that few are in memory at a time: about `rows`, or those
        of a block of text (`blocks.SIZES`). A `Read` has at least one row, and counts its rows from 0.

        Types of columns may differ from part to part (integers in one, text in the next; categories), values do not.
        Of objects, the columns are `names`: those that are seen first. Three kinds of files are held as a whole: one
        JSON array, objects that span lines, and MIND's behaviors, of which the clicks of a user are put together.
        """
        return self._filled(columns, rows)

    def _filled(self, columns: Sequence[str] | None, rows: int | None) -> Iterator[Read]:
        """The reads that have rows, with the bad rows of those that have none. Raises FosterError if none has."""
        held: Read | None = None
        bad: list[Bad] = []
        for read in self._reads(columns, rows):
            if not len(read.frame):
                (bad if held is None else held.bad).extend(read.bad)
                continue
            if held is not None:
                yield held
            held = Read(read.frame, read.places, [*bad, *read.bad])
            bad = []
        if held is not None:
            yield held
        elif bad:
            raise FosterError(f"{bad[0].where()} {bad[0].reason}", "give a table that can be read")
        else:
            raise FosterError(f"{clean(self.given)} has no rows", "give a table with at least one interaction or item")

    def _reads(self, columns: Sequence[str] | None, rows: int | None) -> Iterator[Read]:
        """The rows of each file in its pieces, which may have none. The order goes on from file to file."""
        start = 0
        for index, part in enumerate(self.parts):
            unfold = self.layout.unfold() if self.layout is not None and self.layout.unfold is not None else None
            count, last = 0, -1
            for piece in self._pieces(index, columns, rows):
                frame = tidy(piece.table, part.name)
                if unfold is not None and len(frame):
                    frame = unfold(frame)
                if columns is not None:
                    frame = frame[[name for name in columns if name in frame.columns]]
                if self.in_order and ORDER in frame.columns and len(frame):
                    frame = frame.assign(**{ORDER: frame[ORDER] + start}) if start else frame
                    last = max(last, int(frame[ORDER].max()))
                if self.layout is not None and self.layout.many:
                    piece = replace(piece, line=count + 1, unit="row")
                count += len(frame)
                yield Read(frame, _places(piece) if len(frame) else [], piece.bad)
            start = last + 1 if last >= 0 else start

    def _pieces(self, index: int, columns: Sequence[str] | None, rows: int | None) -> Iterator[Piece]:
        if self.kind in ("parquet", "arrow"):
            return self._columnar(self.parts[index], columns, rows)
        if index == 0 and self.objects is not None:
            return iter([self.objects])
        size = None if rows is None or (self.layout is not None and self.layout.whole) else blocks.SIZES.block
        text = self._text(index)
        return self._parsed(index, text if size else text.held(), columns, size)

    def _text(self, index: int) -> Text:
        """The text of a file, whose encoding is found once."""
        if index == 0 and self.text is not None:
            return self.text
        text = text_of(self.parts[index], self.encoding, self._found.get(index))
        self._found[index] = text.found
        return text

    def _columnar(self, part: Part, columns: Sequence[str] | None, rows: int | None) -> Iterator[Piece]:
        own = self.layout.columns if self.layout is not None else self.names
        wanted = own if columns is None or self.layout is not None else [name for name in own if name in columns]
        tables = iter([read_arrow(part, wanted)]) if rows is None else arrow_batches(part, wanted, rows)
        count = 0
        while True:
            try:
                table = next(tables, None)
            except KeyError as error:
                raise FosterError(
                    f"{clean(part.name)} has other columns than {clean(self.parts[0].name)}: no {clean(error.args[0])}",
                    "give parts of one table",
                ) from error
            if table is None:
                return
            yield Piece(table, part.name, count + 1)
            count += table.num_rows

    def _parsed(self, index: int, text: Text, columns: Sequence[str] | None, size: int | None) -> Iterator[Piece]:
        name = clean(self.parts[index].name)
        wanted = None if self.layout is not None and self.layout.unfold is not None else columns
        if self.kind in ("json", "python"):
            python = self.kind == "python" or None
            if size is None:
                return iter([read_objects(text.head, name, python)])
            own = self.layout.columns if self.layout is not None else self.names
            keys = [key for key in own if wanted is None or key in wanted]
            return objects_by_block(text, keys, name, python, size)
        if self.kind == "sequences":
            return _sequences(text, name, size)
        form, names = self._form(index, text, name)
        dialect = self._dialects.get((index, size))
        if dialect is None:
            dialect = dialect_of(text, form, len(names), size)
            if size is not None:
                kept = text if index == 0 else text.light()
                self._dialects[index, size] = replace(dialect, body=replace(dialect.body, text=kept))
        return read_delimited(dialect, names, wanted, name)

    def _form(self, index: int, text: Text, name: str) -> tuple[Form, Sequence[str]]:
        """How a file is written, and the names of its columns in their order there."""
        form, names = self.form, self.layout.columns if self.layout else self.names
        assert form is not None
        if index == 0:
            return form, names
        form = form_of(text.head, form.delimiter, form.header is not None, name)
        if form.header is None:
            return form, names
        own = atomic_names(form.header) or form.header
        if sorted(own) != sorted(names):
            raise FosterError(
                f"{name} has other columns than {clean(self.parts[0].name)}: {clean(', '.join(own))}",
                "give parts of one table",
            )
        return form, own


def _places(piece: Piece) -> list[Place]:
    """The places of the rows of a piece: they go on after each row that could not be read."""
    places, line, row = [Place(0, piece.file, piece.line, piece.unit)], piece.line, 0
    for one in piece.bad if piece.unit == "line" else []:
        if one.line == line:
            line += 1
            places[-1] = replace(places[-1], line=line)
        elif one.line > line:
            row += one.line - line
            line = one.line + 1
            places.append(Place(row, piece.file, line, piece.unit))
    return places


def _sequences(text: Text, name: str, size: int | None) -> Iterator[Piece]:
    named = users_named(
        lambda: (line for block in text.blocks(size) for line in block.decode().splitlines()), lists=True
    )
    if named is None:
        raise FosterError(f"{name} does not hold a sequence in each line", "leave out --format sequences")
    count, user = 0, 1
    for block in text.blocks(size):
        frame, user = sequence_rows(block.decode().splitlines(), named, user)
        yield Piece(pa.Table.from_pandas(frame, preserve_index=False), name, count + 1)
        count += len(frame)


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
    text = text_of(part, encoding)
    found = _text_table(str(given), parts, text, kind, columns)
    found.encoding, found.text = encoding, text
    if text.found.guessed:
        found.notes.append(f"{clean(part.name)} is taken to be {text.found.encoding} (--encoding says otherwise)")
    return found


def _text_table(given: str, parts: list[Part], text: Text, kind: str | None, columns: Sequence[str] | None) -> Table:
    part, data, name = parts[0], text.head, clean(parts[0].name)
    begin = data.lstrip()[:1]
    if kind in ("json", "python") or (kind is None and (begin == b"{" or (begin == b"[" and part.suffix != ".csv"))):
        return _objects_table(given, parts, text, kind)
    if kind == "sequences":
        return Table(given, parts, kind, ["user_id", "item_id", ORDER])
    useless = refused(first_line(data, name))
    if useless is not None:
        raise FosterError(f"{clean(part.name)} {useless.message}", useless.hint)
    delimiter = FORMATS[kind] if kind else delimiter_of(data, _USUAL.get(part.suffix), name)
    assert delimiter is not None
    form = form_of(data, delimiter, True, name)
    header = form.header or []
    if columns is None and not looks_like_data(header) and not _mind_like(data, delimiter):
        return _unfolding(Table(given, parts, kind or _kind(delimiter), atomic_names(header) or header, form=form))
    bare = form_of(data, delimiter, False, name)
    if columns is not None:
        if len(columns) != len(bare.first):
            raise FosterError(
                f"--columns names {len(columns)} columns, and line 1 of {clean(part.name)} has {len(bare.first)}",
                "name each of them",
            )
        return Table(given, parts, kind or _kind(delimiter), list(columns), form=bare)
    return _without_header(given, parts, data, delimiter, bare, kind)


def _objects_table(given: str, parts: list[Part], text: Text, kind: str | None) -> Table:
    """The table of a file of objects. The keys of the first `SIZES.names` bytes of them are its columns."""
    python = True if kind == "python" else None
    data, whole = text.beginning(None if is_one(text.head, python) else blocks.SIZES.names)
    piece = read_objects(data, clean(parts[0].name), python)
    table = Table(given, parts, kind or "json", [name for name in piece.table.column_names if name])
    if not table.names and piece.bad:
        raise FosterError(f"{piece.bad[0].where()} {piece.bad[0].reason}", "leave out --format, or mend the line")
    table.objects = piece if whole else None
    return _unfolding(table)


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
