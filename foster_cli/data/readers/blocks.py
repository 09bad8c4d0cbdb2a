"""Text in blocks of whole lines, so that a file need not fit into memory.

In: a part. Out: a `Text`: its beginning (`head`), and its UTF-8 bytes in blocks that end with a line (`blocks`), as
often as they are asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from foster_cli.console import clean
from foster_cli.data.readers.encoding import Decoded, check_room, decoded, room
from foster_cli.data.readers.source import Part
from foster_cli.errors import FosterError


@dataclass(frozen=True)
class Sizes:
    """Bytes of UTF-8: of the beginning, which tells the form of a file; of a block; of the objects whose keys name the
    columns."""

    head: int = 1 << 20
    block: int = 16 << 20
    names: int = 64 << 20


SIZES = Sizes()


@dataclass(frozen=True)
class Text:
    """The text of a part. `head`: its first lines, or all of it (`whole`)."""

    found: Decoded
    head: bytes
    whole: bool

    def open(self) -> BinaryIO:
        """The text in UTF-8."""
        return io.BytesIO(self.head) if self.whole else self.found.open()

    @cached_property
    def end(self) -> bytes:
        """What ends its lines: CR in a file without LF, else LF."""
        if b"\n" in self.head or self.whole:
            return b"\n" if b"\n" in self.head or b"\r" not in self.head else b"\r"
        with self.open() as file:
            while block := file.read(SIZES.head):
                if b"\n" in block:
                    return b"\n"
        return b"\r"

    def held(self) -> Text:
        """The same, read into memory as a whole. Raises FosterError if it does not fit."""
        return self if self.whole else Text(self.found, self.beginning(None)[0], True)

    def light(self) -> Text:
        """The same, to be kept without its beginning."""
        found = Text(self.found, b"", False)
        found.__dict__["end"] = self.end
        return found

    def beginning(self, size: int | None) -> tuple[bytes, bool]:
        """Its first lines, of about `size` bytes (None: all), and whether that is all."""
        if self.whole:
            return self.head, True
        with self.open() as file:
            if size is None:
                return file.read(), True
            return _lines(file, size, self.found.part)

    def blocks(self, size: int | None) -> Iterator[bytes]:
        """All of it in blocks of about `size` bytes (None: in one), each of which but the last ends with `end`."""
        if size is None:
            yield self.held().head
            return
        rest, taken, most = list[bytes](), 0, room()
        with self.open() as file:
            while data := file.read(size):
                cut = data.rfind(self.end) + 1
                if cut:
                    yield b"".join([*rest, memoryview(data)[:cut]])
                    rest, taken = [data[cut:]], len(data) - cut
                else:
                    rest.append(data)
                    taken += len(data)
                    check_room(self.found.part, taken, most)
        if taken:
            yield b"".join(rest)


def text_of(part: Part, encoding: str | None = None, found: Decoded | None = None) -> Text:
    """The text of a part that is in `encoding`, or as it was `found` to be before. Raises FosterError for what is empty
    or no text."""
    found = found or decoded(part, encoding)
    with found.open() as file:
        head, whole = _lines(file, SIZES.head, found.part)
    if not head.strip():
        raise FosterError(f"{clean(part.name)} is empty", "give a table with at least one row")
    return Text(found, head, whole)


def _lines(file: BinaryIO, size: int, part: Part) -> tuple[bytes, bool]:
    """The first lines, about `size` bytes and one that is not blank, and whether that is all."""
    head, most = b"", room()
    while block := file.read(size):
        head += block
        check_room(part, len(head), most)
        end = head.rfind(b"\n")
        cut = (end if end >= 0 else head.rfind(b"\r", 0, len(head) - 1)) + 1
        if head[:cut].strip() and file.read(1):
            return head[:cut], False
    return head, True
