"""What is taken chunk by chunk is what is taken at once: ids, times, splits, filters, texts, bad rows, their places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.columns import recognise
from foster_cli.data.ingest import ingest
from foster_cli.data.plan import Plan
from foster_cli.data.prepare import _prepared
from foster_cli.data.readers import ORDER, Read
from foster_cli.data.readers.rows import Place
from foster_cli.data.schema import Dataset
from foster_cli.data.tables import OneFrame, Tables, wheres_of
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

EVERY = PrepareSettings(k_core=1, allow_bad=True)


class Chunked(OneFrame):
    """A frame in chunks of `size` rows; `wholes` counts how often it was asked for as one."""

    size, wholes = 3, 0

    def chunks(self, whole: bool) -> Iterator[Read]:
        self.wholes += whole
        size = max(1, len(self.frame)) if whole else self.size
        for begin in range(0, len(self.frame), size):
            part = self.frame.iloc[begin : begin + size].reset_index(drop=True)
            yield Read(part, [Place(0, self.name, 1 + begin, "row")], [])


def _tables(frame: pd.DataFrame, asked: PrepareSettings, size: int | None) -> Tables:
    names = list(frame.columns)
    source = OneFrame(frame, "d") if size is None else Chunked(frame, "d")
    if isinstance(source, Chunked) and size is not None:
        source.size = size
    return Tables(source, None, recognise(names, None, asked), wheres_of(asked, names, None), [], "d")


def _outcome(frame: pd.DataFrame, asked: PrepareSettings, size: int | None) -> object:
    try:
        data = _prepared(_tables(frame, asked, size), asked, None)
    except FosterError as error:
        return str(error)
    return data.hash, data.statistics, data.settings, data.bad


_ids = st.sampled_from(["a", "b", " a", "1", "1.0", "2", "", "nan", "é", "\\N"])
_times = st.sampled_from(["1500000000", "1500000001", "1500000001.5", "1600000000", "17", "", "later"])
_row = st.tuples(_ids, _ids, _times, st.sampled_from(["A", "B <b>x</b>", "", "B x", "None"]), st.integers(1, 5))


def _frame(rows: list[tuple[str, str, str, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "title", "rating"])
    return frame.astype(dict.fromkeys(["user_id", "item_id", "timestamp", "title"], "string[pyarrow]"))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(_row, min_size=1, max_size=40), st.integers(1, 9), st.sampled_from(["time", "leave-one-out"]), st.data()
)
def test_chunks_of_random_tables(
    rows: list[tuple[str, str, str, str, int]], size: int, by: str, data: st.DataObject
) -> None:
    asked = replace(EVERY, split_by=by, where=("rating>=2",) if data.draw(st.booleans()) else ())
    frame = _frame(rows)
    if data.draw(st.booleans()):
        splits = st.sampled_from(["train", "valid", "test", "?"])
        drawn = data.draw(st.lists(splits, min_size=len(rows), max_size=len(rows)))
        frame["split"] = pd.array(drawn, "string[pyarrow]")
    if data.draw(st.booleans()):
        frame[ORDER] = np.arange(len(rows))
    whole = _outcome(frame, asked, None)
    assert _outcome(frame, asked, size) == whole
    assert _outcome(frame, replace(asked, allow_bad=False), size) == _outcome(
        frame, replace(asked, allow_bad=False), None
    )


def _shop(times: list[object]) -> pd.DataFrame:
    n = len(times)
    items = [f"i{(3 * i + i // 7) % 7}" for i in range(n)]
    users = [f"u{i % 7}" for i in range(n)]
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "title": items})


@pytest.mark.parametrize(
    ("times", "wholes"),
    [
        ([1_500_000_000 + i for i in range(40)], 0),
        ([f"2020-01-{1 + i % 28:02d}" for i in range(40)], 0),
        (["01/02/2020"] * 30 + ["13/02/2020"] * 10, 1),  # the first chunks do not say whether day or month comes first
        ([""] * 30 + [str(1_500_000_000 + i) for i in range(40)], 1),  # a chunk without a time
        ([1_500_000_000 + i for i in range(35)] + [1_500_000_000_000 + i for i in range(35)], 1),  # two units: refused
    ],
)
def test_chunks_that_cannot_be_decided_alone_are_read_as_one(times: list[object], wholes: int) -> None:
    frame, asked = _shop(times), replace(EVERY, split_by="leave-one-out")
    tables = _tables(frame, asked, 10)
    try:
        found: object = _prepared(tables, asked, None).hash
    except FosterError as error:
        found = str(error)
    whole = _outcome(frame, asked, None)
    assert found == (whole[0] if isinstance(whole, tuple) else whole)
    assert isinstance(tables.interactions, Chunked) and tables.interactions.wholes == wholes


def test_what_does_not_fit_into_memory_goes_to_disk() -> None:
    rng, size = np.random.default_rng(0), 600_000
    frame = pd.DataFrame({"user_id": rng.integers(0, 40_000, size), "item_id": rng.integers(0, 9_000, size)})
    frame["timestamp"], frame["title"] = (
        1_500_000_000 + rng.integers(0, 10**8, size),
        "t" + frame["item_id"].astype(str),
    )

    def made(memory: int | None) -> Dataset:
        tables = _tables(frame, PrepareSettings(), 100_000)
        return _prepared(tables, PrepareSettings(), None, memory)

    small, usual = made(1), made(None)
    assert small.hash == usual.hash and small.statistics == usual.statistics


def test_titles_that_hold_sql_and_zeros_are_texts() -> None:
    titles = ["'; drop table rows; --", 'a"b', "x\0y", "select 1", "$1", "\U0001f600", "a\nb"]
    frame = _shop([1_500_000_000 + i for i in range(49)]).assign(
        title=[titles[(3 * i + i // 7) % 7] for i in range(49)]
    )
    data = _prepared(_tables(frame, EVERY, 5), EVERY, None)
    assert data.catalogue.texts == ["'; drop table rows; --", 'a"b', "xy", "select 1", "$1", "\U0001f600", "a b"]


def test_a_plan_leaves_nothing_behind(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", folder)
    with pytest.raises(FosterError):
        ingest(_tables(_frame([("", "", "", "", 1)]), PrepareSettings(), 1), PrepareSettings())
    with Plan(within=False, split=False) as plan:
        assert len(list(tmp_path.iterdir())) == 1  # type: ignore[attr-defined]
        plan.add({"user": np.arange(3), "item": np.arange(3), "moment": np.arange(3)})
    assert not list(tmp_path.iterdir())  # type: ignore[attr-defined]
