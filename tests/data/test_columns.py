"""Columns are recognised or the error says what to type; times of every kind mean the same moment."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from faults import said
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.columns import as_text, encode_ids, parse_times, recognise
from foster_cli.settings import PrepareSettings

_MOMENT = 1_600_000_000_123  # 2020-09-13T12:26:40.123Z


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["user_id", "item_id", "timestamp", "title", "split"], ("user_id", "item_id", "timestamp", "split")),
        (["reviewerID", "asin", "unixReviewTime", "title"], ("reviewerID", "asin", "unixReviewTime", None)),
        (["USERID", "MovieID", "Time", "Name"], ("USERID", "MovieID", "Time", None)),
        (["user_id", "USER_ID", "business_id", "date", "name"], ("user_id", "business_id", "date", None)),
    ],
)
def test_recognised(names: list[str], expected: tuple[str, ...]) -> None:
    found = recognise(names, None, PrepareSettings())
    assert (found.user, found.item, found.time, found.split) == expected


def test_texts_come_from_the_items_table_in_the_fixed_order() -> None:
    found = recognise(
        ["user", "asin", "time", "text", "title"],
        ["categories", "asin", "description", "title"],
        PrepareSettings(),
    )
    assert found.text == ("title", "description", "categories")
    assert found.title == "title"


def test_item_column_may_differ_between_the_tables() -> None:
    found = recognise(["user", "bought", "time"], ["asin", "title"], PrepareSettings(item_column="bought"))
    assert (found.item, found.item_key) == ("bought", "asin")


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["item", "time", "title"], {}, ["no user column", "item, time, title", "--user-column"]),
        (["user", "time", "title"], {}, ["no item column", "--item-column"]),
        (["user", "item", "title"], {}, ["no time column", "--time-column"]),
        (["user", "item", "time"], {}, ["no text at all", "--text-columns"]),
        (["user", "user_id", "item", "time", "title"], {}, ["more than one user", "--user-column user_id"]),
        (["user", "asin", "parent_asin", "time", "title"], {}, ["parent_asin, asin", "--item-column"]),
        (["user", "item", "time", "date", "title"], {}, ["more than one time", "--time-column"]),
        (["User", "USER", "item", "time", "title"], {}, ["more than one user"]),
        (["user", "item", "time", "title"], {"user_column": "u"}, ["no column u", "--user-column"]),
        (
            ["user", "item", "time", "title"],
            {"text_columns": ("title", "x")},
            ["no column x", "--text-columns"],
        ),
        (["user", "item", "time", "title"], {"split_column": "fold"}, ["no column fold", "--split-column"]),
    ],
)
def test_unclear_columns(names: list[str], settings: dict[str, object], words: list[str]) -> None:
    wrong = said(recognise, names, None, PrepareSettings(**settings))  # type: ignore[arg-type]
    assert all(word in wrong for word in words)


def test_options_settle_what_is_unclear() -> None:
    names = ["user", "asin", "parent_asin", "time", "date", "title", "name", "split"]
    chosen = PrepareSettings(item_column="asin", time_column="date", text_columns=("name",), split_column="none")
    found = recognise(names, None, chosen)
    assert (found.item, found.time, found.text, found.split) == ("asin", "date", ("name",), None)
    assert found.title == "title"


@pytest.mark.parametrize(
    "values",
    [
        [_MOMENT],
        [_MOMENT / 1000],
        [_MOMENT * 1000],
        [_MOMENT * 1_000_000],
        [str(_MOMENT)],
        [f"{_MOMENT / 1000:.3f}"],
        ["2020-09-13T12:26:40.123Z"],
        ["2020-09-13 12:26:40.123"],
        ["2020-09-13T14:26:40.123+02:00"],
        [pd.Timestamp("2020-09-13 12:26:40.123")],
        [pd.Timestamp("2020-09-13 08:26:40.123-04:00")],
        [dt.datetime(2020, 9, 13, 12, 26, 40, 123000, tzinfo=dt.timezone.utc)],
    ],
)
def test_one_moment_in_every_notation(values: list[object]) -> None:
    assert parse_times(pd.Series(values, name="t")).tolist() == [_MOMENT]


def test_dates_with_and_without_zone_in_one_column() -> None:
    times = parse_times(
        pd.Series(
            [
                "1970-01-02",
                "1970-01-01T01:00:00+01:00",
                " 1970-01-01T00:00:01 ",
                "1970-01-01 00Z",
                "19700102T01:00-0100",
            ],
            name="t",
        )
    )
    assert times.tolist() == [86_400_000, 0, 1000, 0, 93_600_000]


_SECONDS = st.integers(0, 600_000) | st.integers(5_000_000, 4_000_000_000)  # what lies between are days of 1970 in ms


@given(st.lists(_SECONDS, min_size=1, max_size=20))
def test_seconds_and_milliseconds_agree(seconds: list[int]) -> None:
    expected = [s * 1000 for s in seconds]
    assert parse_times(pd.Series(seconds, name="t")).tolist() == expected
    assert parse_times(pd.Series([str(s) for s in seconds], name="t")).tolist() == expected
    if np.median(expected) > 1e11:
        assert parse_times(pd.Series(expected, name="t")).tolist() == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1600000000", "soon", "1600000001"], ["row 2", "soon"]),
        (["2020-01-01", "2020-13-01"], ["row 2", "2020-13-01"]),
        (["2020-01-01", "", "2020-01-02"], ["row 2", "empty"]),
        (["2020-01-01", "2020-01-02", "17"], ["row 3", "17"]),
        (["09 13, 2009"], ["row 1", "09 13, 2009"]),
        ([1.0, float("nan")], ["row 2", "empty"]),
        ([1.0, float("inf")], ["row 2", "inf"]),
        ([1, 2**62, 2], ["row 2"]),
        (["1", "99999999999999999999", "2"], ["row 2", "99999999999999999999"]),
        ([pd.Timestamp("2020-01-01"), pd.NaT], ["row 2"]),
        (["\x1b[31mred\n\u202e"], ["row 1", "[31mred"]),
        (["1e400", "x"], ["row 1"]),
    ],
)
def test_bad_times_name_column_row_and_value(values: list[object], words: list[str]) -> None:
    wrong = said(parse_times, pd.Series(values, name="when"))
    assert all(word in wrong for word in ["column when", "--time-column", *words])
    assert "\x1b" not in wrong


_EACH = st.integers(800_000_000, 3_900_000_000)  # seconds, 1995 to 2093


@given(st.lists(_EACH, min_size=2, max_size=9), st.data())
def test_a_time_in_another_unit_is_named(seconds: list[int], data: st.DataObject) -> None:
    units = data.draw(st.permutations([1, 1000, 10**6, 10**9]).map(lambda p: p[:2]))
    odd = data.draw(st.integers(0, len(seconds)))
    values = [s * units[0] for s in (*seconds, seconds[0])]
    values.insert(odd, seconds[-1] * units[1])
    wrong = said(parse_times, pd.Series(values, name="when"))
    assert f"column when, row {odd + 1}: {values[odd]} is not in the unit" in wrong and "one unit" in wrong


@pytest.mark.parametrize("filler", [0, -1, 1, 1000, 86_400, 1_000_000, 253_402_300_799])
def test_fillers_are_no_other_unit(filler: int) -> None:
    values = [1_600_000_000, filler, 1_700_000_000, 1_500_000_000]
    assert parse_times(pd.Series(values, name="t")).tolist() == [1000 * v for v in values]


def test_an_id_that_no_bundle_can_hold() -> None:
    codes, ids = encode_ids(pd.Series(["a", "x" * 65_536], name="asin"), "item")
    assert codes.tolist() == [0, 1] and len(ids[1]) == 65_536
    wrong = said(encode_ids, pd.Series(["a", "b", "x" * 65_537], name="asin"), "item")
    assert "column asin, row 3: the item id has more than 65,536 characters" in wrong


def test_ids_are_text_without_decimal_point() -> None:
    assert as_text(pd.Series([7.0, 8.0])).tolist() == ["7", "8"]
    assert as_text(pd.Series([7.5, 8.0])).tolist() == ["7.5", "8.0"]
    assert as_text(pd.Series([7, 8], dtype="Int64")).tolist() == ["7", "8"]
    assert as_text(pd.Series([7, "007"], dtype=object)).tolist() == ["7", "007"]
    assert as_text(pd.Series([7, 8]).astype("category")).tolist() == ["7", "8"]


@pytest.mark.parametrize(
    "values", [["a", None], ["a", ""], ["a", " "], [1.0, float("nan")], pd.Categorical(["a", None])]
)
def test_missing_id_names_the_row(values: object) -> None:
    wrong = said(encode_ids, pd.Series(values, name="uid"), "user")
    assert "column uid, row 2: no user id" in wrong
