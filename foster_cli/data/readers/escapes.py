"""Quotes that a backslash escapes, as MySQL and the files of Book-Crossing write them: made the doubled quotes of CSV.

In: the UTF-8 bytes of delimited text, in blocks of whole lines. Out: whether that reads more lines, and a block with
doubled quotes.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable

#: Lines by which the two readings are compared.
_JUDGED = 100_000


def doubled(data: bytes, delimiter: str) -> bytes:
    """`data`, whole lines, with `\\"` made `""`. One at the end of a field ends it, for a title may end with a
    backslash."""
    if b'\\"' not in data:
        return data
    end = re.escape(delimiter.encode())
    return re.sub(rb'\\"(?!' + end + rb"|\r?\n|\Z)", b'""', data)


def is_escaped(blocks: Callable[[], Iterable[bytes]], delimiter: str, width: int) -> bool:
    """Whether more of the lines of a text with `\\"` have `width` fields once it is `doubled`."""
    if len(delimiter) != 1:
        return False
    made = (doubled(block, delimiter) for block in blocks())
    return _faults(made, delimiter, width) < _faults(blocks(), delimiter, width)


def _faults(blocks: Iterable[bytes], delimiter: str, width: int) -> int:
    """How many of the first lines are not `width` fields, each read by itself."""
    count = 0
    lines = (line for block in blocks for line in io.TextIOWrapper(io.BytesIO(block), "utf-8", newline=""))
    for line in itertools.islice(lines, _JUDGED):
        if text := line.rstrip("\r\n"):
            try:
                count += len(next(csv.reader([text], delimiter=delimiter, strict=True))) != width
            except (csv.Error, StopIteration):
                count += 1
    return count
