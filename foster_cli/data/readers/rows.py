"""What a reader gives: rows with their places in the files, and the rows that it could not read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.errors import FosterError

#: Of the text of a row that could not be read, this many characters are kept.
SHOWN = 1000


@dataclass(frozen=True)
class Bad:
    """A row that could not be read: the file, its `line` (`unit`: or the number of the row), why, and its text."""

    file: str
    line: int
    reason: str
    text: str = ""
    unit: str = "line"

    def where(self) -> str:
        """Its place."""
        return f"{self.file} {self.unit} {self.line}"


@dataclass(frozen=True)
class Place:
    """Row `first` of a table is `line` of `file`, and the rows after it follow there."""

    first: int
    file: str
    line: int
    unit: str


@dataclass(frozen=True)
class Piece:
    """The rows of one file as an Arrow table. The first is `line` of the file, or its row 1 (`unit`)."""

    table: pa.Table
    file: str
    line: int = 1
    unit: str = "row"
    bad: list[Bad] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """R rows of a table, where they stand, and the rows that could not be read."""

    frame: pd.DataFrame
    places: list[Place]
    bad: list[Bad]

    def place(self, row: int) -> Place:
        """Where `row` stands: a `Place` whose `first` is the row."""
        i = bisect_right([place.first for place in self.places], row) - 1
        at = self.places[i] if i >= 0 else Place(0, "", 1, "row")
        return Place(row, at.file, at.line + row - at.first, at.unit)


def check_names(names: Sequence[str], file: str) -> None:
    """Raise FosterError if two columns of `file` have the same name. Columns without one are left out."""
    twice = sorted({name for name in names if name and list(names).count(name) > 1})
    if twice:
        raise FosterError(f"{clean(file)} has two columns named {clean(twice[0])}", "rename one of them")
