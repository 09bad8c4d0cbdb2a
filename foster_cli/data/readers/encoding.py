"""Text of any encoding as a stream of UTF-8.

`decoded(part)` finds the encoding: a byte order mark decides; what is valid UTF-8 is UTF-8; otherwise each of
`CANDIDATES` is tried on the lines that are not ASCII, and one is taken only if it reads well and no other does. The
stream checks every byte strictly, so that no text changes silently: what does not fit is a FosterError that names the
line.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import psutil
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.readers.plausible import CANDIDATES, LATIN, plausible, words_of
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.files import quoted

if TYPE_CHECKING:
    from foster_cli.data.readers.source import Part

_BLOCK = 1 << 20
#: A file of at most this many bytes is checked as a whole before it is taken for UTF-8, the beginning of a larger one.
_WHOLE, _BEGINNING = 256 << 20, 16 << 20
_SAMPLE = 1 << 20
#: Text that is read as a whole may take this share of the free memory: it is copied, and its table takes as much again.
_MOST_OF_MEMORY = 0.3
#: So much of the sample is judged, which takes about a second for all candidates.
_JUDGED = 60_000
#: A reading is taken from this plausibility on, and if the next one is worse by the margin.
_GOOD, _MARGIN, _POSSIBLE = 0.7, 0.12, 0.45

_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: Codecs of Python that are no encodings of files.
_NO_ENCODINGS = {
    "punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "palmos", "base64_codec",
    "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec",
}  # fmt: skip
_SEPARATORS = re.compile(r"::|[,;\t|\"]")


@dataclass(frozen=True)
class Decoded:
    """A part as text."""

    part: Part
    #: The encoding that the part is in, and whether it was guessed.
    encoding: str
    guessed: bool = False
    _mark: int = 0

    def open(self) -> BinaryIO:
        """The text in UTF-8, without a byte order mark. May be called repeatedly."""
        raw = _Utf8(self.part, self._mark) if self.encoding == "utf-8" else _Other(self)
        return _Whole(raw, _BLOCK)


class _Whole(io.BufferedReader):
    """Text that can be read as a whole as long as it fits into memory, which a bomb does not."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size >= 0:
            return super().read(size)
        most, found, taken = room(), list[bytes](), 0
        while block := super().read(16 * _BLOCK):
            found.append(block)
            taken += len(block)
            check_room(self.raw.part, taken, most)  # type: ignore[attr-defined]
        return b"".join(found)


def room() -> float:
    """The bytes of text that may be held at once."""
    return psutil.virtual_memory().available * _MOST_OF_MEMORY


def check_room(part: Part, taken: int, most: float) -> None:
    """Raise FosterError if `taken` bytes of text are more than `most`, the `room` before they were."""
    if taken > most:
        raise FosterError(
            f"{part.name} is larger than the memory here: more than {taken / 2**30:.1f} GiB when unpacked",
            "give it as parquet, of which only the needed columns are read, or on a machine with more memory",
        )


def decoded(part: Part, encoding: str | None = None) -> Decoded:
    """`part` as text. `encoding`: what the user says it is in; a byte order mark knows better.

    Raises FosterError if it is no text, or if the encoding is neither given nor certain.
    """
    named = _codec(encoding) if encoding is not None else None
    with part.open() as stream:
        head = stream.read(4)
    for mark, name in _ORDER_MARKS:
        if head.startswith(mark):
            return Decoded(part, name, _mark=len(mark))
    if named is not None:
        return Decoded(part, named)
    return _found(part)


def _codec(name: str) -> str:
    """The codec of an encoding that the user named."""
    shown = clean(name)
    try:
        info = codecs.lookup(name)
        if not info._is_text_encoding or info.name.replace("-", "_") in _NO_ENCODINGS:
            raise LookupError
    except (LookupError, ValueError, UnicodeError) as error:
        named = (n for alias, codec in aliases.items() if codec not in _NO_ENCODINGS for n in (alias, codec))
        known = {n.replace("_", "-") for n in named}
        close = did_you_mean(name.lower().replace("_", "-"), sorted(known))
        hint = f"did you mean {close}?" if close else "give one such as utf-8, cp1252, gb18030 or shift_jis"
        raise FosterError(f"--encoding {shown}: unknown encoding", hint) from error
    return "utf-8" if info.name == "utf-8-sig" else info.name


# --- finding it


def _found(part: Part) -> Decoded:
    whole = part.path is None or part.path.stat().st_size <= _WHOLE
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = False  # whether an earlier block holds valid UTF-8 that is no ASCII
    read, block = 0, b""
    with part.open() as stream:
        blocks = iter(partial(stream.read, _BLOCK), b"")
        for block in blocks:
            if b"\0" in block:
                wide = _wide(block) if read == 0 else None
                if wide is None:
                    raise _no_text(part)
                return Decoded(part, wide, guessed=True)
            if b"\x1b$" in block and (name := _escaping(block)):
                return Decoded(part, name, guessed=True)
            if not _valid(decoder, block):
                return _guess(part, _sample(block, blocks), before)
            before |= not block.isascii() and not decoder.getstate()[0]
            read += len(block)
            if read >= (_WHOLE if whole else _BEGINNING):
                return Decoded(part, "utf-8")
        if not _valid(decoder, b"", final=True):
            return _guess(part, _sample(block, blocks), before)
    return Decoded(part, "utf-8")


def _valid(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    if not final and block.isascii() and decoder.getstate()[0] == b"":
        return True
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _wide(block: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: the bytes that are 0 for ASCII stand in the same place."""
    head = block[: 1 << 16]
    head = head[: len(head) // 4 * 4]
    if len(head) < 8:
        return None
    zeros = [head[i::4].count(0) * 4 / len(head) for i in range(4)]
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    options = (
        ("utf-32-le", zeros[2] > 0.9 and zeros[3] > 0.9 and zeros[0] < 0.1),
        ("utf-32-be", zeros[0] > 0.9 and zeros[1] > 0.9 and zeros[3] < 0.1),
        ("utf-16-le", odd > 0.4 and even < 0.01),
        ("utf-16-be", even > 0.4 and odd < 0.01),
    )
    for name, fits in options:
        if fits:
            try:
                text = codecs.getincrementaldecoder(name)().decode(head)
            except UnicodeDecodeError:
                return None
            return None if "\0" in text else name
    return None


def _escaping(block: bytes) -> str | None:
    """ISO-2022, of whose two-byte characters every byte is ASCII. Each of its lines begins as ASCII."""
    lines = b"\n".join(line for line in block.split(b"\n")[:-1] or [block] if b"\x1b" in line)
    for name in ("iso2022_jp", "iso2022_jp_3", "iso2022_kr"):
        try:
            text = lines.decode(name)
        except UnicodeDecodeError:
            continue
        if not text.isascii():
            return name
    return None


def _sample(block: bytes, blocks: Iterator[bytes]) -> bytes:
    """The lines from `block` on that hold non-ASCII bytes, about a MiB of them, none of them cut off."""
    found, rest, read = bytearray(), b"", 0
    while block:
        read += len(block)
        lines = re.split(rb"[\r\n]+", rest + block)
        rest = lines.pop()
        for line in lines:
            if not line.isascii():
                found += line[:4096] + b"\n" if len(line) <= 4096 else line + b"\n"
        if len(found) >= _SAMPLE or read >= _BEGINNING or len(rest) > _SAMPLE:
            break
        block = next(blocks, b"")
    if not rest.isascii() and (not block or not found):
        found += rest
    return bytes(found)


def _guess(part: Part, sample: bytes, before: bool) -> Decoded:
    mixed = sample.decode("utf-8", "surrogateescape")
    broken = sum("\udc80" <= c <= "\udcff" for c in mixed)
    intact = sum(c > "\x7f" for c in mixed) - broken
    if before or intact >= 2 * broken:
        raise _damaged_utf8(part)
    ranked = _ranked(sample)
    if ranked and ranked[0][0] >= _POSSIBLE:
        usual = next((r for r in ranked if r[1] in LATIN[:2]), None)
        first = usual if usual is not None and usual[0] >= max(0.9, ranked[0][0] - 0.03) else ranked[0]
        margin = max(_MARGIN, 4 / sum(b > 0x7F for b in sample[:1000]))  # little text is little evidence
        rivals = [r for r in ranked if r is not first and r[0] > max(first[0] - margin, _POSSIBLE)]
        rivals = [r for r in rivals if _rivals(r, first, first is usual)]
        if first[0] >= _GOOD and not rivals:
            return Decoded(part, first[1], guessed=True)
        raise _uncertain(part, [first, *rivals][:3])
    raise FosterError(
        f"{part.name} is not UTF-8, and its encoding is not known ({_first_line(part)})",
        "give --encoding NAME",
    )


def _ranked(sample: bytes) -> list[tuple[float, str, str]]:
    """(plausibility, encoding, text) of the readings of `sample`, the best first; of equal readings one."""
    found: dict[str, tuple[float, str, str]] = {}
    for name in CANDIDATES:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        judged = text[:_JUDGED]
        if len(judged) < len(text) and "\n" in judged:
            judged = judged[: judged.rindex("\n")]
        score = plausible(name, judged)
        if text not in found or score > found[text][0]:
            found[text] = (score, name, text)
    return sorted(found.values(), key=lambda f: -f[0])


def _rivals(other: tuple[float, str, str], first: tuple[float, str, str], usual: bool) -> bool:
    """Whether `other` reads about as well as `first` in the words that differ; if `first` is usual: clearly better."""
    words = [words_of(text[:_JUDGED]) for _, _, text in (other, first)]
    only = [a - b for a, b in (words, words[::-1])]
    scores = [plausible(r[1], "\n".join(sorted(w))) for r, w in zip((other, first), only, strict=True)]
    few = len(only[1]) < 15
    if usual:
        return scores[0] > scores[1] + (0.3 if few else 0.1)
    return scores[0] > scores[1] - (0.3 if few else 0.12)


def _uncertain(part: Part, readings: list[tuple[float, str, str]]) -> FosterError:
    lines = [text.split("\n") for _, _, text in readings]
    first = next((i for i in range(min(map(len, lines))) if len({t[i] for t in lines}) > 1), 0)
    names = [name for _, name, _ in readings]
    shown = [f"{_value(t[first])!r} in {n}" for t, n in zip(lines, names, strict=True)]
    options = " or ".join(f"--encoding {n}" for n in names)
    if len(shown) == 1:
        return FosterError(f"{part.name} is not UTF-8, and may read {shown[0]}", f"give {options} if that is right")
    return FosterError(f"{part.name} is not UTF-8, and may read {', '.join(shown)}", f"give {options}")


def _value(line: str) -> str:
    """The first field of `line` that is not ASCII."""
    fields = (f.strip() for f in _SEPARATORS.split(line))
    return clean(next((f for f in fields if f and not f.isascii()), line), 60)


# --- errors


def _line(part: Part, offset: int) -> int:
    """The line of byte `offset` (after decompression)."""
    breaks = returns = 0
    with part.open() as stream:
        while offset > 0 and (block := stream.read(min(_BLOCK, offset))):
            breaks, returns = breaks + block.count(b"\n"), returns + block.count(b"\r")
            offset -= len(block)
    return 1 + (breaks or returns)


def _first_broken(part: Part) -> tuple[int, UnicodeDecodeError] | None:
    """The offset and the error where `part` stops being UTF-8."""
    try:
        with _Utf8(part, 0) as stream:
            buffer = bytearray(_BLOCK)
            while stream.readinto(buffer):
                pass
    except FosterError as error:
        cause = error.__cause__
        return (stream.offset, cause) if isinstance(cause, UnicodeDecodeError) else None
    return None


def _first_line(part: Part) -> str:
    found = _first_broken(part)
    return f"line {_line(part, found[0])}" if found else "its end"


def _no_text(part: Part, line: int | None = None) -> FosterError:
    where = f" (line {line})" if line else ""
    return FosterError(f"{part.name} is no text, for it holds NUL bytes{where}", "give a table")


def _damaged_utf8(part: Part) -> FosterError:
    file = quoted(part.name) if part.path else "FILE"
    return FosterError(
        f"{part.name} is UTF-8 with damaged characters ({_first_line(part)})",
        f"remove them: iconv -c -f utf-8 -t utf-8 {file} > NEW, or give --encoding NAME if it is in another encoding",
    )


# --- the streams


def _is_utf8(data: bytes, size: int) -> bool:
    """Whether the first `size` bytes are UTF-8: by Arrow, which takes an eighth of Python's time."""
    try:
        offsets = pa.py_buffer(np.array([0, size], np.int32))
        pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _of_whole_characters(data: bytes) -> int:
    """How many of the bytes are before a character of UTF-8 that is cut at their end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return len(data) - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else len(data)
        if byte < 0x80:
            break
    return len(data)


class _Utf8(io.RawIOBase):
    """The bytes of a part as they are, each checked to be UTF-8. `offset`: of the first that is not, once found."""

    def __init__(self, part: Part, mark: int) -> None:
        super().__init__()
        self.part, self._source = part, part.open()
        self._source.read(mark)
        self._cut = b""  # the beginning of a character, at the end of the last block
        self.offset = mark

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        block = self._source.read(min(len(buffer), 4 * _BLOCK))
        if b"\0" in block:
            raise _no_text(self.part, _line(self.part, self.offset + block.index(b"\0")))
        data = self._cut + block if self._cut else block
        size = _of_whole_characters(data) if block else len(data)
        if not _is_utf8(data, size):
            try:
                data[:size].decode()
            except UnicodeDecodeError as error:
                self.offset += error.start - len(self._cut)
                line = _line(self.part, self.offset)
                raise FosterError(
                    f"{self.part.name} is not UTF-8 (line {line}: {error.reason})",
                    "say what it is in: --encoding NAME, such as cp1252 or gb18030",
                ) from error
        self._cut = data[size:]
        buffer[: len(block)] = block
        self.offset += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class _Other(io.RawIOBase):
    """A part in another encoding, as UTF-8."""

    def __init__(self, text: Decoded) -> None:
        super().__init__()
        self._text, self.part, self._source = text, text.part, text.part.open()
        self._source.read(text._mark)
        self._decoder = codecs.getincrementaldecoder(text.encoding)()
        self._ready = memoryview(b"")
        self._line, self._begun, self._ended = 1, False, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready and not self._ended:
            block = self._source.read(_BLOCK)
            self._ended = not block
            self._ready = memoryview(self._decode(block))
        given = min(len(buffer), len(self._ready))
        buffer[:given] = self._ready[:given]
        self._ready = self._ready[given:]
        return given

    def _decode(self, block: bytes) -> bytes:
        part, encoding = self._text.part, self._text.encoding
        try:
            text = self._decoder.decode(block, final=not block)
            if text and not self._begun:
                text, self._begun = text.removeprefix("\ufeff"), True
            found = text.encode()
        except UnicodeError as error:
            line, reason = self._line, str(error)
            if isinstance(error, UnicodeDecodeError):
                before = bytes(error.object[: error.start]).decode(encoding, "replace")
                line, reason = line + before.count("\n"), error.reason
            others = "another one: --encoding NAME" if self._text.guessed else "another --encoding, or none"
            raise FosterError(
                f"{part.name} is not {encoding} (line {line}: {clean(reason)})", f"give {others}"
            ) from error
        if "\0" in text:
            raise _no_text(part, self._line + text[: text.index("\0")].count("\n"))
        self._line += text.count("\n")
        return found

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
