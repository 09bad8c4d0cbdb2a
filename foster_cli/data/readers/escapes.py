"""Quotes that a backslash escapes, as MySQL and the files of Book-Crossing write them: made the doubled quotes of CSV.

In: the UTF-8 bytes of delimited text. Out: the same, with doubled quotes where that reads more lines.
"""

from __future__ import annotations

import csv
import io
import re

#: Lines by which the two readings are compared.
_JUDGED = 100_000


def unescaped(data: bytes, delimiter: str, width: int) -> bytes:
    """`data` with `\\"` made `""`, if more of its lines then have `width` fields. One at the end of a field ends it: a
    title may end with a backslash."""
    if b'\\"' not in data or len(delimiter) != 1:
        return data
    end = re.escape(delimiter.encode())
    made = re.sub(rb'\\"(?!' + end + rb"|\r?\n|\Z)", b'""', data)
    return made if _faults(made, delimiter, width) < _faults(data, delimiter, width) else data


def _faults(data: bytes, delimiter: str, width: int) -> int:
    """How many of the first lines are not `width` fields, each read by itself."""
    count = 0
    for line, _ in zip(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), range(_JUDGED), strict=False):
        if text := line.rstrip("\r\n"):
            try:
                count += len(next(csv.reader([text], delimiter=delimiter, strict=True))) != width
            except (csv.Error, StopIteration):
                count += 1
    return count
