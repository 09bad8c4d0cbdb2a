"""Arrays that are mapped from files are like those in memory, wherever they are used; prepared files in row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data import rows as rows_module
from foster_cli.data import store
from foster_cli.data.prepare import prepare
from foster_cli.data.rows import blocks, empty_rows, release
from foster_cli.data.schema import Dataset
from foster_cli.data.store import dataset_hash, read_prepared, write_prepared
from foster_cli.data.windows import Protocol, evaluation_cases, training_windows
from foster_cli.settings import PrepareSettings


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrays of more than three elements are mapped from files, and read in pieces of seven."""
    monkeypatch.setattr(rows_module, "IN_MEMORY", 3)
    monkeypatch.setattr(rows_module, "_BLOCK", 7)
    monkeypatch.setattr("foster_cli.data.windows._PART", 5)


def _shop() -> Dataset:
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 30, 900), rng.integers(0, 25, 900)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": 1_500_000_000 + rng.integers(0, 10**6, 900)})
    frame["title"] = [f"Title {i % 20}" for i in item]
    return prepare(frame, None, PrepareSettings(k_core=2), "shop")


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_a_mapped_array_keeps_what_is_written(values: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "IN_MEMORY", 3)
        patch.setattr(rows_module, "_BLOCK", 7)
        array = empty_rows(len(values), np.int8)
        for begin in range(0, len(values), 4):
            array[begin : begin + 4] = values[begin : begin + 4]
            release(array)
        release(array[1:])
        assert array.tolist() == values and [v for block in blocks(array) for v in block.tolist()] == values
        assert np.sort(array).tolist() == sorted(values)


def test_no_file_of_a_mapped_array_is_left(mapped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = empty_rows(1000, np.int64)
    assert len(array) == 1000 and not list(tmp_path.iterdir())


def test_preparing_windows_and_cases_are_the_same(request: pytest.FixtureRequest) -> None:
    whole = _shop()
    windows = training_windows(whole, 6)
    cases = [evaluation_cases(whole, "test", 4, Protocol(mask_seen)) for mask_seen in (False, True)]
    request.getfixturevalue("mapped")
    again = _shop()
    assert again.hash == whole.hash == dataset_hash(again.user_ids, again.catalogue, again.interactions)
    assert not isinstance(again.interactions.user.base, type(None)) and again.statistics == whole.statistics
    for one, two in ((windows, training_windows(again, 6)),):
        for name, array in vars(one).items():
            np.testing.assert_array_equal(array, getattr(two, name))
    for case, mask_seen in zip(cases, (False, True), strict=True):
        other = evaluation_cases(again, "test", 4, Protocol(mask_seen))
        np.testing.assert_array_equal(case.history, other.history)
        assert (case.seen is None) == (other.seen is None)
        if case.seen is not None and other.seen is not None:
            np.testing.assert_array_equal(case.seen[0], other.seen[0])
            np.testing.assert_array_equal(case.seen[1], other.seen[1])


@pytest.mark.parametrize("group", [1, 7, 100, 10**6])
def test_a_prepared_file_in_row_groups(
    group: int, mapped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GROUP", group)
    data, path = _shop(), tmp_path / "p.parquet"
    write_prepared(data, path)
    found = read_prepared(path)
    assert (found.hash, found.catalogue, found.user_ids) == (data.hash, data.catalogue, data.user_ids)
    size = len(data.interactions)
    assert pq.ParquetFile(path).num_row_groups == -(-size // group)
    table = pd.read_parquet(path)
    assert table["user_id"].tolist() == [data.user_ids[u] for u in data.interactions.user]
    assert table["item_id"].tolist() == [data.catalogue.ids[i] for i in data.interactions.item]
    texts = [data.catalogue.texts[i] for i in data.interactions.item]
    first = table.groupby("item_id", observed=True).head(1).index
    assert [table["text"][i] for i in first] == [texts[i] for i in first]
    groups = np.arange(size) // group
    new = groups == groups[pd.Series(data.interactions.item).groupby(data.interactions.item).transform("idxmin")]
    assert (table["text"].notna() == new).all() and (table["title"].notna() == new).all()
