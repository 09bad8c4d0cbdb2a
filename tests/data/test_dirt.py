"""Dirty tables: each is read with the right values, or refused in one line, or its bad rows are counted by place."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import random
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import fault
from pyarrow import feather

from foster_cli.commands.preprocess import command
from foster_cli.data.account import account_lines
from foster_cli.data.prepare import load_dataset, read_raw, write_prepared
from foster_cli.data.readers import encoding, open_table, read_table
from foster_cli.data.schema import Dataset
from foster_cli.data.store import is_prepared, read_prepared
from foster_cli.errors import FosterError
from foster_cli.files import quoted
from foster_cli.settings import PrepareSettings

ONE = PrepareSettings(k_core=1)
HEADER = "user_id,item_id,timestamp,title\n"
GOOD = [("a", "1", 100), ("a", "2", 200), ("b", "1", 300), ("b", "2", 400), ("a", "3", 500), ("b", "3", 600)]
GOOD = [(f"{user}{n}", item, 10 * time + n) for user, item, time in GOOD for n in range(40)]


def _file(folder: Path, data: bytes | str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _cells(path: Path, **options: Any) -> list[list[Any]]:
    return read_table(path, **options).to_numpy().tolist()


def _shop(title: str = "T", rows: list[tuple[str, str, int]] | None = None) -> str:
    """Good interactions as CSV."""
    return "".join(f"{user},{item},{time},{title} {item}\n" for user, item, time in (GOOD if rows is None else rows))


def _adds_up(data: Dataset, read: int) -> dict[str, Any]:
    rows = data.statistics["rows"]
    assert rows["read"] == read
    assert rows["kept"] == len(data.interactions) == data.statistics["interactions"]
    assert read == sum(rows[name] for name in ("kept", "bad", "filtered", "duplicates", "cut_by_k_core"))
    assert rows["bad"] == len(data.bad)
    return rows


# --- delimited text


@pytest.mark.parametrize(
    ("data", "cells"),
    [
        ("\ufeffid,title\n1,x\n", [["1", "x"]]),
        ("id,title\r\n1,x\r\n2,y", [["1", "x"], ["2", "y"]]),
        ("id,title\r1,x\r2,y\r", [["1", "x"], ["2", "y"]]),
        ("id,title\n1,x\ry\n2,z\n", [["1", "x y"], ["2", "z"]]),  # a CR in a title is no end of a line
        ('id,title\n1,"x\ry"\n2,z\n', [["1", "x\ry"], ["2", "z"]]),
        ('id,title\n1,"a, ""b"""\n', [["1", 'a, "b"']]),
        ('id,title\n1,"a\n\nb"\n2,"c\r\nd"\n', [["1", "a\n\nb"], ["2", "c\r\nd"]]),
        ('id,title\n1,7" tablet\n2,"Weird Al\n3,Foo"\n', [["1", '7" tablet'], ["2", '"Weird Al'], ["3", 'Foo"']]),
        ('id,"title\n1,a\n2,b\n', [["1", "a"], ["2", "b"]]),  # a quote in the header swallows no rows
        ("user_id::item_id\n1::2\n3::4\n", [["1", "2"], ["3", "4"]]),
        ("user_id::title\n1::a\x1fb\n", [["1", "a b"]]),
        ("id;title\n007;0.10\n", [["007", "0.10"]]),
        ("id\ttitle\na/b\\c\t=cmd()|'x'\n", [["a/b\\c", "=cmd()|'x'"]]),
        ("id,title\n1,👩‍👩‍👧 שלום \u202eabc\x1b[31m\n", [["1", "👩‍👩‍👧 שלום \u202eabc\x1b[31m"]]),
        ("id\n1\n", [["1"]]),
        ("id\n1\n\n3\n", [["1"], ["3"]]),
        ('select,"drop table ""x"";--"\n1,2\n', [["1", "2"]]),
        (",id,\n0,1,2\n", [["1"]]),
        ("id,title\n1,x\n" + "\n" * 50, [["1", "x"]]),
    ],
)
def test_delimited_text(tmp_path: Path, data: str, cells: list[list[str]]) -> None:
    assert _cells(_file(tmp_path, data)) == cells


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"id,title\n", "has no rows"),
        (b"id,title\n1,a\0b\n", "NUL"),
        (b"id,id\n1,2\n", "two columns named id"),
        (b"\n\n  \n\xc2\xa0\n", "only blank lines"),
        (b",,\n,,\n", "only empty cells"),
        (b"id,title\n" + "né\n".encode() * 40 + b"1,caf\xe9\n", "damaged characters (line 42)"),
    ],
)
def test_delimited_text_that_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in fault(read_table, _file(tmp_path, data)).message


@pytest.mark.parametrize("quoted", [False, True])
def test_a_line_of_20_megabytes(tmp_path: Path, quoted: bool) -> None:
    long = "x, " * 7_000_000 if quoted else "x" * 20_000_000
    cell = f'"{long}"' if quoted else long
    read = _cells(_file(tmp_path, "id,title\n" + "0,y\n" * 9 + f"1,{cell}\n2,z\n"))
    assert (read[9][1] == long, read[10]) == (True, ["2", "z"])


def test_a_title_of_a_megabyte_and_5000_columns(tmp_path: Path) -> None:
    title = "Tïtle " * 170_000
    data = read_raw([_file(tmp_path, HEADER + _shop() + f"a1,9,1,{title}\n")], ONE)
    assert data.catalogue.texts[data.catalogue.ids.index("9")] == title.strip()
    assert len(data.catalogue.titles[data.catalogue.ids.index("9")]) <= 65_536
    wide = ",".join(f"c{i}" for i in range(5000))
    lines = [line + "," + ",".join(str(i % 7) for i in range(5000)) for line in _shop().splitlines()]
    path = _file(tmp_path, HEADER.strip() + f",{wide}\n" + "\n".join(lines), "wide.csv")
    assert read_raw([path], ONE).hash == read_raw([_file(tmp_path, HEADER + _shop())], ONE).hash
    assert open_table(path).read(["c4999"]).frame["c4999"].tolist() == [str(4999 % 7)] * len(GOOD)


def test_lines_are_named_after_blank_lines_and_bad_ones(tmp_path: Path) -> None:
    read = open_table(_file(tmp_path, "id,title\n1,a\n\n\n2\n3,b\n4,c,d\n\n")).read()
    assert [(one.line, one.unit, one.reason) for one in read.bad] == [
        (5, "line", "has 1 field, not 2"), (7, "line", "has 3 fields, not 2")
    ]  # fmt: skip
    read = open_table(_file(tmp_path, "id,title\r1,a\r2\r3,b\r")).read()
    assert [one.line for one in read.bad] == [3] and [read.place(i).line for i in (0, 1)] == [2, 4]


@pytest.mark.parametrize(
    "bad", ["x", "a9,1", "a9,1,5,T,more", '"', "a9,1,never,T", "a9,,5,T", ",1,5,T", "a9,1,,T", " ,1,5,T"]
)
def test_a_few_bad_rows_are_counted_and_many_refused(tmp_path: Path, bad: str) -> None:
    lines = _shop().splitlines()
    lines[100:100] = [bad]
    data = read_raw([_file(tmp_path, HEADER + "\n".join(lines))], ONE)
    assert _adds_up(data, 241)["kept"] == 240
    assert [(Path(one.file).name, one.line) for one in data.bad] == [("t.csv", 102)]
    assert data.hash == read_raw([_file(tmp_path, HEADER + _shop())], ONE).hash
    many = _file(tmp_path, HEADER + "\n".join([*lines[:50], *[bad] * 3, *lines[50:]]))
    assert "line 52" in fault(read_raw, [many], ONE).message
    data = read_raw([many], replace(ONE, allow_bad=True))
    assert _adds_up(data, 244)["bad"] == 4


def test_missing_titles_and_two_titles(tmp_path: Path) -> None:
    rows = [("a0", "1", 5, ""), ("a0", "1", 1000, ""), ("b0", "1", 900_000, "Last")]
    lines = _shop(rows=[r for r in GOOD if r[1] != "1"]) + "".join(f"{u},{i},{t},{x}\n" for u, i, t, x in rows)
    data = read_raw([_file(tmp_path, HEADER + lines)], ONE)
    assert data.catalogue.titles[0] == "Last"
    _adds_up(data, 163)
    renamed = _shop("Old") + "zz,1,999999,New 1\n"
    data = read_raw([_file(tmp_path, HEADER + renamed)], ONE)
    assert data.catalogue.titles[0] == "Old 1"


def test_interactions_without_an_item_row_and_the_reverse(tmp_path: Path) -> None:
    buys = _file(tmp_path, "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in GOOD))
    items = _file(tmp_path, "item_id,title\n1,One\n2,\n99,Other\n1,Again\n", "items.csv")
    data = read_raw([items, buys], ONE)
    assert data.catalogue.ids == ["1", "2", "3"] and data.catalogue.texts == ["One", "", ""]
    assert data.statistics["share_without_text"] == 2 / 3
    assert any(
        "67% of the items have no text" in line for line in account_lines(data.statistics, data.settings["columns"])
    )
    _adds_up(data, 240)


@pytest.mark.parametrize(
    "ids", [["007", "7", "0007"], ["a\tb", "a b", "a/b"], ["=cmd()", "@x", "+1"], ['"', "'", '""']]
)
def test_ids_stay_apart(tmp_path: Path, ids: list[str]) -> None:
    rows = [(f"u{u}", item, 10 * u + n) for u in range(9) for n, item in enumerate(ids)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(title="x")
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read_raw([tmp_path / "t.csv"], ONE).catalogue.ids == sorted(ids)
    (tmp_path / "t.jsonl").write_text(frame.to_json(orient="records", lines=True))
    assert read_raw([tmp_path / "t.jsonl"], ONE).catalogue.ids == sorted(ids)


def test_times_before_1970_and_in_the_far_future(tmp_path: Path) -> None:
    old = [(u, i, t - 1_000_000_000) for u, i, t in GOOD]
    data = read_raw([_file(tmp_path, HEADER + _shop(rows=old))], ONE)
    assert data.interactions.time.min() == min(t for _, _, t in old) * 1000
    new = [(u, i, t + 1_600_000_000) for u, i, t in GOOD]
    far = _file(tmp_path, HEADER + _shop(rows=new) + "z,1,99999999999,T\n")
    data = read_raw([far], ONE)
    assert _adds_up(data, 241)["bad"] == 1 and data.bad[0].line == 242
    mixed = _file(tmp_path, HEADER + _shop(rows=new) + "z,1,1600000000000,T\n")
    assert "not in the unit of most other rows" in fault(read_raw, [mixed], ONE).message


# --- objects


@pytest.mark.parametrize(
    ("data", "cells"),
    [
        ('{"a": 1, "a": 2}\n', [[2]]),
        ('{"a": NaN}\n{"a": Infinity}\n{"a": 2.5}\n', [[None], [None], [2.5]]),
        ('{"a": 1e400}\n{"a": 2.5}\n', [["1e400"], ["2.5"]]),
        ('{"a": "x"}\n{"a": 12345678901234567.0}\n', [["x"], ["12345678901234567.0"]]),
        ('{"a": %s}\n{"a": 1}\n' % ("9" * 100), [["9" * 100], ["1"]]),
        ('{"a": "\\ud83d\\ude00 \\ud83d"}\n', [["😀 \ufffd"]]),
        ('{"a": ["2019-01-01"], "b": {"c": 9007199254740993.0}}\n', [["2019-01-01", "c: 9007199254740993.0"]]),
        ('{"a": 1}\r{"a": 2}\r', [[1], [2]]),
        ('\ufeff{"a": 1}\r\n{"a": 2}\r\n', [[1], [2]]),
        ("{'a': {'z', 'y', 'x'}, 'b': b'by', 'c': (1, None)}\n", [["x, y, z", "by", "1"]]),
        ("{'a': '\\d', 'b': 0x%s}\n" % ("f" * 4000), [["\\d", "0x" + "f" * 4000]]),
        ('{"a": ' + "[" * 400 + "1" + "]" * 400 + "}\n", [["1"]]),
        ('{"a": ' + '{"k":' * 100 + "1" + "}" * 101 + "\n", [["k: " * 100 + "1"]]),
    ],
)
def test_objects(tmp_path: Path, data: str, cells: list[list[Any]]) -> None:
    found = [[None if pd.isna(v) else v for v in row] for row in _cells(_file(tmp_path, data, "t.jsonl"))]
    assert found == cells


_HOSTILE = [
    "null", "[1]", "1", '"x"', "{", '{"a": %s' % ("[" * 100_000), '{"a": ' + '{"b":' * 200_000 + "1" + "}" * 200_001,
    "{'a': 1}", '{"a": 1}}',
]  # fmt: skip
_HOSTILE_PYTHON = [
    "{'a': __import__('os').system('touch pwned')}", "{'a': f'{1}'}", "{'a': [x for x in (1,)]}", "{'a': 9**99999}",
    "{'a': %s}" % ("9" * 10_000), "{'a': %s1}" % ("-" * 100_000), "{'a': " + "(" * 5000 + "1" + ")" * 5000 + "}",
    "{'a': %s1j}" % ("1+" * 50_000), "{'a': lambda: 1}", "{'a': 'x}", "{[]: 1}", "{'a': '%s'}" % ("x" * (1 << 20)),
]  # fmt: skip


@pytest.mark.parametrize("python", [False, True])
def test_hostile_lines_are_bad_rows(tmp_path: Path, python: bool) -> None:
    good = [{"a": 1, "t": f"x{i}"} for i in range(1200)]
    for position in (3, 1100):
        lines = [repr(row) if python else json.dumps(row) for row in good]
        hostile = _HOSTILE_PYTHON if python else _HOSTILE
        lines[position:position] = hostile
        read = open_table(_file(tmp_path, "\n".join(lines), "t.jsonl")).read()
        assert [one.line for one in read.bad] == list(range(position + 1, position + 1 + len(hostile)))
        assert read.frame["t"].tolist() == [row["t"] for row in good]
        assert read.place(1199).line == len(lines)
        assert all(len(one.text) <= 1000 and "0x7f" not in one.reason for one in read.bad)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('[{"a": 1},\n{"a": 2},\n]', "line 3 is not JSON"),
        ('[{"a": 1},\n3]', "value 2 is not an object"),
        ("[" * 100_000, "is not JSON"),
        ("null\n", "has no rows"),
        ('{"a": 1}\n' * 10 + "{\n" * 10, None),
    ],
)
def test_objects_that_are_refused(tmp_path: Path, data: str, words: str | None) -> None:
    path = _file(tmp_path, data, "t.json")
    if words is None:
        assert [one.line for one in open_table(path).read().bad] == list(range(11, 21))
    else:
        assert words in fault(read_table, path).message


def test_bad_lines_of_json_are_counted(tmp_path: Path) -> None:
    keys = ("user_id", "item_id", "timestamp")
    lines = [json.dumps({**dict(zip(keys, row, strict=True)), "title": f"T {row[1]}"}) for row in GOOD]
    lines[7:7] = ["null", '{"user_id": "a", "item_id": null, "timestamp": 5}']
    data = read_raw([_file(tmp_path, "\n".join(lines), "t.jsonl")], ONE)
    assert _adds_up(data, 242)["bad"] == 2 and [one.line for one in data.bad] == [8, 9]
    assert data.hash == read_raw([_file(tmp_path, HEADER + _shop())], ONE).hash


# --- parquet and feather

_TIMES = [datetime.datetime(2020, 1, 2, 3, 4, 5), None]
_BAD = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
        (pa.array([decimal.Decimal("9" * 30), None]), ["9" * 30, None]),
        (pa.array([datetime.time(1, 2, 3)]), ["01:02:03.000000"]),
        (pa.array([5, None], pa.duration("s")), ["5", None]),
        (pa.array([{"a": 1, "b": ["x", None]}, None]), ["a: 1, b: x", None]),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), ["a, 1"]),
        (pa.array([2**63 + 5, None], pa.uint64()), [str(2**63 + 5), None]),
        (pa.array([datetime.date(2020, 1, 2), None]), [pd.Timestamp("2020-01-02"), None]),
        (pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
        (pa.array([2**40, 1, None]).dictionary_encode(), [2**40, 1, None]),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["a", None, "a"])), ["a", None, "a"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.nulls(2), [None, None]),
        (pa.array([["a", "b"], None], pa.large_list(pa.string())), ["a, b", None]),
        (pa.array([["a", ""]], pa.list_(pa.string(), 2)), ["a"]),
        (pa.array([[b"\xff"]]), ["\ufffd"]),
        *((pa.array(_TIMES, pa.timestamp(unit)), [pd.Timestamp(_TIMES[0]), None]) for unit in ("s", "ms", "us", "ns")),
        *((pa.array(_TIMES, pa.timestamp(unit, zone)), [pd.Timestamp(_TIMES[0], tz="UTC"), None])
          for unit in ("s", "ns") for zone in ("UTC", "Europe/Berlin", "No/Where")),
        (pa.array([True, None]), ["true", None]),
        (pa.array([1.5, float("nan"), None], pa.float16()), [1.5, None, None]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=5).bytes], pa.binary(16))),
         [str(uuid.UUID(int=5))]),
    ],
    ids=lambda value: str(value.type)[:40] if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_types_of_arrow(tmp_path: Path, values: pa.Array, expected: list[Any]) -> None:
    feather.write_feather(pa.table({"id": pa.nulls(len(values), pa.int64()), "x": values}), tmp_path / "a.feather")
    found = read_table(tmp_path / "a.feather")["x"].tolist()
    assert [None if pd.isna(v) else v for v in found] == expected


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"\xff"]), pa.array([[2**62]], pa.list_(pa.timestamp("s"))), _BAD,
        pa.DictionaryArray.from_arrays(pa.array([0]), _BAD), pa.array([pa.MonthDayNano([1, 2, 3])]),
    ],
)  # fmt: skip
def test_types_of_arrow_that_are_no_text(tmp_path: Path, values: pa.Array) -> None:
    feather.write_feather(pa.table({"id": ["a"], "x\x1b[31m": values}), tmp_path / "a.feather")
    assert "cannot be read as text" in fault(read_table, tmp_path / "a.feather").message
    assert open_table(tmp_path / "a.feather").read(["id"]).frame["id"].tolist() == ["a"]


def test_parts_without_rows_and_with_other_types(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    columns: dict[str, Any] = {"user_id": [1, 2], "item_id": ["x", "y"], "time": [5, 6]}
    pq.write_table(pa.table(columns).slice(0, 0), folder / "0.parquet")
    pq.write_table(pa.table(columns), folder / "1.parquet")
    pq.write_table(pa.table({**columns, "user_id": ["1", "z"]}), folder / "2.parquet")
    assert [str(user) for user in read_table(folder)["user_id"]] == ["1", "2", "1", "z"]
    assert read_table(folder)["item_id"].tolist() == ["x", "y"] * 2


def test_names_of_columns(tmp_path: Path) -> None:
    name = 'user"; drop table x; --'
    columns = {name: [u for u, _, _ in GOOD], "select": [i for _, i, _ in GOOD], "a.b": [t for _, _, t in GOOD]}
    pq.write_table(pa.table({**columns, "": ["x"] * len(GOOD), "a": ["y"] * len(GOOD)}), tmp_path / "t.parquet")
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    settings = replace(ONE, user_column=name, item_column="select", time_column="a.b")
    hashes = {read_raw([tmp_path / f"t.{end}"], settings).hash for end in ("csv", "parquet")}
    assert len(hashes) == 1
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a\x1b[0m", "a\x1b[0m"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    wrong = fault(read_table, tmp_path / "twice.parquet")
    assert "two columns named a" in wrong.message and "\x1b" not in str(wrong)


# --- containers


def test_a_gzip_cut_in_the_middle_writes_nothing(tmp_path: Path) -> None:
    whole = gzip.compress((HEADER + _shop()).encode(), mtime=0)
    for share in (0.3, 0.6, 0.95):
        path = _file(tmp_path, whole[: int(len(whole) * share)], "t.csv.gz")
        assert "damaged or cut-off gzip" in fault(read_raw, [path], ONE).message


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = b"u1,1,5," + b"x" * 1000 + b"\n"
    path = _file(tmp_path, gzip.compress(HEADER.encode() + line * 200_000, 1), "bomb.csv.gz")
    assert path.stat().st_size < 5 << 20
    monkeypatch.setattr(encoding.psutil, "virtual_memory", lambda: SimpleNamespace(available=300 << 20))
    assert "larger than the memory here" in fault(open_table(path).read).message
    assert "only one user" in fault(read_raw, [path], ONE).message  # block by block, it flows through


def test_a_loop_of_links_and_a_foreign_file(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    _file(folder, HEADER + _shop(), "1.csv")
    (folder / "up").symlink_to(folder)
    assert len(read_table(folder)) == 240
    (folder / "self.csv").symlink_to(folder / "self.csv")
    fault(read_table, folder)
    (folder / "self.csv").unlink()
    _file(folder, b"\x89PNG", "cover.png")
    assert "is another kind" in fault(read_table, folder).message


# --- prepared files


def test_no_changed_byte_of_a_prepared_file_is_believed(tmp_path: Path) -> None:
    written = read_raw([_file(tmp_path, HEADER + _shop())], ONE)
    write_prepared(written, tmp_path / "p.parquet")
    data, rng = (tmp_path / "p.parquet").read_bytes(), random.Random(0)
    for _ in range(250):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path = _file(tmp_path, bytes(changed), "q.parquet")
        if not is_prepared(path):
            continue
        try:
            found = read_prepared(path)
        except FosterError as error:
            assert "\n" not in str(error) and error.hint
        else:
            assert (found.hash, found.settings, found.statistics) == (
                written.hash,
                written.settings,
                written.statistics,
            )


# --- what is printed


ESCAPE = "\x1b]0;pwned\x07\x1b[31m\u202e"


def test_no_escape_code_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenizer(texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [[0]] * len(texts)}

    monkeypatch.setitem(
        sys.modules, "foster_cli.models.pretrained", SimpleNamespace(load_tokenizer=lambda _: tokenizer)
    )
    monkeypatch.setitem(sys.modules, "foster_cli.models.source", SimpleNamespace(find_encoder=str))
    lines = _shop(ESCAPE).replace("a1,", f"A1{ESCAPE},").replace(",1,", f",1{ESCAPE},").splitlines()
    lines[3:3] = [f"{ESCAPE},1,{ESCAPE},x", f"x{ESCAPE}"]
    header = HEADER.replace("title", f"title,user{ESCAPE}").replace("user_id", f"who{ESCAPE}")
    folder = tmp_path / f"in{ESCAPE}".replace("\x07", "")
    folder.mkdir()
    rows = "".join(f"{line}{',y' if line.count(',') == 3 else ''}\n" for line in lines)
    path = _file(folder, header + rows)
    out = tmp_path / f"o{ESCAPE}.parquet"
    command(inputs=[path], out=out, user_column=f"who{ESCAPE}", k_core=1)
    printed = capsys.readouterr()
    told = printed.out + printed.err
    with pytest.raises(FosterError) as wrong:
        command(inputs=[path], out=tmp_path / "p.parquet", user_column=f"x{ESCAPE}")
    for setting in ({"item_column": f"x{ESCAPE}"}, {"where": [f"x{ESCAPE}=1"]}, {"text": f"{{{ESCAPE}}}"},
                    {"format": ESCAPE}, {"encoding": ESCAPE}, {"time_column": "title"}):  # fmt: skip
        with pytest.raises(FosterError) as wrong:
            command(inputs=[path], out=tmp_path / "p.parquet", **{"user_column": f"who{ESCAPE}", **setting})
        told += str(wrong.value)
    assert len(told) > 300
    assert not [line for line in told.splitlines() if any(sign in line for sign in "\x1b\x07\u202e")]
    assert "\x1b" not in "".join(load_dataset(out).catalogue.titles)


def test_a_path_in_a_command_is_printable_and_the_same_file() -> None:
    for path in ("a b", "it's", ESCAPE, "a\\\n\udcff'"):
        shown = quoted(path)
        assert shown.isprintable()
        told = subprocess.run(
            ["bash", "-c", f"printf %s {shown}"], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
        )
        assert told.stdout == path.encode(errors="surrogateescape")


# --- the real command


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "foster_cli", "preprocess", *map(str, arguments)]
    return subprocess.run(line, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv.gz", gzip.compress((HEADER + _shop()).encode(), mtime=0)[:-20]),
        ("t.jsonl", b'{"user_id": 1}\n' * 50 + b"null\n" * 50),
        ("t.csv", HEADER.encode() + _shop().encode() + b"x\n" * 20),
    ],
)
def test_the_command_ends_with_one_line_and_writes_nothing(tmp_path: Path, name: str, data: bytes) -> None:
    path = _file(tmp_path, data, name)
    done = _run(path, "--out", tmp_path / "out.parquet", "--rejects", tmp_path / "bad.csv")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("foster: ") and 1 <= len(done.stderr.strip().splitlines()) <= 2
    assert [p.name for p in tmp_path.iterdir()] == [name]
