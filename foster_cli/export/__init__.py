"""The export formats, by name. A format writes a `SyntheticView` to an open binary file.

To add one: a module here with `write(view, file, top)`, and an entry in FORMATS.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foster_cli.errors import FosterError
from foster_cli.export import csv, jsonl, parquet

if TYPE_CHECKING:
    from foster_cli.export.view import Sink, SyntheticView


@dataclass(frozen=True)
class Format:
    """One way to write a synthetic set. `extension` has no dot; `binary` output is refused on a terminal."""

    name: str
    extension: str
    description: str
    write: Callable[[SyntheticView, Sink, int], None]
    binary: bool = False


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("jsonl", "jsonl", "one JSON object per position with its top items", jsonl.write),
        Format("parquet", "parquet", "one row per position and top item", parquet.write, binary=True),
        Format("csv", "csv", "the hard sequences, one item per position", csv.write),
    )
}


def get_format(name: str) -> Format:
    """The format called `name`, in any case. Raises FosterError that lists the formats."""
    if name.lower() in FORMATS:
        return FORMATS[name.lower()]
    near = difflib.get_close_matches(name.lower(), FORMATS, n=1, cutoff=0.4)
    known = ", ".join(FORMATS)
    hint = f"did you mean {near[0]}? Formats are {known}" if near else f"formats are {known}"
    raise FosterError(f"--format {name}: no such format", hint)
