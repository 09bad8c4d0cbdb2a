"""Every format gives back what was written; a damaged or doubtful file is one line, never a silent change."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import fault
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from foster_cli.data.readers import open_table, read_table

# Titles with all that hurts but line ends: quotes, delimiters, tabs, markup, accents, emoji, spaces.
_titles = st.text(
    st.one_of(st.sampled_from("\"',;\t|\\[]&# é漢😀"), st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])),
    max_size=12,
)
_rows = st.lists(st.tuples(st.from_regex(r"[0-9a-z]{1,5}", fullmatch=True), _titles), min_size=1, max_size=6)


def _write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def _strings(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(v) for v in frame[column]]


def _bytes_of(rows: list[tuple[str, str]], kind: str) -> bytes:
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"item_id": [r[0] for r in rows], "title": [r[1] for r in rows]}), sink)
        return sink.getvalue()
    if kind == "jsonl":
        return b"".join(json.dumps({"item_id": i, "title": t}).encode() + b"\n" for i, t in rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",")
    writer.writerows([("item_id", "title"), *rows])
    return text.getvalue().encode()


@settings(max_examples=60, deadline=None)
@given(rows=_rows, kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), gz=st.booleans())
def test_round_trip(rows: list[tuple[str, str]], kind: str, gz: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), f"t.{kind}" + ".gz" * gz, _bytes_of(rows, kind))
        frame = read_table(path)
    assert list(zip(_strings(frame, "item_id"), _strings(frame, "title"), strict=True)) == rows


@settings(max_examples=60, deadline=None)
@given(rows=_rows)
def test_a_writer_that_never_quotes_loses_no_row(rows: list[tuple[str, str]]) -> None:
    rows = [(i, t.replace("\t", " ")) for i, t in rows]
    data = "".join(f"{i}\t{t}\tend\n" for i, t in [("item_id", "title"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        frame = read_table(_write(Path(folder), "t.tsv", data))
    assert _strings(frame, "item_id") == [i for i, _ in rows]


def test_unpaired_quotes_are_text(tmp_path: Path) -> None:
    text = 'id,title,n\n1,"Weird Al,5\n2,7" tablet,6\n3,Foo",7\n'
    frame = read_table(_write(tmp_path, "a.csv", text))
    assert _strings(frame, "title") == ['"Weird Al', '7" tablet', 'Foo"']


def test_quoted_line_end_is_one_row(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.csv", 'id,title,n\n1,"one\ntwo",5\n2,"a, b",6\n'))
    assert _strings(frame, "title") == ["one\ntwo", "a, b"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("id,title\n1,a\n2,b,c\n", "line 3"),
        ("id,title\n1,a\n2\n3,c\n", "line 3"),
        ('id,title\n1,"a, b"\n2,"c" d, e\n', "line 3"),
        ('"id","title"\n"1","Weird" Al"\n', "line 2"),
        ('id,title\n1,"a, b\n2,c\n', "line 2"),
    ],
)
def test_ragged_or_misquoted_line_is_named(tmp_path: Path, text: str, line: str) -> None:
    assert line in fault(read_table, _write(tmp_path, "a.csv", text)).message


def test_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.csv", b"\xef\xbb\xbfuser_id,title\r\n007,x\r\n\r\n008,\r\n"))
    assert list(frame.columns) == ["user_id", "title"]
    assert _strings(frame, "user_id") == ["007", "008"]


def test_quoted_field_of_any_length(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.csv", 'id,title\n1,"' + "x" * 200_000 + '"\n'))
    assert _strings(frame, "title") == ["x" * 200_000]


def test_unnamed_index_column_is_dropped(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.csv", ",id,title\n0,1,a\n1,2,b\n"))
    assert frame.to_numpy().tolist() == [["1", "a"], ["2", "b"]]


def test_values_that_look_like_nothing_are_kept(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.csv", "id,title\nnull,NA\nnan,None\n"))
    assert frame.to_numpy().tolist() == [["null", "NA"], ["nan", "None"]]


def test_json_of_mixed_and_nested_values(tmp_path: Path) -> None:
    rows = [
        {"asin": 7, "description": ["a", "b"], "categories": [["x", "y"], ["z"]], "n": None},
        {"asin": "007", "description": "c", "title": "2019-01-01"},
        {"asin": 8.0, "description": [], "title": "caf\u00e9 \ud83d"},
    ]
    data = "".join(json.dumps(r) + "\n" for r in rows)
    frame = read_table(_write(tmp_path, "a.json.gz", data))
    assert _strings(frame, "asin") == ["7", "007", "8"]
    assert _strings(frame, "description") == ["a, b", "c", ""]
    assert frame["categories"].tolist()[0] == "x, y, z"
    assert frame["title"].tolist()[1:] == ["2019-01-01", "café \ufffd"]


def test_json_titles_that_look_like_dates_stay_text(tmp_path: Path) -> None:
    rows = [{"id": i} for i in range(1500)] + [{"id": 1, "title": "1984-01-01"}]
    frame = read_table(_write(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows)))
    assert frame["title"].iloc[-1] == "1984-01-01"


def test_json_array_of_objects(tmp_path: Path) -> None:
    frame = read_table(_write(tmp_path, "a.json", '[{"user": 1, "t": "x"}, {"user": 2}]'))
    assert frame["user"].tolist() == [1, 2]
    assert frame["t"].isna().tolist() == [False, True]


def test_large_integers_beside_missing_ones_stay_exact(tmp_path: Path) -> None:
    big = 2**60 + 1
    pq.write_table(pa.table({"id": pa.array([big, None], pa.int64())}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["id"].iloc[0] == big


def test_parquet_lists_binary_and_dictionaries(tmp_path: Path) -> None:
    table = pa.table(
        {
            "item": pa.array([b"a", b"b"]),
            "categories": pa.array([["x", "y"], None]),
            "genres": pa.array([["x", None, ""], ["z"]]),
            "title": pa.array(["t", "u"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    frame = read_table(tmp_path / "a.parquet")
    assert _strings(frame, "item") == ["a", "b"]
    assert frame["categories"].iloc[0] == "x, y"
    assert frame["categories"].isna().tolist() == [False, True]
    assert _strings(frame, "genres") == ["x", "z"]
    assert _strings(frame, "title") == ["t", "u"]


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"id,title\n1,x\n"))
    assert _strings(read_table(tmp_path / "a.csv"), "title") == ["x"]


_GZ = gzip.compress(b"id,title\n" + b"1,x\n" * 1000, mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\xef\xbb\xbf \n", "is empty"),
        ("a.csv", b"id,title\n", "has no rows"),
        ("a.csv", b'"id","title"\n', "has no rows"),
        ("a.jsonl", b"[]", "has no rows"),
        ("a.csv", b"id,id\n1,2\n", "two columns named id"),
        ("a.csv", bytes(range(256)), "is no text"),
        ("a.xls", b"x", "unknown kind"),
        ("a.pkl", b"x", "unknown kind"),
        ("noending", b"x", "has no rows"),
        ("a.csv", b"PK\x03\x04....", "zip"),
        ("a.parquet", b"id,title\n1,x\n", "not a parquet or Arrow file"),
        ("a.parquet", b"PAR1 and then nothing PAR1", "not a parquet or Arrow file"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 is not an object"),
        ("a.json", b"[1, 2]", "is not an object"),
        ("a.jsonl", b"{'a': __import__('os')}\n", "line 1 is not JSON"),
        ("a.jsonl", b"{'a': 1}\n{'a': print(1)}\n", "line 2 is not a Python dictionary"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    wrong = fault(read_table, tmp_path / name)
    assert words in wrong.message
    assert "a." in wrong.message or name in wrong.message


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_header_says_what_parts_the_columns(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [[" id ", "title"], ["1", "a b"], ["2", "c" if delimiter in (",", "\t") else "c, d"]]
    (tmp_path / name).write_text("".join(delimiter.join(row) + "\n" for row in rows))
    table = read_table(tmp_path / name)
    assert [table.columns.tolist(), *table.to_numpy().tolist()] == [["id", "title"], *rows[1:]]


def test_the_delimiter_of_the_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,genres;a;b\n1,x\n")
    assert read_table(tmp_path / "a.csv").columns.tolist() == ["id", "genres;a;b"]
    (tmp_path / "b.csv").write_text("id\n1;2\n")
    assert read_table(tmp_path / "b.csv")["id"].tolist() == ["1;2"]


def test_names_that_blanks_alone_tell_apart(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id, id\n1,2\n")
    assert "two columns named id" in fault(read_table, tmp_path / "a.csv").message


@pytest.mark.parametrize("data", [_GZ[:-5], _GZ[:20], _GZ[:30] + b"\0\0\0" + _GZ[33:]])
def test_damaged_gzip(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv.gz").write_bytes(data)
    assert "damaged or cut-off gzip" in fault(read_table, tmp_path / "a.csv.gz").message


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"id,title\n1,x\n")
    assert _strings(read_table(tmp_path / "a.csv.gz"), "title") == ["x"]
    assert "no such file" in fault(read_table, tmp_path / "b.csv").message
    (tmp_path / "folder").mkdir()
    assert "folder" in fault(read_table, tmp_path / "folder").message
    assert "cannot read" in fault(read_table, tmp_path / ("x" * 300 + ".csv")).message


def test_python_dictionaries_are_literals_and_stay_exact(tmp_path: Path) -> None:
    rows = [{"asin": "0001", "title": "Men's", "n": 2**64 + 1}, {"asin": "2", "categories": [["A", "B"]], "n": None}]
    frame = read_table(_write(tmp_path, "a.json", "".join(f"{row!r}\n" for row in rows)))
    assert _strings(frame, "asin") == ["0001", "2"]
    assert frame["n"].iloc[0] == str(2**64 + 1) and frame["categories"].iloc[1] == "A, B"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=8), st.booleans())
def test_integers_in_json_stay_exact(numbers: list[int], decimal: bool) -> None:
    lines = [json.dumps({"id": n}) for n in numbers] + ['{"id": 7.0}'] * decimal
    with tempfile.TemporaryDirectory() as folder:
        frame = read_table(_write(Path(folder), "t.jsonl", "\n".join(lines)))
    found = [str(int(v)) if isinstance(v, float) else str(v) for v in frame["id"]]
    assert found == [*map(str, numbers), *["7"] * decimal]


def test_feather_and_arrow(tmp_path: Path) -> None:
    table = pa.table({"item": ["a", "b"], "n": [1, 2]})
    feather.write_feather(table, tmp_path / "a.feather")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.feather", "b.arrow"):
        assert read_table(tmp_path / name)["n"].tolist() == [1, 2]
        assert open_table(tmp_path / name).read(["n"]).frame.columns.tolist() == ["n"]


def test_only_the_named_columns_are_read(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "blob": pa.array([b"\xff\xfe"], pa.binary()), "x": pa.array([[[1]]])})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet").read(["id"]).frame["id"].tolist() == ["a"]
    assert "cannot be read as text" in fault(read_table, tmp_path / "a.parquet").message


def test_a_few_bad_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [f'{i},"a, {i}",x' for i in range(500)]
    lines[100] = '100,"never closed,x'
    lines[200] = "200"
    (tmp_path / "a.csv").write_text("id,title,n\n" + "\n".join(lines) + "\n")
    read = open_table(tmp_path / "a.csv").read()
    assert [(one.line, one.file.endswith("a.csv")) for one in read.bad] == [(102, True), (202, True)]
    assert read.frame["id"].tolist() == [str(i) for i in range(500) if i not in (100, 200)]
    assert [read.place(i).line for i in (0, 99, 100, 198, 199)] == [2, 101, 103, 201, 203]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "a,1,x,y\nb,2,z,w\n"), ("a.txt", "28 1 2 3 x y\n"), ("a.dat", "x::5::2019-01-01::z::w\n")],
)
def test_a_file_without_a_header_is_not_misread(tmp_path: Path, name: str, text: str) -> None:
    wrong = fault(open_table, _write(tmp_path, name, text))
    assert "line 1" in wrong.message and "looks like data" in wrong.message and "--columns" in str(wrong.hint)


def test_names_for_a_file_without_a_header(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", "a,1,x,y\nb,2,z,w\n")
    read = open_table(path, columns=["user_id", "n", "item_id", "title"]).read(["user_id", "title"])
    assert read.frame.to_numpy().tolist() == [["a", "y"], ["b", "w"]]
    assert "--columns names 2 columns" in fault(open_table, path, None, None, ["a", "b"]).message


def test_parts_in_another_order_of_columns(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    _write(tmp_path / "parts", "1.csv", "id,title\n1,a\n")
    _write(tmp_path / "parts", "2.csv", "title,id\nb,2\n")
    assert read_table(tmp_path / "parts").to_numpy().tolist() == [["1", "a"], ["2", "b"]]
    _write(tmp_path / "parts", "3.csv", "title,name\nb,2\n")
    assert "has other columns" in fault(read_table, tmp_path / "parts").message


def test_another_format_than_the_name_says(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", "id,x\ttitle\n1\tb\n")
    assert open_table(path, "tsv").names == ["id,x", "title"]
    assert "--format cvs: unknown" in fault(open_table, path, "cvs").message
