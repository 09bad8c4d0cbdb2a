"""Where the bytes of a table come from: a file, a folder or glob of parts, an archive, standard input or a URL.

`parts_of(given)` lists the parts of what the user named, each with its decompressed bytes. How a file is packed is
seen from its content, never believed from its name. What can be read only once (standard input, a named pipe) or lies
elsewhere (a URL) is copied to a temporary file, which is deleted at exit. `TMPDIR` says where.
"""

from __future__ import annotations

import atexit
import codecs
import http.client
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from foster_cli.console import clean
from foster_cli.data.readers.archive import (
    ARCHIVED,
    COMPRESSED,
    Member,
    Opener,
    is_data,
    is_tar,
    is_zip,
    open_file,
    tar_members,
    unpacked,
    unreadable,
    zip_members,
)
from foster_cli.data.readers.encoding import Decoded, decoded
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.files import quoted, real_path

__all__ = ["Decoded", "Part", "decoded", "on_disk", "parts_of", "plain_path", "url_of"]

_BLOCK = 1 << 20
_LISTED = 10
_MAGIC = re.compile(r"[*?\[]")
_SUFFIX = re.compile(r"(\.[a-z][a-z0-9_]{0,11})$", re.IGNORECASE)
_URL = re.compile(r"^([a-z][a-z0-9+.-]+)(:/{1,2})(?=[^/]|/[^/])", re.IGNORECASE)
_PACKED_URL = re.compile(
    r"^(.*?\.(?:zip|tar(?:\.(?:gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst))[/:](.+)$", re.IGNORECASE | re.DOTALL
)
#: Of a URL that a Path has robbed of a slash, only these are taken for one.
_SCHEMES = ("http", "https", "s3", "s3a", "gs", "gcs", "hf", "file", "az", "abfs", "ftp", "sftp", "memory")
#: The package that each protocol needs besides fsspec.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
_EMPTY = "give a table with at least one row"


class _Empty(FosterError):
    """A file without data, which is left out beside one that has some."""


@dataclass(frozen=True)
class Part:
    """One file of a table."""

    #: As shown in messages: the path as given, `a.zip: ratings.csv` for a member, `standard input` for `-`.
    name: str
    #: The file name without the suffix that says the format, and without those of compression.
    stem: str
    #: The lower-case suffix that says the format, such as `.csv`; empty if there is none.
    suffix: str
    #: A plain local uncompressed file, which may be memory-mapped; else None.
    path: Path | None
    _opener: Opener = field(repr=False, compare=False)
    _copies: list[Path] = field(default_factory=list, repr=False, compare=False)

    def open(self) -> BinaryIO:
        """The decompressed bytes from the beginning. May be called repeatedly."""
        return self._opener()


def parts_of(given: str | Path) -> list[Part]:
    """The files of the table that the user named, sorted, at least one. Raises FosterError if there is none.

    `given` is a file, a folder, a glob, `archive.zip/member.csv` or `archive.zip:member.csv`, a URL, or `-`.
    """
    text = str(given)
    if text == "-":
        return _file(_standard_input(), "standard input", "", None)
    if not text or "\0" in text:
        raise FosterError("no file is named" if not text else f"{clean(text)}: no such file", "give a path")
    url = url_of(text)
    if url is not None:
        return _remote(url)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise FosterError(f"{clean(text)}: no such user", "give the whole path") from error
    return _local(path)


def on_disk(part: Part) -> Path:
    """A plain file with the bytes of `part`, for a reader that must seek: its own, or a temporary copy, made once."""
    if part.path is not None:
        return part.path
    if not part._copies or not part._copies[-1].exists():
        with part.open() as stream:
            part._copies.append(_spool(iter(partial(stream.read, _BLOCK), b""), part.name))
    return part._copies[-1]


# --- names


def _split_name(name: str) -> tuple[str, str]:
    """(stem, suffix) of a file name: `ratings.csv.gz` and `ratings.snappy.csv` give `ratings`, `.csv`."""
    stem, suffix = _without_packing(name), ""
    found = _SUFFIX.search(stem)
    if found and found.start() > 0:
        stem, suffix = stem[: found.start()], found.group().lower()
    return _without_packing(stem), suffix


def _without_packing(name: str) -> str:
    while (found := _SUFFIX.search(name)) and found.start() > 0 and found.group().lower() in COMPRESSED | ARCHIVED:
        name = name[: found.start()]
    return name


def _shown(name: object) -> str:
    return clean(name, 1000)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# --- local files


def _local(path: Path) -> list[Part]:
    name = _shown(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        packed = _in_archive(path)
        if packed is not None:
            return packed
        if _MAGIC.search(str(path)):
            return _glob(path)
        raise _missing(path) from error
    except OSError as error:
        raise unreadable(error, name) from error
    if stat.S_ISDIR(mode):
        return _folder(path)
    if stat.S_ISREG(mode):
        return _file(path, name, path.name, None)
    return _file(_special(path, mode, name), name, path.name, None)


def _missing(path: Path) -> FosterError:
    name = _shown(path)
    if path.is_symlink():
        return FosterError(f"{name}: no such file (it is a link to {_shown(path.readlink())})", "check the path")
    try:
        close = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        close = None
    hint = f"did you mean {quoted(_shown(path.with_name(close)))}?" if close else "check the path"
    return FosterError(f"{name}: no such file", hint)


def _in_archive(path: Path) -> list[Part] | None:
    """The parts that `archive.zip/member` or `archive.zip:member` names; None if it begins with no file."""
    text = str(path)
    for cut in (m.start() for m in re.finditer(r"[/:]", text)):
        base, member = Path(text[:cut] or "/"), text[cut + 1 :]
        try:
            there = base.is_file()
        except OSError:
            return None
        if there and member:
            return _file(base, _shown(base), base.name, member)
    return None


def _file(path: Path, name: str, file_name: str, member: str | None) -> list[Part]:
    """The parts of a file on disk: itself, or the data members of an archive."""
    stem, suffix = _split_name(file_name)
    opener, head, packed = unpacked(partial(open_file, path, name), name)
    if is_zip(head):
        if packed:
            raise FosterError(f"{name} is a zip archive within a compressed file", "unpack it and give the file inside")
        return _members(zip_members(path, name), name, member)
    if is_tar(head):
        return _members(tar_members(opener, name), name, member)
    if member is not None:
        raise FosterError(f"{name} is a file, neither a folder nor an archive", f"give {quoted(name)} itself")
    part = Part(name, stem, suffix, None if packed else path, opener)
    if _is_empty(part):
        raise _Empty(f"{name} is empty", _EMPTY)
    return [part]


def _is_empty(part: Part) -> bool:
    with part.open() as stream:
        head = stream.read(1 << 16)
    return len(head) < 1 << 16 and not head.removeprefix(codecs.BOM_UTF8).strip()


def _folder(folder: Path) -> list[Part]:
    name = _shown(folder)
    saved = _saved_dataset(folder)
    if saved:
        return _checked([p for f in saved for p in _file(f, _shown(f), f.name, None)], name)
    if (folder / "_delta_log").is_dir():
        raise FosterError(
            f"{name} is a Delta Lake table, whose files also hold deleted rows",
            "write its present rows to parquet and give that folder",
        )
    files, folders = _entries(folder)
    here = real_path(folder)
    keyed = [f for f in folders if "=" in f.name and not here.is_relative_to(real_path(f))]  # no link upwards
    for sub in keyed:
        inner, below = _entries(sub)
        files += inner
        if any("=" in f.name for f in below):
            raise FosterError(f"{name} has folders in folders ({_shown(below[0])})", f"give a glob: '{name}/*/*/*'")
    if not files and folders:
        subs = _listed(_shown(f.name) for f in folders)
        hint = f"give one of them: {quoted(_shown(folders[0]))}"
        raise FosterError(f"{name} holds no data file, only folders: {subs}", hint)
    return _several(files, name)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The data files and the folders in `folder`, sorted by name."""
    files: list[Path] = []
    folders: list[Path] = []
    try:
        for entry in sorted(folder.iterdir()):
            if is_data(entry.name):
                (folders if entry.is_dir() else files).append(entry)
            elif entry.is_dir() and not entry.name.startswith((".", "_")):
                folders.append(entry)
    except OSError as error:
        raise unreadable(error, _shown(folder)) from error
    return files, folders


def _glob(pattern: Path) -> list[Part]:
    name = _shown(pattern)
    fixed = next(i for i, p in enumerate(pattern.parts) if _MAGIC.search(p))
    rest = list(pattern.parts[fixed:])
    if rest[-1] == "**":  # which alone matches folders
        rest.append("*")
    try:
        found = sorted(set(Path(*pattern.parts[:fixed]).glob("/".join(rest))))
    except (OSError, ValueError, NotImplementedError) as error:
        raise FosterError(f"{name}: no such file ({clean(error)})", "check the path") from error
    files = []
    for path in found:
        if path.is_dir():
            files += _entries(path)[0] if "**" not in rest else []
        elif is_data(path.name):
            files.append(path)
    if not files:
        raise FosterError(f"no data file fits {name}", "check the path, and put it in quotes")
    return _several(files, name)


def _several(files: list[Path], where: str) -> list[Part]:
    """The parts that `files` are. The same file under two names, by a link, counts once; a file without data does not
    count beside one that has some."""
    parts: list[Part] = []
    seen, empty = set(), False
    for path in files:
        name = _shown(path)
        try:
            info = path.stat()
        except FileNotFoundError as error:
            raise _missing(path) from error
        except OSError as error:
            raise unreadable(error, name) from error
        if not stat.S_ISREG(info.st_mode):
            raise FosterError(f"{name} is no ordinary file", "move it out of the folder")
        key = (info.st_dev, info.st_ino)
        if info.st_ino and key in seen:
            continue
        seen.add(key)
        if info.st_size == 0:
            empty = True
            continue
        try:
            parts += _file(path, name, path.name, None)
        except _Empty:
            empty = True
    if not parts:
        raise FosterError(f"{where} is empty" if empty else f"{where} holds no data file", _EMPTY)
    return _checked(parts, where)


def _checked(parts: list[Part], where: str) -> list[Part]:
    """`parts`, if all are of one format by name."""
    counts = Counter(p.suffix for p in parts)
    usual = max(counts, key=lambda s: (counts[s], s))
    foreign = next((p.name for p in parts if p.suffix != usual), None)
    if foreign is None:
        return parts
    what = f"{usual} files" if usual else "files without a suffix"
    hint = f"give '{where}/*{usual}*', or move {quoted(foreign)} away" if usual else f"move {quoted(foreign)} away"
    if _MAGIC.search(where):
        hint = f"give a narrower pattern, or move {quoted(foreign)} away"
    raise FosterError(f"{where} holds {what}, and {foreign} is another kind", hint)


def _saved_dataset(folder: Path) -> list[Path]:
    """The Arrow files of a Hugging Face dataset that `save_to_disk` wrote, of all its splits; else an empty list."""
    splits = _small_json(folder / "dataset_dict.json")
    if isinstance(splits, dict):
        names = splits.get("splits")
        if isinstance(names, list) and all(isinstance(n, str) and n == Path(n).name for n in names):
            return [f for n in names for f in _saved_dataset(folder / n)]
    state = _small_json(folder / "state.json")
    if not isinstance(state, dict):
        return []
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise FosterError(
            f"{_shown(folder)} is a dataset that keeps only some of its rows",
            "save it again with a present version of datasets: load_from_disk(X).save_to_disk(Y)",
        )
    listed = state.get("_data_files")
    names = [f.get("filename") for f in listed if isinstance(f, dict)] if isinstance(listed, list) else []
    if names and all(isinstance(n, str) and n == Path(n).name for n in names):
        return [folder / n for n in names]
    return sorted(folder.glob("data-*.arrow"))


def _small_json(path: Path) -> Any:
    """What the JSON file `path` holds; None if it is not there, larger than a MiB, or no JSON."""
    try:
        with path.open("rb") as f:
            return json.loads(f.read(_BLOCK))
    except (OSError, ValueError, RecursionError):
        return None


# --- members of archives


def _members(members: list[Member], name: str, wanted: str | None) -> list[Part]:
    """The one data member, or those that `wanted` names: one, a folder in the archive, or a pattern."""
    if wanted is None:
        data = [m for m in members if is_data(m.name)]
        data = [m for m in data if m.size] or data
        if len(data) > 1:
            raise _which(data, name, f"{name} holds {len(data)} data files")
        if not data:
            raise FosterError(f"{name} holds no data file", _EMPTY)
        parts = [_member(data[0], name)]
    else:
        parts = [_member(m, name) for m in _chosen(members, name, wanted)]
        if len(parts) > 1:
            parts = _checked([p for p in parts if not _is_empty(p)] or parts[:1], name)
    if _is_empty(parts[0]):
        raise _Empty(f"{parts[0].name} is empty", _EMPTY)
    return parts


def _chosen(members: list[Member], name: str, wanted: str) -> list[Member]:
    exact = [m for m in members if m.name == wanted]
    if exact:
        return exact
    members = sorted((m for m in members if is_data(m.name)), key=lambda m: m.name)
    inside = [m for m in members if m.name.startswith(wanted.rstrip("/") + "/") or fnmatchcase(m.name, wanted)]
    if inside:
        return inside
    ending = [m for m in members if m.name.endswith("/" + wanted)]
    if len(ending) > 1:
        raise _which(ending, name, f"{name} holds {len(ending)} files {clean(wanted)}")
    if ending:
        return ending
    shown = [clean(m.name, 500) for m in members]
    close = did_you_mean(wanted, shown) or did_you_mean(wanted, [PurePosixPath(n).name for n in shown])
    if close:
        raise FosterError(f"{name} holds no {clean(wanted)}", f"did you mean {quoted(f'{name}/{close}')}?")
    if not members:
        raise FosterError(f"{name} holds no data file", _EMPTY)
    raise _which(members, name, f"{name} holds no {clean(wanted)}")


def _which(members: list[Member], name: str, message: str) -> FosterError:
    return FosterError(message, "give one of them: " + _listed(quoted(f"{name}/{clean(m.name, 500)}") for m in members))


def _member(member: Member, archive: str) -> Part:
    name = f"{archive}: {clean(member.name, 500)}"
    opener, head, _ = unpacked(member.open, name)
    if is_zip(head) or is_tar(head):
        raise FosterError(f"{name} is an archive in an archive", "unpack the outer one and give the file inside")
    return Part(name, *_split_name(PurePosixPath(member.name).name), None, opener)


# --- what can be read only once

_temporary: str | None = None
_spooled: dict[Any, Path] = {}
_stdin: tuple[object, Path] | None = None


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a process forked later
        shutil.rmtree(folder, ignore_errors=True)


def _spool(blocks: Iterator[bytes], name: str) -> Path:
    """Write `blocks` to a new temporary file, which is deleted at exit."""
    global _temporary
    try:
        if _temporary is None or not Path(_temporary).is_dir():
            _temporary = tempfile.mkdtemp(prefix="foster-")
            atexit.register(_remove, _temporary, os.getpid())
        handle, path = tempfile.mkstemp(dir=_temporary)
    except OSError as error:
        raise _no_room(error, name) from error
    try:
        with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - an open descriptor
            for block in blocks:
                try:
                    view = memoryview(block)
                    while view:
                        view = view[file.write(view) :]
                except OSError as error:
                    raise _no_room(error, name) from error
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return Path(path)


def _no_room(error: OSError, name: str) -> FosterError:
    folder = _shown(_temporary or tempfile.gettempdir())
    return FosterError(
        f"cannot copy {name} to {folder}: {clean(error.strerror or error)}",
        "set TMPDIR to a folder with more room",
    )


def _standard_input() -> Path:
    global _stdin
    if _stdin is not None and _stdin[0] is sys.stdin and _stdin[1].exists():
        return _stdin[1]
    name, stream = "standard input", getattr(sys.stdin, "buffer", None)
    if stream is None or sys.stdin.closed:
        raise FosterError(f"{name} is closed", "give a file, or pipe a table in: cat FILE | foster …")
    if sys.stdin.isatty():
        raise FosterError(f"{name} is a terminal", "pipe a table in: cat FILE | foster …")
    _stdin = (sys.stdin, _spool(_blocks(stream.read, name), name))
    return _stdin[1]


def _blocks(read: Callable[[int], bytes], name: str) -> Iterator[bytes]:
    try:
        while block := read(_BLOCK):
            yield block
    except OSError as error:
        raise unreadable(error, name) from error


def _special(path: Path, mode: int, name: str) -> Path:
    """The copy of what a named pipe or /dev/fd/N holds. It is read once, however often it is asked for."""
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)) or (stat.S_ISCHR(mode) and not path.samefile(os.devnull)):
        what = "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "no file"
        raise FosterError(f"{name} is {what}, not a table", "give a file, or - for standard input")
    info = path.stat()
    key = (str(path), info.st_dev, info.st_ino)
    if key not in _spooled or not _spooled[key].exists():
        with open_file(path, name) as stream:
            _spooled[key] = _spool(_blocks(stream.read, name), name)
    return _spooled[key]


# --- elsewhere


def url_of(text: str) -> str | None:
    """`text` as a URL, or None if it is a path. `Path` makes `https:/x` of `https://x`; this is undone."""
    found = _URL.match(text)
    if found is None:
        return None
    if found[2] == "://":
        return text
    if found[1].lower() in _SCHEMES and not Path(text).exists():
        return f"{found[1]}://{'/' if found[1].lower() == 'file' else ''}{text[found.end() :]}"
    return None


def plain_path(path: Path) -> bool:
    """Whether `path` names a file or a folder: no address, pattern or member of an archive, nor what is read once."""
    text = str(path)
    if text == "-" or url_of(text) is not None or _MAGIC.search(text):
        return False
    return path.is_file() or path.is_dir() or not any(parent.is_file() for parent in path.parents)


def _public(url: str) -> str:
    """`url` as it may be printed: without a password, and without the query, which may hold a signature."""
    url = re.sub(r"(://)[^/@]*@", r"\1", url)
    return _shown(url.split("?")[0] if url.lower().startswith(("http://", "https://")) else url)


def _remote(url: str) -> list[Part]:
    scheme = url.split("://")[0].lower()
    if scheme == "file":
        path = url[len("file://") :].removeprefix("localhost")
        return _local(Path(path if Path(path).exists() else urllib.parse.unquote(path)))
    found = _PACKED_URL.match(url)
    address, member = (found[1], found[2]) if found else (url, None)
    if scheme in ("http", "https"):
        name = _public(address)
        last = urllib.parse.unquote(urllib.parse.urlsplit(address).path).rsplit("/", 1)[-1]
        return _file(_spool(_download(address, name), name), name, last, member)
    return _through_fsspec(address, scheme, member)


def _download(url: str, name: str) -> Iterator[bytes]:
    """The body of an answer by HTTP, complete or a FosterError."""
    hint = "check the address and the connection"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "foster", "Accept-Encoding": "identity"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            size, given = answer.headers.get("Content-Length"), 0
            for block in iter(partial(answer.read, _BLOCK), b""):
                if not given and answer.headers.get_content_type() == "text/html":
                    raise FosterError(f"{name} is a web page, not a file", "give the address of the file itself")
                given += len(block)
                yield block
            if size is not None and size.isdigit() and given < int(size):
                raise FosterError(f"{name} was cut off after {given} of {size} bytes", "try again")
    except urllib.error.HTTPError as error:
        raise FosterError(f"cannot read {name}: the server answers {error.code} {clean(error.reason)}", hint) from error
    except urllib.error.URLError as error:
        raise FosterError(f"cannot read {name}: {clean(error.reason)}", hint) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FosterError(f"cannot read {name}: {clean(error) or type(error).__name__}", hint) from error


def _through_fsspec(url: str, scheme: str, member: str | None) -> list[Part]:
    name = _public(url)
    try:
        import fsspec
    except ImportError as error:
        raise FosterError(f"{name} needs fsspec, which is not installed", "type `pip install fsspec`") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
        found = _remote_files(system, path)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        hint = f"type `pip install {package}`" if package else clean(error)
        raise FosterError(f"{name} needs {package or 'a package'}, which is not installed", hint) from error
    except Exception as error:  # each protocol has its own
        raise _unreachable(error, name, scheme) from error
    if not found:
        raise FosterError(f"{name} holds no data file", "check the address")
    parts: list[Part] = []
    for file in found:
        shown = _public(system.unstrip_protocol(file)) if found != [path] else name
        copy = _spool(_fetch(system, file, shown, scheme), shown)
        if copy.stat().st_size == 0 and len(found) > 1:
            continue
        parts += _file(copy, shown, file.rsplit("/", 1)[-1], member)
    if not parts:
        raise FosterError(f"{name} is empty", _EMPTY)
    return _checked(parts, name)


def _remote_files(system: Any, path: str) -> list[str]:
    """The file `path`, those that it fits as a pattern, or those in it and in its `key=value` folders."""
    if _MAGIC.search(path):
        return sorted(p for p in system.glob(path) if is_data(p.rsplit("/", 1)[-1]) and system.isfile(p))
    if not system.isdir(path):
        return [path]
    files, keyed = [], []
    for entry in system.ls(path, detail=True):
        last = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if entry["type"] == "directory":
            keyed += [entry["name"]] if "=" in last else []
        elif is_data(last):
            files.append(entry["name"])
    for folder in keyed:
        files += [e["name"] for e in system.ls(folder, detail=True) if e["type"] != "directory"]
    return sorted(f for f in files if is_data(f.rsplit("/", 1)[-1]))


def _fetch(system: Any, path: str, name: str, scheme: str) -> Iterator[bytes]:
    try:
        with system.open(path, "rb") as stream:
            yield from iter(partial(stream.read, _BLOCK), b"")
    except Exception as error:  # each protocol has its own
        raise _unreachable(error, name, scheme) from error


def _unreachable(error: Exception, name: str, scheme: str) -> FosterError:
    if isinstance(error, FosterError):
        return error
    if isinstance(error, FileNotFoundError):
        return FosterError(f"{name}: no such file", "check the address")
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        close = did_you_mean(scheme, _SCHEMES)
        return FosterError(
            f"{name}: unknown protocol {clean(scheme)}", f"did you mean {close}://?" if close else "check the address"
        )
    reason = clean(error) or type(error).__name__
    return FosterError(f"cannot read {name}: {reason}", "check the address and your access to it")
