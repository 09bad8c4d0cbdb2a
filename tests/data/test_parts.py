"""Bytes of a table from wherever they lie, however packed and in whatever encoding; or one line that says why not."""

from __future__ import annotations

import bz2
import gzip
import http.server
import io
import json
import lzma
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from faults import fault, said
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.readers import source
from foster_cli.data.readers.source import Part, decoded, on_disk, parts_of
from foster_cli.errors import FosterError

TABLE = b"user_id,item_id\n1,10\n2,20\n"


def _arrow(kind: str) -> Callable[[bytes], bytes]:
    """A compressor of pyarrow's streams."""

    def run(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, kind) as stream:
            stream.write(data)
        return bytes(sink.getvalue().to_pybytes())

    return run


def _command(*words: str) -> Callable[[bytes], bytes]:
    """A compressor of the system, where there is one."""

    def run(data: bytes) -> bytes:
        if shutil.which(words[0]) is None:
            pytest.skip(f"no {words[0]}")
        return subprocess.run(words, input=data, capture_output=True, check=True).stdout

    return run


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "gzip -9": _command("gzip", "-9", "-c"),
    "bzip2": _command("bzip2", "-c"),
    "xz -0": _command("xz", "-0", "-c"),
    "zstd": _command("zstd", "-q", "-c"),
    "zstd --long=27": _command("zstd", "-q", "--long=27", "-c"),
    "lz4": _arrow("lz4"),
}


def _write(path: Path, data: bytes = TABLE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _bytes(part: Part) -> bytes:
    with part.open() as stream:
        return stream.read()


def _one(path: str | Path) -> Part:
    (part,) = parts_of(path)
    return part


def _names(given: str | Path) -> list[str]:
    return [Path(p.name).name for p in parts_of(given)]


def _zip(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


# --- files


def test_a_plain_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "ratings.csv")
    part = _one(path)
    assert (part.name, part.stem, part.suffix, part.path) == (str(path), "ratings", ".csv", path)
    assert _bytes(part) == _bytes(part) == TABLE
    assert _one(str(path)) == part


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("ratings.csv.gz", "ratings", ".csv"),
        ("RATINGS.CSV.GZ", "RATINGS", ".csv"),
        ("u.data", "u", ".data"),
        ("ml-100k.train.inter", "ml-100k.train", ".inter"),
        ("part-00000-c000.snappy.parquet", "part-00000-c000", ".parquet"),
        ("ml-1.5", "ml-1.5", ""),
        ("part-00000", "part-00000", ""),
        ("reviews.json.tar.gz", "reviews", ".json"),
        ("ratings.gz", "ratings", ""),
        ("Top 5. best", "Top 5. best", ""),
    ],
)
def test_stem_and_suffix(tmp_path: Path, name: str, stem: str, suffix: str) -> None:
    part = _one(_write(tmp_path / name))
    assert (part.stem, part.suffix) == (stem, suffix)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["ratings.csv.gz", "ratings.csv"])
def test_compression_is_seen_from_the_content(tmp_path: Path, packer: str, name: str) -> None:
    packed = PACKERS[packer](TABLE * 20_000)
    part = _one(_write(tmp_path / name, packed))
    assert _bytes(part) == _bytes(part) == TABLE * 20_000
    assert (part.stem, part.suffix, part.path) == ("ratings", ".csv", None)
    assert on_disk(part).read_bytes() == TABLE * 20_000


def test_a_name_that_lies_is_read_by_content(tmp_path: Path) -> None:
    part = _one(_write(tmp_path / "ratings.csv.gz"))
    assert _bytes(part) == TABLE
    assert part.path == tmp_path / "ratings.csv.gz"


def test_several_compressed_pieces_in_one_file(tmp_path: Path) -> None:
    for packer in ("gz", "bz2", "xz", "zstd"):
        pack = PACKERS[packer]
        assert _bytes(_one(_write(tmp_path / "x.csv", pack(TABLE) + pack(b"3,30\n")))) == TABLE + b"3,30\n"


def test_compression_twice_and_without_end(tmp_path: Path) -> None:
    data = TABLE
    for _ in range(2):
        data = gzip.compress(data)
    assert _bytes(_one(_write(tmp_path / "x.csv", data))) == TABLE
    for _ in range(2):
        data = gzip.compress(data)
    assert "compressed more than 3 times" in said(parts_of, _write(tmp_path / "x.csv", data))


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zstd"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_cut_file_is_one_line_while_reading(tmp_path: Path, packer: str, share: float) -> None:
    data = b"".join(b"%d,%d\n" % (i, i * 7919 % 1000003) for i in range(60_000))
    packed = PACKERS[packer](data)
    path = _write(tmp_path / "x.csv", packed[: int(len(packed) * share)])
    message = said(lambda: _bytes(_one(path)))
    assert str(path) in message
    assert "damaged or cut-off" in message


def test_a_window_of_two_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = _command("zstd", "-q", "--long=31", "-c")(TABLE)
    assert "zstd -d --long=31" in said(parts_of, _write(tmp_path / "x.csv", packed))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["gz", "bz2", "xz", "lzma", "zip", "tar"]), st.integers(0, 400), st.binary(min_size=1))
def test_damage_is_an_error_or_the_same_bytes(kind: str, at: int, wrong: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        if kind == "zip":
            _zip(path, {"a.csv": TABLE})
        elif kind == "tar":
            _tar(path, {"a.csv": TABLE}, "w")
        else:
            path.write_bytes(PACKERS[kind](TABLE))
        data = bytearray(path.read_bytes())
        data[at : at + len(wrong)] = wrong
        path.write_bytes(data)
        try:
            for part in parts_of(path):
                _bytes(part)
        except FosterError as error:
            assert "\n" not in str(error)
            assert error.hint


def test_a_bomb_is_a_stream(tmp_path: Path) -> None:
    """400 MB in a child, whose memory is measured."""
    if shutil.which("gzip") is None:
        pytest.skip("no gzip")
    path = tmp_path / "x.csv.gz"
    subprocess.run(f"head -c 400000000 /dev/zero | tr '\\0' a | gzip -1 > {path}", shell=True, check=True)
    program = (
        "import resource, sys\n"
        "from foster_cli.data.readers.source import parts_of\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read, stream = 0, parts_of(sys.argv[1])[0].open()\n"
        "while block := stream.read(1 << 20): read += len(block)\n"
        "print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    read, grown = map(int, done.stdout.split())
    assert read == 400_000_000
    assert grown < 64 << 10  # KiB


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file(tmp_path: Path, data: bytes) -> None:
    assert "x.csv is empty" in said(parts_of, _write(tmp_path / "x.csv", data))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    _write(tmp_path / "ratings.csv")
    assert "did you mean" in said(parts_of, tmp_path / "rating.csv")
    assert "no such file" in said(parts_of, tmp_path / "none" / "x.csv")
    assert "no such user" in said(parts_of, "~nobody-of-this-name/x.csv")
    assert said(parts_of, "")
    assert said(parts_of, "a\0b")
    assert said(parts_of, "a" * 5000)
    (tmp_path / "gone.csv").symlink_to("elsewhere.csv")
    assert "link to elsewhere.csv" in said(parts_of, tmp_path / "gone.csv")
    assert "\x1b" not in said(parts_of, tmp_path / "\x1b[31m.csv")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(tmp_path / "x.csv")
    assert _bytes(_one("~/x.csv")) == TABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_permission_denied(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.csv")
    path.chmod(0)
    assert "ls -l" in said(parts_of, path)


def test_permission_denied_while_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    assert "Permission denied" in said(parts_of, tmp_path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z"),
        (b"Rar!\x1a\x07\0" + bytes(50), "rar"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), "Excel"),
        (b"SQLite format 3\0" + bytes(50), "SQLite"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, data: bytes, what: str) -> None:
    assert what in said(parts_of, _write(tmp_path / "x.csv", data))


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "Too many levels" in said(parts_of, tmp_path / "a")


# --- folders and globs


def test_a_folder_of_parts(tmp_path: Path) -> None:
    for name in ("part-2.csv", "part-0.csv.gz", "part-1.csv"):
        _write(tmp_path / name, gzip.compress(TABLE) if name.endswith(".gz") else TABLE)
    for name in ("_SUCCESS", "_metadata", ".part-1.csv.crc", "part-1.csv.crc", "README.md", "LICENSE", ".hidden.csv"):
        _write(tmp_path / name, b"something")
    _write(tmp_path / "part-3.csv", b"")
    _write(tmp_path / "part-4.csv.gz", gzip.compress(b""))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "again.csv").symlink_to("part-1.csv")
    parts = parts_of(tmp_path)
    assert sorted(os.path.realpath(p.name) for p in parts) == [
        str(tmp_path.resolve() / n) for n in ("part-0.csv.gz", "part-1.csv", "part-2.csv")
    ]
    assert all(_bytes(p) == TABLE for p in parts)
    assert [p.name for p in parts] == sorted(p.name for p in parts)


def test_hive_folders(tmp_path: Path) -> None:
    for year in (2021, 2020):
        _write(tmp_path / f"year={year}" / "part-0.parquet", b"PAR1 of %d" % year)
    (tmp_path / "year=2022").symlink_to(tmp_path)
    assert [_bytes(p) for p in parts_of(tmp_path)] == [b"PAR1 of 2020", b"PAR1 of 2021"]
    _write(tmp_path / "year=2020" / "month=1" / "part-0.parquet")
    assert "folders in folders" in said(parts_of, tmp_path)
    assert len(parts_of(f"{tmp_path}/*/*.parquet")) == 2


def test_a_foreign_file_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "notes.xlsx"):
        _write(tmp_path / name)
    message = said(parts_of, tmp_path)
    assert f"{tmp_path}/notes.xlsx is another kind" in message
    assert _names(f"{tmp_path}/*.csv*") == ["a.csv", "b.csv"]


def test_folders_without_data(tmp_path: Path) -> None:
    assert "holds no data file" in said(parts_of, tmp_path)
    _write(tmp_path / "train" / "a.csv")
    assert str(tmp_path / "train") in said(parts_of, tmp_path)
    _write(tmp_path / "a.csv", b"")
    assert "is empty" in said(parts_of, tmp_path)
    os.mkfifo(tmp_path / "b.csv")
    assert "b.csv is no ordinary file" in said(parts_of, tmp_path)


def test_a_delta_table_is_not_read_as_a_folder(tmp_path: Path) -> None:
    _write(tmp_path / "part-0.parquet")
    _write(tmp_path / "_delta_log" / "0.json")
    assert "Delta" in said(parts_of, tmp_path)


def test_globs(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.tsv", "sub/d.csv"):
        _write(tmp_path / name)
    _write(tmp_path / "odd[1].csv")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    assert _names(f"{tmp_path}/[ab].csv") == ["a.csv", "b.csv"]
    assert _names(f"{tmp_path}/**/*.csv") == ["a.csv", "b.csv", "odd[1].csv", "d.csv"]
    assert _names(tmp_path / "odd[1].csv") == ["odd[1].csv"]
    assert "no data file fits" in said(parts_of, f"{tmp_path}/*.json")
    assert "another kind" in said(parts_of, f"{tmp_path}/?.*")


def test_a_saved_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"user_id": [1, 2, 3, 4]})
    rows.save_to_disk(str(tmp_path / "one"), num_shards=2)
    _write(tmp_path / "one" / "cache-123.arrow")
    assert _names(tmp_path / "one") == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    parts = parts_of(tmp_path / "both")
    assert [Path(p.name).parent.name for p in parts] == ["train", "test"]
    with parts[0].open() as stream, pa.ipc.open_stream(stream) as found:
        assert found.read_all()["user_id"].to_pylist() == [1, 2, 3, 4]
    state = tmp_path / "one" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../../etc/passwd"}]}))
    assert len(parts_of(tmp_path / "one")) == 2


# --- archives


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_one_table(tmp_path: Path, kind: int) -> None:
    members = {"ml/README.txt": b"hello", "__MACOSX/ml/._r.csv": b"x", "ml/.x": b"x", "ml/r.csv": TABLE * 50_000}
    path = _zip(tmp_path / "data.zip", members, kind)
    part = _one(path)
    assert (part.name, part.stem, part.suffix, part.path) == (f"{path}: ml/r.csv", "r", ".csv", None)
    assert _bytes(part) == _bytes(part) == TABLE * 50_000


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_a_member_is_chosen(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    members = {"ml-1m/ratings.dat": TABLE, "ml-1m/movies.dat": b"1::Toy Story\n", "ml-1m/README": b"x"}
    path = pack(tmp_path / "ml 1m.zip", members)
    message = said(parts_of, path)
    assert "holds 2 data files" in message
    assert f"'{path}/ml-1m/movies.dat'" in message
    for chosen in ("/ml-1m/ratings.dat", ":ml-1m/ratings.dat", ":ratings.dat", "/ratings.dat"):
        assert _bytes(_one(f"{path}{chosen}")) == TABLE
    assert _bytes(_one(f"{path}/ml-1m/README")) == b"x"
    assert len(parts_of(f"{path}/ml-1m")) == len(parts_of(f"{path}:ml-1m/*.dat")) == 2
    assert "did you mean" in said(parts_of, f"{path}/rating.dat")
    assert "holds no qqq" in said(parts_of, f"{path}/qqq")
    assert "neither a folder nor an archive" in said(parts_of, f"{_write(tmp_path / 'a.csv')}/x")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_with_one_table(tmp_path: Path, mode: str) -> None:
    path = _tar(tmp_path / "data.tgz", {"./d/r.csv": TABLE * 50_000, "d/README": b"x"}, mode)
    with tarfile.open(path, mode.replace("w", "r")) as archive:
        assert len(archive.getmembers()) == 2
    part = _one(path)
    assert (part.name, part.stem, part.suffix) == (f"{path}: d/r.csv", "r", ".csv")
    assert _bytes(part) == _bytes(part) == TABLE * 50_000


def test_the_last_of_two_members_with_one_name(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for data in (b"old,1\n", b"new,22\n"):
            info = tarfile.TarInfo("r.csv")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert _bytes(_one(path)) == b"new,22\n"


def test_compressed_members_and_archives_in_archives(tmp_path: Path) -> None:
    assert _bytes(_one(_zip(tmp_path / "a.zip", {"r.csv.gz": gzip.compress(TABLE)}))) == TABLE
    assert _bytes(_one(_tar(tmp_path / "a.tar", {"r.csv.bz2": bz2.compress(TABLE)}))) == TABLE
    inner = _zip(tmp_path / "inner.zip", {"r.csv": TABLE}).read_bytes()
    assert "archive in an archive" in said(parts_of, _zip(tmp_path / "b.zip", {"inner.zip": inner}))
    assert "within a compressed file" in said(parts_of, _write(tmp_path / "b.zip.gz", gzip.compress(inner)))


def test_members_with_harmful_names(tmp_path: Path) -> None:
    part = _one(_zip(tmp_path / "a.zip", {"../../evil\x1b[31m.csv": TABLE}))
    assert _bytes(part) == TABLE
    assert "\x1b" not in part.name
    assert not (tmp_path.parent.parent / "evil.csv").exists()


def test_bad_zips(tmp_path: Path) -> None:
    whole = _zip(tmp_path / "a.zip", {"r.csv": TABLE * 1000}).read_bytes()
    assert "zip" in said(parts_of, _write(tmp_path / "cut.zip", whole[: len(whole) // 2]))
    broken = bytearray(whole)
    broken[60] ^= 0xFF
    path = _write(tmp_path / "broken.zip", bytes(broken))
    assert "damaged" in said(lambda: _bytes(_one(path)))
    locked = bytearray(whole)
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in said(parts_of, _write(tmp_path / "locked.zip", bytes(locked)))
    assert "holds no data file" in said(parts_of, _zip(tmp_path / "none.zip", {"README": b"x"}))
    assert "is empty" in said(parts_of, _zip(tmp_path / "empty.zip", {"a.csv": b""}))
    assert "Excel" in said(parts_of, _zip(tmp_path / "a.xlsx", {"[Content_Types].xml": b"x", "xl/a.xml": b"x"}))


def test_more_than_ten_members(tmp_path: Path) -> None:
    assert "and 5 more" in said(parts_of, _zip(tmp_path / "a.zip", {f"{i:02}.csv": TABLE for i in range(15)}))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_cut_tars(tmp_path: Path, mode: str) -> None:
    data = b"".join(b"%d,%d\n" % (i, i * 7919 % 1000003) for i in range(100_000))
    path = _tar(tmp_path / "a.tar", {"r.csv": data}, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged or cut-off" in said(lambda: _bytes(_one(path)))


def test_a_tar_whose_header_is_a_bomb(tmp_path: Path) -> None:
    header = tarfile.TarInfo("PaxHeader/x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    path = _write(tmp_path / "a.tar", header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16))
    assert "header of 4294967296 bytes" in said(parts_of, path)


# --- read once


def _in_child(code: str, stdin: bytes, folder: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    program = "import sys\nfrom foster_cli.data.readers.source import parts_of\n" + code
    environment = {**os.environ, "TMPDIR": str(folder), **more}
    return subprocess.run(
        [sys.executable, "-c", program], input=stdin, capture_output=True, timeout=60, check=False, env=environment
    )


@pytest.mark.parametrize("given", ["-", "/dev/stdin"])
def test_standard_input(tmp_path: Path, given: str) -> None:
    code = f"""
for _ in range(2):
    part, = parts_of({given!r})
    for _ in range(2):
        sys.stdout.buffer.write(part.open().read())
print(part.name, repr(part.suffix), part.path is None)
"""
    done = _in_child(code, gzip.compress(TABLE), tmp_path)
    assert done.stdout.startswith(TABLE * 4), done.stderr
    if given == "-":
        assert done.stdout.endswith(b"standard input '' True\n")
    assert not list(tmp_path.iterdir())  # nothing is left at exit


def test_standard_input_without_data(tmp_path: Path) -> None:
    done = _in_child("parts_of('-')", b"", tmp_path)
    assert b"standard input is empty" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(TABLE * 100_000,))
    writer.start()
    part = _one(path)
    writer.join(10)
    assert _bytes(part) == _bytes(part) == _bytes(_one(path)) == TABLE * 100_000
    assert (part.name, part.suffix) == (str(path), ".csv")


def test_a_descriptor(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as stream:
        stream.write(TABLE)
    try:
        assert _bytes(_one(f"/dev/fd/{read}")) == TABLE
    finally:
        os.close(read)


def test_devices() -> None:
    assert "device" in said(parts_of, "/dev/zero")
    assert "/dev/null is empty" in said(parts_of, "/dev/null")


def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_temporary", None)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    part = _one(_write(tmp_path / "x.csv.gz", gzip.compress(TABLE)))
    assert "TMPDIR" in said(on_disk, part)


# --- URLs


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/short"):
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(TABLE)
                return
            super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def test_http(address: tuple[str, Path]) -> None:
    url, folder = address
    _write(folder / "my ratings.csv.gz", gzip.compress(TABLE))
    part = _one(f"{url}/my%20ratings.csv.gz?signature=secret")
    assert _bytes(part) == _bytes(part) == TABLE
    assert (part.stem, part.suffix) == ("my ratings", ".csv")
    assert "secret" not in part.name
    _zip(folder / "ml.zip", {"ml/a.csv": TABLE, "ml/b.csv": b"x"})
    assert _bytes(_one(f"{url}/ml.zip/ml/a.csv")) == _bytes(_one(f"{url}/ml.zip:a.csv")) == TABLE
    assert _bytes(_one(Path(f"{url}/ml.zip:b.csv"))) == b"x"  # a Path has lost a slash


def test_http_errors(address: tuple[str, Path]) -> None:
    url, folder = address
    _write(folder / "login.html", b"<html>please log in</html>")
    assert "answers 404" in said(parts_of, f"{url}/none.csv")
    assert "web page" in said(parts_of, f"{url}/login.html")
    assert "cut off after" in said(parts_of, f"{url}/short.csv")
    assert "cannot read" in said(parts_of, "http://127.0.0.1:9/x.csv")
    assert said(parts_of, "http://a b/x.csv")
    assert said(parts_of, "http://")


def test_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/b/part-1.csv": TABLE, "/b/part-0.csv.gz": gzip.compress(TABLE), "/b/_SUCCESS": b""})
    memory.pipe({"/b/k=1/a.csv": b"1"})
    parts = parts_of("memory://b")
    assert [_bytes(p) for p in parts] == [b"1", TABLE, TABLE]
    assert [p.stem for p in parts] == ["a", "part-0", "part-1"]
    assert len(parts_of("memory://b/*.csv")) == 1
    assert "no such file" in said(parts_of, "memory://b/none.csv")
    assert "did you mean" in said(parts_of, "htps://b/none.csv")


def test_a_file_url(tmp_path: Path) -> None:
    path = _write(tmp_path / "a b.csv")
    assert _bytes(_one(path.as_uri())) == TABLE
    assert _one(path.as_uri()).path == path


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, url, install in (("s3fs", "s3://b/x.csv", "pip install s3fs"), ("fsspec", "gs://b/x.csv", "fsspec")):
        monkeypatch.setitem(sys.modules, module, None)
        assert install in said(parts_of, url)


def test_a_local_path_never_goes_through_fsspec(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.csv")
    code = f"before = 'fsspec' in sys.modules; parts_of({str(path)!r})[0].open(); print('fsspec' in sys.modules)"
    assert _in_child(code, b"", tmp_path).stdout == b"False\n"


# --- encodings

FRENCH = ["Misérables, Les (1995)", "À bout de souffle", "Être et avoir", "Zéro de conduite", "Cléo de 5 à 7"]
GERMAN = ["Der Himmel über Berlin", "Männer", "Die Brücke", "Fußball ist unser Leben"]
NORDIC = ["Så som i himmelen", "Rødt, hvitt og blått", "Häxan", "Kærlighed på film", "Fucking Åmål"]
ICELANDIC = ["Börn náttúrunnar", "Maður eins og ég", "Sódóma Reykjavík", "Undir trénu", "Djúpið"]
POLISH = ["Popiół i diament", "Człowiek z żelaza", "Nóż w wodzie", "Krótki film o miłości", "Cześć Tereska", "Dług"]
CZECH = ["Sedmikrásky", "Vesničko má středisková", "Příběhy obyčejného šílenství", "Rozmarné léto", "Žert", "Kolja"]
RUSSIAN = ["Броненосец Потёмкин", "Андрей Рублёв", "Иди и смотри", "Москва слезам не верит", "Левиафан", "Брат 2"]
GREEK = ["Μια αιωνιότητα και μια μέρα", "Ο Θίασος", "Το βλέμμα του Οδυσσέα", "Πολίτικη κουζίνα"]
CHINESE = ["卧虎藏龙", "霸王别姬", "大话西游之月光宝盒", "让子弹飞", "我不是药神", "千与千寻", "肖申克的救赎"]
TAIWANESE = ["臥虎藏龍", "悲情城市", "飲食男女", "海角七號", "那些年，我們一起追的女孩", "我的少女時代", "重慶森林"]
JAPANESE = ["千と千尋の神隠し", "七人の侍", "となりのトトロ", "東京物語", "君の名は。", "そして父になる", "万引き家族"]
KOREAN = ["기생충", "올드보이", "살인의 추억", "부산행", "헤어질 결심", "봄 여름 가을 겨울 그리고 봄", "택시운전사"]
TYPOGRAPHIC = ["Schindler’s List", "“Crocodile” Dundee", "Paris – Texas", "Brand® new", "50° below", "Alien³"]
WESTERN = FRENCH + GERMAN + NORDIC
WRITTEN = [
    *((titles, name) for titles in (FRENCH, GERMAN, NORDIC, WESTERN, ICELANDIC, TYPOGRAPHIC) for name in ("cp1252",)),
    *((titles, "latin-1") for titles in (FRENCH, GERMAN, NORDIC, ICELANDIC)),
    (WESTERN, "mac_roman"),
    (POLISH, "cp1250"),
    (POLISH, "iso8859_2"),
    (CZECH, "cp1250"),
    *((RUSSIAN, name) for name in ("cp1251", "koi8_r", "iso8859_5", "cp866")),
    (GREEK, "cp1253"),
    *((CHINESE, name) for name in ("gb2312", "gbk", "gb18030")),
    (TAIWANESE, "big5"),
    *((JAPANESE, name) for name in ("shift_jis", "euc_jp", "iso2022_jp", "cp932")),
    *((KOREAN, name) for name in ("euc_kr", "cp949")),
]


def _table(titles: list[str], delimiter: str = ",") -> str:
    rows = [f"{i}{delimiter}Toy Story {i} (1995){delimiter}Comedy\n" for i in range(50)]
    rows[3:3] = [f"{100 + i}{delimiter}{t}{delimiter}Drama\n" for i, t in enumerate(titles)]
    return "".join(rows)


def _text(part: Part, encoding: str | None = None) -> str:
    with decoded(part, encoding).open() as stream:
        return stream.read().decode()


@pytest.mark.parametrize(("titles", "encoding"), WRITTEN, ids=lambda v: v if isinstance(v, str) else v[0])
@pytest.mark.parametrize("delimiter", [",", "::", "\t"])
def test_text_of_other_encodings(tmp_path: Path, titles: list[str], encoding: str, delimiter: str) -> None:
    text = _table(titles, delimiter)
    part = _one(_write(tmp_path / "movies.dat", text.encode(encoding)))
    found = decoded(part)
    assert _text(part) == text
    assert found.guessed
    assert _text(part, found.encoding) == text  # the name can be given
    assert _text(part, encoding) == text


def test_movielens_1m(tmp_path: Path) -> None:
    """Few accents among thousands of ASCII titles, the first late in the file."""
    lines = [f"{i}::Film number {i} (1995)::Comedy|Drama\n" for i in range(60_000)]
    lines[50_000] = "73::Misérables, Les (1995)::Drama|Musical\n"
    lines[55_000] = "989::Schlafes Bruder (Brother of Sleep) (1995)::Drama\n"
    lines[59_000] = "1320::Alien³ (1992)::Action|Horror\n"
    part = _one(_write(tmp_path / "movies.dat", "".join(lines).encode("latin-1")))
    assert decoded(part).encoding == "cp1252"
    assert _text(part) == "".join(lines)


@pytest.mark.parametrize("titles", [FRENCH, RUSSIAN, CHINESE, TAIWANESE, JAPANESE, KOREAN, ["plain"], ["😀 film"]])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_unicode_with_and_without_a_mark(tmp_path: Path, titles: list[str], encoding: str) -> None:
    text = _table(titles)
    part = _one(_write(tmp_path / "x.csv", text.encode(encoding)))
    assert _text(part) == text
    assert decoded(part).guessed == (encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32"))
    assert decoded(part, "cp1252").encoding == (decoded(part).encoding if encoding in _MARKED else "cp1252")


_MARKED = ("utf-8-sig", "utf-16", "utf-32")


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n,\t"), min_size=1),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-7"]),
    st.sampled_from(["", "gz", "xz"]),
    st.integers(1, 50),
)
def test_a_given_encoding_gives_back_what_was_written(text: str, encoding: str, packer: str, step: int) -> None:
    text = "id," + text
    with tempfile.TemporaryDirectory() as folder:
        data = text.encode(encoding)
        part = _one(_write(Path(folder) / "x.csv", PACKERS[packer](data) if packer else data))
        with decoded(part, encoding).open() as stream:
            assert stream.readable()
            assert not stream.closed
            read = b"".join(iter(lambda: stream.read(step), b""))
        assert stream.closed
        assert read.decode() == text


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_valid_utf8_is_never_guessed(title: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        part = _one(_write(Path(folder) / "x.csv", f"1,{title}\n".encode()))
        assert not decoded(part).guessed
        assert _text(part) == f"1,{title}\n"


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_text_or_one_line(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder) / "x.csv", data)
        try:
            (part,) = parts_of(path)
            text = decoded(part)
            with text.open() as stream:
                read = stream.read()
        except FosterError as error:
            assert "\n" not in str(error)
            assert error.hint
        else:
            name = text.encoding
            assert read.decode() == data.decode("utf-8-sig" if name == "utf-8" else name).removeprefix("\ufeff")


def test_two_readings_are_both_shown(tmp_path: Path) -> None:
    error = fault(decoded, _one(_write(tmp_path / "x.csv", "1,밀양\n".encode("euc_kr"))))
    assert error.hint is not None
    options = re.findall(r"--encoding (\S+)", error.hint)
    assert 2 <= len(options) <= 3
    assert "'밀양' in cp949" in error.message
    assert "cp949" in options


@pytest.mark.parametrize("titles", [CHINESE, TAIWANESE, JAPANESE, KOREAN])
def test_one_title_of_east_asia_is_never_read_as_western(tmp_path: Path, titles: list[str]) -> None:
    names = {"卧": "gbk", "臥": "big5", "千": "shift_jis", "기": "euc_kr"}
    for title in titles:
        part = _one(_write(tmp_path / "x.csv", f"id,title\n1,{title}\n".encode(names[titles[0][0]])))
        try:
            assert _text(part) == f"id,title\n1,{title}\n"
        except FosterError as error:
            assert "--encoding" in str(error)


@pytest.mark.parametrize("title", WESTERN)
def test_one_western_title_is_read(tmp_path: Path, title: str) -> None:
    part = _one(_write(tmp_path / "x.csv", f"id,title\n1,{title}\n".encode("latin-1")))
    assert _text(part) == f"id,title\n1,{title}\n"


def test_utf8_with_damage_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    data = _table(FRENCH + RUSSIAN).encode()
    at = data.index("Рублёв".encode()) + 1
    message = said(decoded, _one(_write(tmp_path / "x.csv", data[:at] + data[at + 1 :])))
    assert "damaged characters" in message
    line = len(data[:at].splitlines())
    assert f"line {line}" in message
    cut = "1,é\n2,ü\n3,Ж".encode()[:-1]
    assert "damaged" in said(decoded, _one(_write(tmp_path / "y.csv", cut)))


def test_the_line_that_does_not_fit_is_named(tmp_path: Path) -> None:
    data = b"".join(b"%d,title\n" % i for i in range(200_000))
    line = 150_000
    cut = data.index(b"\n149999,") + 1
    for encoding, wrong in (("utf-8", b"\xff"), ("ascii", b"\xe9"), ("cp1252", b"\x81"), ("shift_jis", b"\xff")):
        part = _one(_write(tmp_path / "x.csv.gz", gzip.compress(data[:cut] + b"1,a" + wrong + b"b\n" + data[cut:])))
        message = said(_text, part, encoding)
        assert f"(line {line}: " in message, message
        assert "x.csv.gz" in message
        assert "--encoding" in message


def test_nul_bytes(tmp_path: Path) -> None:
    for data in (b"a,b\n1,\0\n", b"a,b\n" * 500_000 + b"\0", os.urandom(99) + b"\0"):
        part = _one(_write(tmp_path / "x.csv", data))
        assert "is no text, for it holds NUL bytes" in said(decoded, part)
    for encoding in ("utf-8", "cp1252"):
        assert "holds NUL bytes (line 2)" in said(_text, _one(_write(tmp_path / "x.csv", b"a,b\n1,\0\n")), encoding)


def test_unknown_encodings(tmp_path: Path) -> None:
    part = _one(_write(tmp_path / "x.csv"))
    assert "did you mean cp1252?" in said(decoded, part, "cp12522")
    for name in ("rot13", "zlib", "idna", "qqqqqq", "", "\0", "../x", "punycode"):
        assert "unknown encoding" in said(decoded, part, name)


def test_the_stream_is_what_pyarrow_and_line_readers_take(tmp_path: Path) -> None:
    rows = "id,title\n" + "".join(f"{i},Misérables {i}\n" for i in range(100_000))
    for data in (rows.encode(), rows.encode("cp1252"), rows.encode("utf-16")):
        text = decoded(_one(_write(tmp_path / "x.csv", data)))
        with pyarrow.csv.open_csv(text.open()) as reader:
            table = reader.read_all()
        assert table["title"].to_pylist() == [f"Misérables {i}" for i in range(100_000)]
        with text.open() as stream:
            assert sum(1 for _ in stream) == 100_001
        with text.open() as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as lines:
            assert lines.read() == rows


def test_an_error_reaches_the_reader_through_pyarrow(tmp_path: Path) -> None:
    data = b"id,title\n" + b"1,x\n" * 3_000_000
    part = _one(_write(tmp_path / "x.csv", data + b"2,\xff\n"))
    text = decoded(part, "utf-8")
    with pytest.raises(FosterError, match="line 3000002"), pyarrow.csv.open_csv(text.open()) as reader:
        reader.read_all()


def test_a_character_on_the_edge_of_two_blocks(tmp_path: Path) -> None:
    for shift in range(4):
        data = b"a" * ((1 << 20) - 2 + shift) + "漢é😀\n".encode() * 3
        part = _one(_write(tmp_path / "x.csv", data))
        assert _text(part).encode() == data
        assert not decoded(part).guessed


def test_memory_of_a_long_text(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        for _ in range(300):
            file.write("1,é\n".encode("latin-1") * (1 << 18))
    with decoded(_one(path)).open() as stream:
        read = sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
    assert read == 300 * (1 << 18) * 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB
