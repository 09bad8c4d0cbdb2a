"""What is fuzzed: one function of bytes for each reader of text that others wrote.

An entry returns whether the bytes were read. It raises whatever is no `FosterError` of one printable line with a hint,
and AssertionError where what was read cannot be right.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable

import pandas as pd
import pyarrow as pa

from foster_cli.data.ids import encode_ids
from foster_cli.data.readers import FORMATS, Table, open_table
from foster_cli.data.readers.archive import is_tar, is_zip, tar_members, unpacked, zip_members
from foster_cli.data.readers.encoding import decoded
from foster_cli.data.readers.source import Part
from foster_cli.data.texts import clean_text, fields_of, template
from foster_cli.data.times import read_times
from foster_cli.data.where import parse_where
from foster_cli.errors import FosterError

_DELIMITED = [None, "csv", "tsv", "semicolon", "bar", "colons", "blank", "sequences"]
_OBJECTS = [None, "json", "python"]
_ENCODINGS = [None, "utf-8", "latin-1", "utf-16", "gb18030", "shift_jis", "utf-7", "iso2022_kr"]


def _part(data: bytes, name: str) -> Part:
    stem, _, suffix = name.rpartition(".")
    return Part(name, stem, f".{suffix}", None, lambda: io.BytesIO(data))


def one_line(error: FosterError) -> None:
    """Check the form of an error: printable, with a hint."""
    for text in (error.message, error.hint):
        assert text, "an error without message or hint"
        bad = [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
        assert not bad, f"{bad} in {text!r}"
        assert len(text) < 4000, f"{len(text)} characters: {text[:200]}"


def _refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except FosterError as error:
        one_line(error)
        return False
    return True


def _read(table: Table) -> None:
    read = table.read()
    assert len(read.frame) > 0
    read.place(len(read.frame) - 1)
    for one in read.bad:
        assert one.line > 0 and one.reason
    for name in list(read.frame.columns)[:3]:
        ids = encode_ids(read.frame[name], "item")
        assert len(ids.codes) == len(read.frame)
        assert all(name == name.strip() and name for name in ids.names)


def delimited(data: bytes) -> bool:
    """Delimited text, and sequences. The first byte chooses the format."""
    kind, data = _DELIMITED[data[0] % len(_DELIMITED)] if data else None, data[1:]
    return _refused(lambda: _read(open_table("t.csv", kind, "utf-8", None, [_part(data, "t.csv")])))


def objects(data: bytes) -> bool:
    """JSON and Python literals. The first byte chooses the format."""
    kind, data = _OBJECTS[data[0] % len(_OBJECTS)] if data else None, data[1:]
    return _refused(lambda: _read(open_table("t.jsonl", kind, "utf-8", None, [_part(data, "t.jsonl")])))


def encoding(data: bytes) -> bool:
    """Text of an encoding that is given (by the first byte) or found."""
    name, data = _ENCODINGS[data[0] % len(_ENCODINGS)] if data else None, data[1:]

    def read() -> None:
        with decoded(_part(data, "t.csv"), name).open() as stream:
            assert "\0" not in stream.read().decode()

    return _refused(read)


def archive(data: bytes) -> bool:
    """Compressed streams, and zip and tar archives."""

    def read() -> None:
        opener, head, _ = unpacked(lambda: io.BytesIO(data), "t.zip")
        if is_zip(head):
            members = zip_members(io.BytesIO(data), "t.zip")  # type: ignore[arg-type]  # ZipFile takes a file too
        elif is_tar(head):
            members = tar_members(opener, "t.tar")
        else:
            with opener() as stream:
                while stream.read(1 << 20):
                    pass
            return
        for member in members[:4]:
            with member.open() as stream:
                stream.read(1 << 22)

    return _refused(read)


def times(data: bytes) -> bool:
    """A column of times, a value in each line; one that begins with # is a column of floats."""
    text = data.decode(errors="replace")

    def read() -> None:
        if text.startswith("#"):
            values = []
            for cell in text[1:].split("\n"):
                try:
                    values.append(float(cell))
                except ValueError:
                    values.append(float("nan"))
            series = pd.Series(values, name="time", dtype="float64")
        else:
            series = pd.Series(text.split("\n"), name="time", dtype=pd.StringDtype("pyarrow"))
        found = read_times(series)
        assert len(found.ms) == len(found.order) == len(found.good) == len(series)
        good = found.good
        assert (found.ms[good] * 1_000_000 <= found.order[good] + 500_000_000).all()
        assert (found.ms[good] >= -2_208_988_801_000).all() and (found.ms[good] <= 4_133_980_800_000).all()

    return _refused(read)


def texts(data: bytes) -> bool:
    """A cell, and a template (the first line) of two columns."""
    form, _, cell = data.decode(errors="replace").partition("\n")

    def read() -> None:
        for labels in (False, True):
            cleaned = clean_text(cell, labels)
            assert clean_text(cleaned, labels) == cleaned and "\n" not in cleaned
            cleaned.encode()
        fields_of(form, ["title", "genres"])
        made = template(form, {"title": [cleaned, ""], "genres": ["", cleaned[:10]]})
        assert len(made) == 2

    return _refused(read)


def where(data: bytes) -> bool:
    """A condition (the first line) on a column with a value in each further line, as text and as numbers."""
    text, _, rest = data.decode(errors="replace").partition("\n")
    cells = rest.split("\n")

    def read() -> None:
        condition = parse_where(text)
        for series in (
            pd.Series(cells, name="x", dtype=pd.StringDtype("pyarrow")), pd.Series(range(len(cells)), name="x"),
            pd.Series([i / 7 for i in range(len(cells))], name="x"),
        ):  # fmt: skip
            assert len(condition.mask(series)) == len(cells)

    return _refused(read)


ENTRIES: dict[str, Callable[[bytes], bool]] = {
    "delimited": delimited, "objects": objects, "encoding": encoding, "archive": archive, "times": times,
    "texts": texts, "where": where,
}  # fmt: skip

assert set(filter(None, (*_DELIMITED, *_OBJECTS))) | {"parquet", "arrow"} == set(FORMATS)
pa.set_cpu_count(1)
