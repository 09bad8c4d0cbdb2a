"""Opens what is packed: gzip, bzip2, xz, zstandard and lz4 streams, and the members of zip and tar archives.

Everything is recognised by its content, and everything streams: no function here holds more than a few MiB of what a
file unpacks to, and nothing is unpacked under a name that an archive gives. What is damaged or cut off becomes a
FosterError of one line, also while a stream is read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from foster_cli.console import clean
from foster_cli.errors import FosterError

Opener = Callable[[], BinaryIO]

#: Endings of a name that say how a file is compressed, and those of archives. `.tgz` and its like are both.
COMPRESSED = {".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".zstd", ".lz4", ".snappy"}
ARCHIVED = {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"}

_BLOCK = 1 << 20
#: A gzip file can unpack to itself without end, so that compression in compression is followed only this deep.
_DEEPEST = 3
_HEADER = 1 << 20
#: What damaged bytes raise; the last line: in the modules for zip and tar, which do not check every field.
_DAMAGE = (
    EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, OSError,
    ValueError, IndexError, KeyError, OverflowError, struct.error,
)  # fmt: skip
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_PYTHON: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda source: gzip.GzipFile(fileobj=source, mode="rb"),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "lzma": lzma.LZMAFile,
}
_OTHER = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it (7z x) and give the file inside"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it (unrar x) and give the file inside"),
    (b"\x1f\x9d", "a file of the old `compress`", "unpack it (uncompress) and give the file inside"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel or Word file", "save the sheet as CSV in UTF-8"),
    (b"SQLite format 3\0", "an SQLite database", "export the table: sqlite3 -header -csv FILE 'select …' > X.csv"),
)


def _reason(error: BaseException) -> str:
    return clean(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def unreadable(error: OSError, name: str) -> FosterError:
    """The error for a file that the system does not let us read."""
    hint = f"check its permissions: ls -ld {name}" if isinstance(error, PermissionError) else "check the path"
    return FosterError(f"cannot read {name}: {_reason(error)}", hint)


class _File(io.FileIO):
    """A plain file. An error while it is read names it."""

    def __init__(self, path: Path, name: str) -> None:
        try:
            super().__init__(path)
        except OSError as error:
            raise unreadable(error, name) from error
        self._shown = name

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise unreadable(error, self._shown) from error


def open_file(path: Path, name: str) -> BinaryIO:
    """The bytes of a plain file, as they are."""
    return io.BufferedReader(_File(path, name), _BLOCK)


class _Unpacking(io.RawIOBase):
    """What `read` gives. Its errors become one line that names the part and the kind of packing."""

    def __init__(self, read: Callable[[int], bytes], name: str, kind: str, close: Callable[[], None]) -> None:
        super().__init__()
        self._read, self._shown, self._kind, self._close = read, name, kind, close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._read(min(len(buffer), _BLOCK))
        except _DAMAGE as error:
            raise _damaged(error, self._shown, self._kind) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._close()


def _damaged(error: BaseException, name: str, kind: str) -> FosterError:
    if kind == "zstd" and "too much memory" in str(error):
        return FosterError(f"{name} needs too much memory to unpack here", "unpack it: zstd -d --long=31 FILE")
    return FosterError(f"{name} is a damaged or cut-off {kind} file ({_reason(error)})", "copy or download it again")


def _compression(head: bytes) -> str | None:
    """The kind of compression that `head` begins, or None."""
    if head[:3] == b"BZh" and head[4:10] in (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2"
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def _unpacker(opener: Opener, kind: str, name: str) -> BinaryIO:
    source = opener()
    stream: Any = _PYTHON[kind](source) if kind in _PYTHON else pa.CompressedInputStream(source, kind)

    def close() -> None:
        try:
            stream.close()
        except pa.ArrowException:
            pass
        finally:
            source.close()

    return io.BufferedReader(_Unpacking(stream.read, name, kind, close), _BLOCK)


def head_of(opener: Opener) -> bytes:
    """The first block of 512 bytes."""
    with opener() as stream:
        return stream.read(512)


def unpacked(opener: Opener, name: str) -> tuple[Opener, bytes, bool]:
    """The opener of the unpacked bytes, their first 512, and whether they were compressed. Files of kinds that are
    no table (7z, Excel) are refused."""
    for depth in range(_DEEPEST + 1):
        head = head_of(opener)
        for magic, what, hint in _OTHER:
            if head.startswith(magic):
                raise FosterError(f"{name} is {what}", hint)
        kind = _compression(head)
        if kind is None:
            return opener, head, depth > 0
        opener = partial(_unpacker, opener, kind, name)
    raise FosterError(f"{name} is compressed more than {_DEEPEST} times", "unpack it and give the file inside")


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    open: Opener


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip archive."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with `head` is a tar archive: its first header has the right checksum."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def is_data(name: str) -> bool:
    """Whether the file `name`, in a folder or archive, may be part of a table. README, LICENSE, hidden files and what
    Spark, Hadoop and macOS add are not."""
    parts = PurePosixPath(name).parts
    if not parts or "__MACOSX" in parts or any(p[0] == "." and p not in (".", "..") for p in parts):
        return False
    last = parts[-1].lower()
    if last.startswith(("readme", "license", "licence")) or last in ("thumbs.db", "desktop.ini"):
        return False
    return not (last.endswith(".crc") or (last[0] == "_" and "." not in last))


# --- zip


@contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise FosterError(
            f"{name} is compressed in a way that cannot be read here ({_reason(error)})",
            "unpack it (7z x, or unzip) and give the file inside",
        ) from error
    except (*_DAMAGE, RuntimeError) as error:
        raise _damaged(error, name, "zip") from error


def _open_zipped(path: Path, info: zipfile.ZipInfo, name: str) -> BinaryIO:
    if info.flag_bits & 0x1:
        raise FosterError(f"{name} is encrypted", "unpack it with its password and give the file inside")
    with _zip_errors(name):
        archive = zipfile.ZipFile(path)
        try:
            stream: Any = archive.open(info)
        except BaseException:
            archive.close()
            raise
    # bzip2 and lzma in zip unpack all that was read of the file, so that little is read at a time
    bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

    def close() -> None:
        stream.close()
        archive.close()

    read = stream.read if bounded else lambda n: stream.read1(min(n, 4096))
    return io.BufferedReader(_Unpacking(read, name, "zip", close), _BLOCK)


def zip_members(path: Path, name: str) -> list[Member]:
    """The files in a zip archive, each name once (the last of it counts), folders left out."""
    with _zip_errors(name), zipfile.ZipFile(path) as archive:
        infos = {i.filename: i for i in archive.infolist() if i.filename and not i.is_dir()}
    if "[Content_Types].xml" in infos:
        raise FosterError(f"{name} is an Excel or Word file", "save the sheet as CSV in UTF-8")
    return [
        Member(n, i.file_size, partial(_open_zipped, path, i, f"{name}: {clean(n, 500)}")) for n, i in infos.items()
    ]


# --- tar


class _TarInfo(tarfile.TarInfo):
    """Refuses a name or an extended header of more than a MiB, which tarfile would read into memory at once."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if not self.isfile() and self.type not in (tarfile.DIRTYPE, tarfile.SYMTYPE) and self.size > _HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Counted:
    """A stream that knows how many bytes it gave."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.given = stream, 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.given += len(data)
        return data


def _open_tar(source: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=source, mode="r|", bufsize=1 << 18, tarinfo=_TarInfo)


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    info = archive.next()
    archive.members.clear()  # type: ignore[attr-defined] # tarfile would keep every header of the archive
    return info


def _open_tarred(opener: Opener, index: int, name: str) -> BinaryIO:
    source = opener()
    try:
        archive = _open_tar(source)
        info = None
        for _ in range(index + 1):
            info = _next(archive)
        stream = archive.extractfile(info) if info is not None else None
        if stream is None:
            raise tarfile.ReadError("the archive has changed")
    except _DAMAGE as error:
        source.close()
        raise _damaged(error, name, "tar") from error
    return io.BufferedReader(_Unpacking(stream.read, name, "tar", source.close), _BLOCK)


def tar_members(opener: Opener, name: str) -> list[Member]:
    """The files in a tar archive, each name once (the last of it counts), links and folders left out."""
    found: dict[str, Member] = {}
    with opener() as source:
        counted, index, end = _Counted(source), 0, 0
        try:
            archive = _open_tar(counted)
            while (info := _next(archive)) is not None:
                end = info.offset_data + info.size if info.isfile() else info.offset_data
                if info.isfile():
                    path = info.name.removeprefix("./")
                    shown = f"{name}: {clean(path, 500)}"
                    found[path] = Member(path, info.size, partial(_open_tarred, opener, index, shown))
                index += 1
        except _DAMAGE as error:
            raise _damaged(error, name, "tar") from error
        if counted.given < end:
            raise _damaged(EOFError("the last file in it is cut off"), name, "tar")
    return list(found.values())
