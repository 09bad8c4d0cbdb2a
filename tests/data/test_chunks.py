"""`Table.chunks` gives what `Table.read` gives, in parts of any size, and never holds a large file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import fault
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from foster_cli.data.readers import Read, blocks, delimited, encoding, open_table
from foster_cli.data.readers.arrow import flat
from foster_cli.errors import FosterError

Rows = list[tuple[str | None, ...]]
_SIZES = (1, 7, 40, 1 << 20)


def _cells(frame: pd.DataFrame, names: Sequence[str]) -> Rows:
    return list(zip(*([flat(value) for value in frame[name]] for name in names), strict=True))


def _places(reads: Iterable[Read]) -> list[tuple[str, int, str]]:
    found = [read.place(row) for read in reads for row in range(len(read.frame))]
    return [(place.file, place.line, place.unit) for place in found]


def _chunks(path: Path | str, rows: int, columns: Sequence[str] | None = None, **options: Any) -> list[Read]:
    table = open_table(path, **options)
    first, again = list(table.chunks(columns, rows)), list(table.chunks(columns, rows))
    assert [len(read.frame) for read in first] == [len(read.frame) for read in again]
    return first


def _same(
    path: Path | str, sizes: Sequence[int] = _SIZES, head: int = 1 << 20, columns: Sequence[str] | None = None,
    names: int = 64, **options: Any,
) -> int:  # fmt: skip
    """Check the chunks of every size, and give the number of chunks of the smallest."""
    whole = open_table(path, **options).read(columns)
    counts = []
    for size in sizes:
        with mock.patch.object(blocks, "SIZES", blocks.Sizes(head, size, names)):
            found = _chunks(path, size, columns, **options)
        assert all(len(read.frame) for read in found)
        assert set(found[0].frame.columns) == set(whole.frame.columns)
        listed = list(whole.frame.columns)
        assert [row for read in found for row in _cells(read.frame, listed)] == _cells(whole.frame, listed)
        assert _places(found) == _places([whole])
        assert [one for read in found for one in read.bad] == whole.bad
        counts.append(len(found))
    return counts[0]


def _write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _csv(rows: int, end: str = "\n", sign: str = ",") -> str:
    lines = [["user", "item", "timestamp"], *([f"u{i % 7}", f"i{i}", str(10**9 + i)] for i in range(rows))]
    return "".join(sign.join(line) + end for line in lines)


# --- delimited text

_TEXTS = {
    "plain": _csv(20),
    "no last end": _csv(20).rstrip("\n"),
    "cr lf": _csv(20, "\r\n"),
    "cr alone": _csv(20, "\r"),
    "cr cr lf": _csv(20, "\r\r\n"),
    "quotes": 'id,title,n\n1,"a, b",2\n3,"say ""hi""",4\n5,c,6\n',
    "unpaired quotes": 'id,title,n\n1,"Weird Al,5\n2,7" tablet,6\n3,Foo",7\n',
    "over lines": 'id,title,n\n1,"a\nb",2\n3,"c\n\nd",4\n5,e,6\n7,"f\r\ng",8\n9,h,10\n',
    "over lines with a bad row": 'id,title,n\n1,"a\nb",2\n3,c,4\n5,"d\ne",6\n7,f,8\n',
    "ragged": "id,title,n\n1,a,2\n3,b\n5,c,6\n7,d,8,9\n10\n11,e,12\n13,f,14\n15\n",
    "ragged at the end": "id,title\n1,a\n2\n3\n4\n",
    "ragged at the beginning": "id,title\n1\n2\n3\n4,a\n5,b\n",
    "ragged with quotes": 'id,title,n\n1,a,2\n3,"b, c"\n5,"d, e",6\n7,8" f,9\n10,"g, h",11\n12,i\n',
    "a quote is never closed": 'id,title,n\n1,a,2\n3,"b,4\n5,c,6,7\n8,"d, e",9\n',
    "quoted header": '"id","title","n"\n"1","a","2"\n"3","b\n"5","c","6"\n"7","d","8"\n',
    "empty lines": "id,title\n\n1,a\n\n\n2,b\n\n3,c\n\n\n",
    "an empty line, far": "id,title\n" + "".join(f"{i},a\n" for i in range(30)) + "\n31,b\n32,c\n",
    "empty lines at the end": "id,title\n1,a\n2,b\n\n\n\n",
    "empty lines with ragged ones": "id,title\n1,a\n\n2\n3,b\n4\n\n5,c\n6,d,e\n7,f\n",
    "cr within": "id,title,n\n1,a\rb,2\n3,c,4\n5,d\r\re,6\n7,f,8\n",
    "cr within and quotes": 'id,title,n\n1,"a\rb",2\n3,c" d,4\n5,d\r\re,6\n7,f,8\n',
    "cr within quotes": 'id,title,n\n1,"a\rb",2\n3,c,4\n5,"d",6\n7,f,8\n',
    "cr at the end": "id,title\n1,a\n2,b\n3,c\r",
    "escapes": 'id,title,n\n1,"a \\"b\\" c, d",2\n3,"c\\\\",4\n5,"e, \\"f\\"",6\n7,g,8\n',
    "colons": "id::title::n\n1::a: b::2\n3::c,d::4\n5::e\n7::f::8\n",
    "blanks": "id title n\n1  a\t2\n  3 b 4  \n5 c 6\n \t \n7 d 8\n",
    "bar": _csv(9, sign="|"),
    "semicolon": _csv(9, sign=";"),
    "one column": "title\na\n\n \nb\n  \nc\n",
    "signs": 'id,title\n1,"ä, 漢"\n2,😀😀\n3,\u2028é\n',
    "a byte order mark": "\ufeffid,title\n1,a\n2,ä\n",
    "header over lines": '"id","the\ntitle"\n1,a\n2,b\n3,"c\nd"\n',
    "atomic": "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"{i}\t{i}\t{i}\n" for i in range(9)),
    "without a name": "id,,title\n1,x,a\n2,y,b\n3,z,c\n",
    "long": "id,title\n" + "".join(f"{i},{'x' * (i * 40 % 501)}\n" for i in range(20)),
}  # fmt: skip


@pytest.mark.parametrize("name", _TEXTS)
def test_delimited_text(name: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "t.tsv" if name == "atomic" else "t.csv", _TEXTS[name])
    _same(path)
    _same(path, head=64)


def test_blocks_are_cut() -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert _same(_write(Path(folder), "t.csv", _csv(20)), sizes=[1]) == 20
        assert _same(_write(Path(folder), "q.csv", _TEXTS["over lines"]), sizes=[1]) == 5
        assert 5 < _same(_write(Path(folder), "t.csv", _csv(200, "\r")), sizes=[64], head=64) < 100


def test_columns_are_chosen_and_ordered(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.csv", _TEXTS["ragged"])
    assert _same(path, columns=["n", "id", "none"]) > 1
    with mock.patch.object(blocks, "SIZES", blocks.Sizes(block=1)):
        assert list(next(open_table(path).chunks(["n", "id", "none"])).frame.columns) == ["n", "id"]


_cell = st.text(st.sampled_from('ab"",\n\r\\ \t1é'), max_size=6)
_line = st.lists(_cell, min_size=1, max_size=4).map(",".join)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


_good = st.lists(st.one_of(st.just("a"), _cell.map(_quoted)), min_size=2, max_size=2).map(",".join)


def _outcome(read: Callable[[], object]) -> FosterError | None:
    try:
        read()
    except FosterError as error:
        return error
    return None


@settings(max_examples=400, deadline=None)
@given(
    lines=st.one_of(st.lists(_good, max_size=8), st.lists(st.one_of(_good, _line), max_size=8)),
    end=st.sampled_from(["\n", "\n", "\r\n", "\r"]), size=st.integers(1, 30), sign=st.sampled_from([",", "::", " "]),
    head=st.sampled_from([16, 1 << 20]),
)  # fmt: skip
def test_any_text(lines: list[str], end: str, size: int, sign: str, head: int) -> None:
    text = end.join(["id,title", *lines]).replace(",", sign)
    kind = {",": "csv", "::": "colons", " ": "blank"}[sign]
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), "t.csv", text)
        error = _outcome(lambda: open_table(path, kind).read())
        if error is None:
            _same(path, sizes=[size], head=head, kind=kind)
        else:
            with mock.patch.object(blocks, "SIZES", blocks.Sizes(block=size)):
                assert str(fault(lambda: _chunks(path, 1, kind=kind))) == str(error)


@settings(max_examples=200, deadline=None)
@given(
    lines=st.one_of(st.lists(_good, max_size=8), st.lists(st.one_of(_good, _line), max_size=8)),
    end=st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_the_quick_look_at_quotes_is_right(lines: list[str], end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), "t.csv", end.join(["id,title", *lines, "1,2"]))
        found = open_table(path, "csv").read()
        with mock.patch.object(delimited, "_faultless", lambda *_: False):
            slow = open_table(path, "csv").read()
    assert found.frame.equals(slow.frame) and found.bad == slow.bad


def test_the_quick_look_at_quotes_takes_what_writers_write(tmp_path: Path) -> None:
    rows = [("1", 'a, "b"'), ("2", '""'), ("3", ""), ("4", '"'), ("5", "c,")] * 3
    text = "".join(",".join(map(_quoted, row)) + "\r\n" for row in rows) + "6,7\r\n\r\n"
    path = _write(tmp_path, "t.csv", "id,title\r\n" + text)
    with mock.patch.object(delimited, "_quoted_fault", side_effect=AssertionError):
        _same(path)


# --- encodings and packing


@pytest.mark.parametrize("name", ["utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32", "cp1251"])
def test_encodings(name: str, tmp_path: Path) -> None:
    titles = ["Амели", "Война и мир", "Солярис"] if name == "cp1251" else ["Amélie", "À bout de souffle", "Fête"]
    text = "id,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(titles * 5))
    path = _write(tmp_path, "t.csv", text.encode(name))
    assert _same(path, head=64) == 15
    assert open_table(path).notes == [note for note in open_table(path).notes if "is taken to be" in note]


def test_a_damaged_byte_in_a_later_block_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.csv", _csv(20).encode() + b"u\xff,i,5\n")
    with mock.patch.object(blocks, "SIZES", blocks.Sizes(64, 40)):
        assert "(line 22" in fault(lambda: list(open_table(path, encoding="utf-8").chunks())).message


def _zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", data)
    return made.getvalue()


def _tar(data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        info = tarfile.TarInfo("t.csv")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def _zst(data: bytes) -> bytes:
    made = pa.BufferOutputStream()
    with pa.CompressedOutputStream(made, "zstd") as stream:
        stream.write(data)
    return bytes(made.getvalue())


_PACKED: dict[str, Callable[[bytes], bytes]] = {
    "t.csv.gz": gzip.compress, "t.csv.bz2": bz2.compress, "t.csv.xz": lzma.compress, "t.csv.zst": _zst, "t.zip": _zip,
    "t.tar.gz": _tar,
}  # fmt: skip


@pytest.mark.parametrize("name", _PACKED)
def test_packed(name: str, tmp_path: Path) -> None:
    data = _TEXTS["over lines"].encode() + b"".join(b"%d,x,%d\n" % (i, i) for i in range(30))
    assert _same(_write(tmp_path, name, _PACKED[name](data)), head=64) > 20


def test_a_packed_table_of_objects_and_parquet(tmp_path: Path) -> None:
    made = io.BytesIO()
    pq.write_table(pa.table({"user": ["a", "b", "c"], "item": [1, 2, 3]}), made)
    assert _same(_write(tmp_path, "t.parquet.gz", gzip.compress(made.getvalue())), sizes=[1, 2]) == 3
    lines = "".join(json.dumps({"user": f"u{i}", "item": i}) + "\n" for i in range(9))
    assert _same(_write(tmp_path, "t.jsonl.gz", gzip.compress(lines.encode())), head=64) == 9


def test_what_flows_through_is_not_bounded_by_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, "t.csv.gz", gzip.compress(b"id,title\n" + b"1,abcdefgh\n" * 100_000))
    monkeypatch.setattr(encoding.psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    with mock.patch.object(blocks, "SIZES", blocks.Sizes(1 << 16, 1 << 16)):
        assert "larger than the memory here" in fault(open_table(path).read).message
        assert sum(len(read.frame) for read in open_table(path).chunks()) == 100_000
        endless = _write(tmp_path, "u.csv.gz", gzip.compress(b"id,title\n1," + b"x" * (1 << 21)))
        assert "larger than the memory here" in fault(lambda: list(open_table(endless).chunks())).message


def test_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(_csv(20),))
    writer.start()
    assert _same(path, head=64) == 20
    writer.join()


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _write(tmp_path, "t", _csv(20)).open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert _same("-", head=64) == 20


# --- parts


def test_parts(tmp_path: Path) -> None:
    _write(tmp_path, "a.csv", _csv(5))
    _write(tmp_path, "b.csv", "item,user,timestamp\n1,2,3\n4,5\n6,7,8\n")
    _write(tmp_path, "c.csv", 'timestamp,item,user\n1,"2\n3",4\n5,6,7\n')
    _write(tmp_path, "d.csv", "timestamp,item,user\n")
    _write(tmp_path, "e.csv.gz", gzip.compress(_csv(3).encode()))
    assert _same(tmp_path, columns=["user", "item"]) == 12


def test_parts_with_other_columns_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "a.csv", _csv(5))
    _write(tmp_path, "b.csv", "item,user,when\n1,2,3\n")
    chunks = open_table(tmp_path).chunks()
    assert "has other columns than" in fault(lambda: list(chunks)).message
    for name, table in (("a", {"user": [1]}), ("b", {"item": [1]})):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    assert "no user" in fault(lambda: list(open_table(f"{tmp_path}/*.parquet").chunks())).message


@pytest.mark.parametrize("text", ["id,title\n", "id,title\n1\n2\n", "id,title\n\n \n"])
def test_a_table_without_rows_is_refused(text: str, tmp_path: Path) -> None:
    table = open_table(_write(tmp_path, "t.csv", text))
    assert str(fault(lambda: list(table.chunks()))) == str(fault(table.read))


# --- objects

_LINES: dict[str, list[object]] = {
    "plain": [{"user": f"u{i}", "item": i, "rating": i / 2} for i in range(9)],
    "a key is lost": [{"user": "u", "item": i, "title": "a"} if i < 3 else {"user": "v", "item": i} for i in range(9)],
    "mixed": [{"user": "u", "item": i if i % 2 else f"i{i}", "old": i > 3 if i % 3 else "yes"} for i in range(9)],
    "large": [{"user": 2**63 + i, "item": 2**53 + i if i % 2 else 0.5, "n": 2**62 + i} for i in range(9)],
    "nested": [{"user": "u", "item": [i, "b"], "meta": {"a": 1, "b": [True, None]}} for i in range(9)],
    "times": [{"user": "u", "time": "2020-01-01 10:00:00" if i < 5 else 10**9 + i} for i in range(9)],
    "bools": [{"user": "u", "there": i % 2 == 0, "none": None} for i in range(9)],
}  # fmt: skip


@pytest.mark.parametrize("name", _LINES)
@pytest.mark.parametrize("broken", ["", "{]\n", "5\n", "\n", "  \n{}\n\n"])
@pytest.mark.parametrize("python", [False, True])
def test_lines_of_objects(name: str, broken: str, python: bool, tmp_path: Path) -> None:
    lines = [(repr(row) if python else json.dumps(row)) + "\n" for row in _LINES[name]]
    path = _write(tmp_path, "t.jsonl", "".join([*lines[:5], broken, *lines[5:]]))
    assert _same(path, head=16, names=1) >= 9
    _same(path, names=1 << 20, columns=["user"])


def test_lines_that_end_with_cr(tmp_path: Path) -> None:
    lines = [json.dumps(row) + "\r" for row in _LINES["plain"]]
    _same(_write(tmp_path, "u.jsonl", "".join([*lines, "\r", *lines])), head=16, names=1)
    path = _write(tmp_path, "t.jsonl", "".join(lines))
    assert _same(path, head=16, names=1) == 9


@pytest.mark.parametrize("indent", [None, 2])
def test_objects_that_are_read_as_a_whole(indent: int | None, tmp_path: Path) -> None:
    path = _write(tmp_path, "a.json", json.dumps(_LINES["plain"], indent=indent))
    assert _same(path, head=16, names=1) == 1
    path = _write(tmp_path, "b.json", "\n".join(json.dumps(row, indent=4) for row in _LINES["plain"]))
    assert _same(path, head=16, names=1) == 1


def test_keys_that_come_later_are_no_columns_of_a_large_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "t.jsonl", '{"user": "a"}\n{"user": "b"}\n{"user": "c", "late": 1}\n')
    with mock.patch.object(blocks, "SIZES", blocks.Sizes(16, 1, 1)):
        table = open_table(path)
        assert table.names == ["user"]
        assert [list(read.frame.columns) for read in table.chunks()] == [["user"]] * 3
    assert open_table(path).names == ["user", "late"]


# --- sequences and layouts that unfold


@pytest.mark.parametrize(
    "text",
    ["u1\t1 2 3\nu2\t4 5\n\nu3\t6\n", "1 10 11 12\n2 13 14\n3 15 16 17 18\n", "1 10 11 12\n1 13 14\n\n3 15 16 17 18\n"],
)
def test_sequences(text: str, tmp_path: Path) -> None:
    assert _same(_write(tmp_path, "t.txt", text), kind="sequences") == 3
    _same(_write(tmp_path, "t.txt", text), head=16, kind="sequences")


def test_sequences_in_parts(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "1 10 11 12\n2 13 14\n")
    _write(tmp_path, "b.txt", "1 15 16 17 18\n3 1 2\n")
    assert _same(tmp_path, kind="sequences") == 4


_LAYOUTS = {
    "t.txt": "".join(f"{i % 3} {i}\n" for i in range(1, 20)),
    "t.tsv": "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n2\tU2\t11/13/2019 6:11:30 PM\t\tN5-0 N6-1\n"
    "3\tU1\t11/10/2019 6:11:30 PM\tN1 N2 N9\tN5-1 N6-1\n",
    "lists.csv": "user_id,item_id_list,item_id\n" + "".join(f"u{i},1 2 {i},9\n" for i in range(1, 9)),
    "rated.csv": "".join(f"u{i},i{i},5,{10**9 + i}\n" for i in range(9)),
    "views.csv": "sessionId;userId;itemId;timeframe;eventdate\n" + "".join(f"{i};;{i};5;2016-05-9\n" for i in range(9)),
    "events.tsv": "".join(f"u1\t2009-05-0{i}T23:08:57Z\tx\tDeep\ty\tTune {i}\n" for i in range(1, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", _LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
    path = _write(tmp_path, name, _LAYOUTS[name])
    assert open_table(path).layout is not None
    assert _same(path) == (1 if name == "t.tsv" else _LAYOUTS[name].count("\n") - ("e" in _LAYOUTS[name][:3]))
    (tmp_path / "two").mkdir()
    _write(tmp_path / "two", "a" + name, _LAYOUTS[name])
    _write(tmp_path / "two", "b" + name, _LAYOUTS[name])
    _same(tmp_path / "two")


def test_lists_of_objects_and_parquet(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{i}", "item_id_list": [f"i{j}" for j in range(i + 1)]} for i in range(5)]
    path = _write(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert _same(path, head=16, names=1) == 5
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert _same(tmp_path / "t.parquet", sizes=[1, 2, 3, 7]) == 5


# --- parquet and Arrow


def _table(rows: int) -> pa.Table:
    return pa.table({
        "user": pa.array([f"u{i % 3}" for i in range(rows)]).dictionary_encode(),
        "item": pa.array([None if i == 4 else i for i in range(rows)], pa.int32()),
        "large": pa.array([2**64 - 1 if i == 9 else i for i in range(rows)], pa.uint64()),
        "time": pa.array([1_000_000 * i for i in range(rows)], pa.timestamp("us", "UTC")),
        "tags": pa.array([["a", "b"][: i % 3] for i in range(rows)]),
        "meta": pa.array([{"a": i, "b": "x"} for i in range(rows)]),
        "score": pa.array([i / 3 for i in range(rows)]),
    })  # fmt: skip


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(_table(20), tmp_path / "t.parquet", row_group_size=6)
    assert _same(tmp_path / "t.parquet", sizes=[1, 2, 3, 7, 50]) == 20
    assert _same(tmp_path / "t.parquet", sizes=[7], columns=["time", "user"]) == 3
    pq.write_table(_table(20), tmp_path / "u.parquet", row_group_size=1)
    assert _same(tmp_path / "u.parquet", sizes=[7]) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_arrow(stream: bool, tmp_path: Path) -> None:
    table = _table(20)
    path = tmp_path / "t.arrow"
    with pa.OSFile(str(path), "wb") as sink:
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=6)
    assert _same(path, sizes=[1, 2, 3, 7, 50]) == 20
    assert _same(path, sizes=[7], columns=["time", "user"]) == 4


def test_dictionaries_that_differ_by_batch(tmp_path: Path) -> None:
    batches = [
        pa.record_batch({"user": pa.array(users).dictionary_encode(), "item": pa.array([1, 2])})
        for users in (["a", "b"], ["c", "a"], ["d", "d"])
    ]
    path = tmp_path / "t.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    assert _same(path, sizes=[1, 2, 3, 7]) == 6


def test_feather_and_a_table_without_rows(tmp_path: Path) -> None:
    feather.write_feather(_table(20), str(tmp_path / "t.feather"), chunksize=6)
    assert _same(tmp_path / "t.feather", sizes=[1, 2, 3, 7]) == 20
    pq.write_table(_table(0), tmp_path / "none.parquet")
    assert "has no rows" in fault(lambda: list(open_table(tmp_path / "none.parquet").chunks(["item"]))).message


def test_a_cut_off_parquet_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"user": [str(i) for i in range(10_000)]}), path)
    data = bytearray(path.read_bytes())
    data[1000:3000] = b"\xff" * 2000
    path.write_bytes(data)
    assert "damaged" in fault(lambda: list(open_table(path).chunks())).message


# --- memory

_CHILD = """
import resource, sys
from foster_cli.data.readers import open_table
next(open_table(sys.argv[1]).chunks())
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
rows = sum(len(read.frame) for read in open_table(sys.argv[2]).chunks())
print(rows, (peak() - before) / 1024)
"""


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    """200 MB."""
    block = b"".join(b"user%d,item%d,%d\n" % (i % 1000, i, 10**9 + i) for i in range(1 << 15))
    with gzip.open(tmp_path / name, "wb", 1) if name.endswith("gz") else (tmp_path / name).open("wb") as file:
        file.write(b"user,item,timestamp\n")
        for _ in range(220):
            file.write(block)
    small = _write(tmp_path, "small.csv", _csv(9))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(small), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows, grown = done.stdout.split()
    assert int(rows) == 220 << 15
    assert float(grown) < 250
