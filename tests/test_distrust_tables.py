"""A stranger's table of items: other columns, codecs, encodings and sizes than foster writes are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import sign
from strangers import IDS, N, refused, whole

from foster_cli.bundle import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return whole(tmp_path / "b")


Table = Callable[[Path], None]


def _write(**options: Any) -> Callable[[dict[str, Any]], Table]:
    return lambda columns: lambda path: pq.write_table(pa.table(columns), path, **options)


_TEXT = {"item_id": IDS, "title": IDS}
TABLES: dict[str, Table] = {
    "a row too many": _write()({"item_id": [*IDS, "x"], "title": [*IDS, "x"]}),
    "a million rows": _write()({"item_id": ["x"] * 10**6, "title": ["x"] * 10**6}),
    "zstd": _write(compression="zstd")(_TEXT),
    "prefixes": _write(use_dictionary=False, column_encoding={"item_id": "DELTA_BYTE_ARRAY"})(_TEXT),
    "a title of megabytes": _write()({"item_id": IDS, "title": ["x" * (2 << 20)] * N}),
    "numbers": _write()({"item_id": list(range(N)), "title": IDS}),
    "no title": _write()({"item_id": IDS}), "nulls": _write()({"item_id": IDS, "title": [None] * N}),
    "lists": _write()({"item_id": IDS, "title": [["x"]] * N}),
    "many columns": _write()({**_TEXT, **{f"c{i}": IDS for i in range(500)}}),
    "no table": lambda path: path.write_bytes(b"PAR1" * 100) and None,
    "nothing": lambda path: path.write_bytes(b"") and None,
    "csv": lambda path: path.write_text("item_id,title\n") and None,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_items(folder: Path, name: str) -> None:
    TABLES[name](folder / "items.parquet")
    sign(folder)
    before = pa.total_allocated_bytes()
    refused(folder, "items.parquet")
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_titles_that_are_no_utf8(folder: Path) -> None:
    column = pa.array([b"\xff\xfe"] * N, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"item_id": pa.array(IDS), "title": column}), folder / "items.parquet")
    sign(folder)
    refused(folder, "items.parquet")


def test_the_same_tables_are_read_as_pandas_reads_them(folder: Path) -> None:
    titles = ["", "a, \"b\"", "naïve 漢字 🙂", "line\nbreak", "x" * 60_000, *["same"] * (N - 5)]  # fmt: skip
    pd.DataFrame({"item_id": IDS, "title": titles}).to_parquet(folder / "items.parquet", index=False)
    sign(folder)
    found = load(folder)
    assert found.titles == titles and found.item_ids == IDS
