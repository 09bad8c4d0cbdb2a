"""Conditions keep the rows that Python's own comparison keeps."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from faults import said
from hypothesis import assume, given
from hypothesis import strategies as st

from foster_cli.data.where import Where, parse_where

_TEST: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le
}  # fmt: skip
_TEXT = pd.StringDtype("pyarrow")


def _mask(text: str, values: list[Any], kind: Any = _TEXT) -> list[bool]:
    return parse_where(text).mask(pd.Series(values, dtype=kind, name="c")).tolist()


_WORD = st.text("aB é=<|,-:\\", min_size=1, max_size=4).map(str.strip).filter(lambda w: w not in ("", "-"))


@given(st.lists(_WORD | st.none() | st.just("NULL"), min_size=1, max_size=9), st.lists(_WORD, min_size=1, max_size=3))
def test_text(values: list[str | None], wanted: list[str]) -> None:
    joined = "|".join(word.replace("|", r"\|") for word in wanted)
    assume("\\|" not in "".join(w + "|" for w in wanted) and not joined.startswith((">", "<", "=")))
    expected = [value in wanted for value in values]
    padded = [value and f" {value}\t" for value in values]
    assert _mask(f"c={joined}", padded) == expected
    assert _mask(f"c != {joined}", padded) == [
        v not in (None, "NULL") and not e for v, e in zip(values, expected, strict=True)
    ]


_INTEGER = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, 2**53 + 2])
_DECIMAL = st.decimals(-100, 100, places=2) | st.sampled_from([Decimal("0.1"), Decimal("1e30"), Decimal(-4)])


@pytest.mark.parametrize("sign", _TEST)
@given(values=st.lists(_INTEGER | st.none(), min_size=1, max_size=9), wanted=_INTEGER | _DECIMAL)
def test_integers(sign: str, values: list[int | None], wanted: int | Decimal) -> None:
    expected = [value is not None and _TEST[sign](value, wanted) for value in values]
    assert _mask(f"c{sign}{wanted}", values, "Int64") == expected
    text = [None if value is None else str(value) for value in values]
    assert _mask(f"c{sign}{wanted}", text) == expected
    assert _mask(f"c{sign}{wanted}", [t and f" {t}.00" for t in text]) == expected
    assert parse_where(f"c{sign}{wanted}").mask(pd.Series(text, dtype="category")).tolist() == expected


@pytest.mark.parametrize("sign", _TEST)
@given(values=st.lists(_DECIMAL | st.none(), min_size=1, max_size=9), wanted=_DECIMAL)
def test_decimals(sign: str, values: list[Decimal | None], wanted: Decimal) -> None:
    expected = [value is not None and _TEST[sign](value, wanted) for value in values]
    assert _mask(f"c{sign}{wanted}", [None if v is None else str(v) for v in values]) == expected
    assert _mask(f"c{sign}{wanted}", [None if v is None else float(v) for v in values], "float64") == expected


_DAY = st.dates(dt.date(1990, 1, 1), dt.date(2099, 12, 30))
_MOMENT = st.datetimes(dt.datetime(1990, 1, 2), dt.datetime(2099, 12, 30)).map(lambda m: m.replace(microsecond=0))


@pytest.mark.parametrize("sign", _TEST)
@given(values=st.lists(_MOMENT, min_size=1, max_size=9), day=_DAY, same=st.booleans())
def test_a_date_is_the_whole_day(sign: str, values: list[dt.datetime], day: dt.date, same: bool) -> None:
    day = values[0].date() if same else day
    expected = [*(_TEST[sign](value.date(), day) for value in values), False]
    condition = parse_where(f"c{sign}{day}")
    dates = pd.Series([*values, None], dtype="datetime64[ms]")
    seconds = [int(value.replace(tzinfo=dt.timezone.utc).timestamp()) for value in values]
    for series in (
        dates,
        dates.dt.tz_localize("UTC"),
        pd.Series([*(str(value) for value in values), None], dtype=_TEXT),
        pd.Series([*seconds, None], dtype="Int64"),
        pd.Series([*map(str, seconds), None], dtype=_TEXT),
    ):
        assert condition.mask(series).tolist() == expected


@pytest.mark.parametrize("sign", _TEST)
@given(values=st.lists(_MOMENT, min_size=1, max_size=9), at=_MOMENT, same=st.booleans())
def test_a_time_is_a_moment(sign: str, values: list[dt.datetime], at: dt.datetime, same: bool) -> None:
    at = values[-1] if same else at
    expected = [_TEST[sign](value, at) for value in values]
    assert _mask(f"c{sign}{at.isoformat()}Z", values, "datetime64[us]") == expected
    assert _mask(f"c{sign}{at}", [value.isoformat() for value in values]) == expected


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("verified=true", ["True", "true", "1", "1.0", "False", "0", "yes", None], [1, 1, 1, 1, 0, 0, 0, 0]),
        ("verified!=TRUE", ["True", "true", "1", "False", "0", None], [0, 0, 0, 1, 1, 0]),
        ("verified=false", ["False", "false", "0", "1"], [1, 1, 1, 0]),
        ("genres=Comedy\\|Drama", ["Comedy|Drama", "Comedy"], [1, 0]),
        ("x=a=b", ["a=b", "a"], [1, 0]),
        ("x==a", ["a", "=a"], [1, 0]),
        ("x!=a", ["a", "b", "", r"\N", "nan", "[]"], [0, 1, 0, 0, 0, 0]),
        ("x=2020-01", ["2020-01-31", "2020-02-01"], [1, 0]),
        ("x=2020-01-05", ["2020-01-05", "no date", "x"], [1, 0, 0]),
        ("x>3", ["4", "four", "nan", "inf", "1e400", None], [1, 0, 0, 0, 1, 0]),
        ("x=1e999", ["1", "1e999"], [0, 1]),
        ("x=Infinity", ["Infinity", "1"], [1, 0]),
    ],
)
def test_examples(text: str, values: list[str | None], expected: list[int]) -> None:
    assert _mask(text, values) == [bool(e) for e in expected]


def test_true_of_booleans_and_numbers() -> None:
    assert _mask("c=true", [True, False], "bool") == [True, False]
    assert _mask("c=false", [1, 0, None], "Int64") == [False, True, False]
    assert _mask("c=x", [1, 0, None], "Int64") == [False, False, False]
    assert _mask("c!=x", [1, 0, None], "Int64") == [True, True, False]


@pytest.mark.parametrize(
    ("text", "column", "sign", "values"),
    [
        ("city=Nashville|Tampa", "city", "=", ("Nashville", "Tampa")),
        (" item id:token >= 4 ", "item id:token", ">=", ("4",)),
        ("a<b=c", "a", "<", ("b=c",)),
        ("url!=http://x?a=b", "url", "!=", ("http://x?a=b",)),
    ],
)
def test_parts(text: str, column: str, sign: str, values: tuple[str, ...]) -> None:
    assert parse_where(text) == Where(text, column, sign, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("city", ["--where city has no operator", "COLUMN=VALUE"]),
        ("", ["no operator"]),
        (" =a", ["names no column"]),
        ("a= ", ["has no value"]),
        ("a=b|", ["has an empty value"]),
        ("a=>4", ["=> is no operator", "write >="]),
        ("a<>4", ["write !="]),
        ("a<4|5", ["< takes one value"]),
        ("a\x1b[31m", ["no operator"]),
    ],
)
def test_wrong_conditions(text: str, words: list[str]) -> None:
    wrong = said(parse_where, text)
    assert all(word in wrong for word in words) and "\x1b" not in wrong


def test_unknown_columns_and_values_without_order() -> None:
    parse_where("city=x").check(["user", "city"])
    assert "no column citty; found: user, city; did you mean city" in said(
        parse_where("citty=x").check, ["user", "city"]
    )
    assert "name one of: user" in said(parse_where("qqq=x").check, ["user"])
    assert "x is not a number or a date" in said(parse_where("c>x").mask, pd.Series(["a"]))
    assert "2020 is not a date" in said(parse_where("c>2020").mask, pd.Series(pd.to_datetime(["2020-01-01"])))
    assert "no date 2017-13-01" in said(parse_where("c>2017-13-01").mask, pd.Series(["2017-01-01"]))
