"""Times in every notation mean the moment that Python's datetime means by them; what is unclear is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from email.utils import format_datetime, parsedate_to_datetime

import numpy as np
import pandas as pd
import pytest
from dateutil import parser
from faults import said
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.times import Times, read_times

_UTC = dt.timezone.utc
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=_UTC)
_LATE = dt.datetime(2011, 12, 31, 23, 59, 59, tzinfo=_UTC)  # a day above 12


def _read(values: list[object]) -> Times:
    times = read_times(pd.Series(values, name="when"))
    assert times.ms.dtype == times.order.dtype == np.int64 and times.good.dtype == bool
    assert times.ms.tolist() == [order // 10**6 for order in times.order.tolist()]
    return times


def _ns(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000


_MOMENTS = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(2100, 12, 30), timezones=st.just(_UTC))
_ZONES = st.integers(-23 * 60, 23 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
_DAY, _SECOND, _MICRO = dt.timedelta(days=1), dt.timedelta(seconds=1), dt.timedelta(microseconds=1)
_FORMATS: dict[str, tuple[str, dt.timedelta, str]] = {
    "date": ("%Y-%m-%d", _DAY, "ISO 8601"),
    "T": ("%Y-%m-%dT%H:%M:%S", _SECOND, "ISO 8601"),
    "blank": (" %Y-%m-%d %H:%M:%S.%f ", _MICRO, "ISO 8601"),
    "Z": ("%Y-%m-%dT%H:%M:%S.%fZ", _MICRO, "ISO 8601"),
    "basic": ("%Y%m%dT%H%M%S", _SECOND, "ISO 8601"),
    "half a day": ("%Y-%m-%d %I:%M:%S %p", _SECOND, "ISO 8601"),
    "slashes": ("%Y/%m/%d %H:%M:%S", _SECOND, "year/month/day"),
    "US": ("%m/%d/%Y %I:%M:%S %p", _SECOND, "month/day/year"),
    "US date": ("%m/%d/%Y", _DAY, "month/day/year"),
    "European": ("%d/%m/%Y", _DAY, "day/month/year"),
    "German": ("%d.%m.%Y %H:%M:%S", _SECOND, "day.month.year"),
    "Dutch": ("%d-%m-%Y", _DAY, "day-month-year"),
    "Goodreads": ("%a %b %d %H:%M:%S +0000 %Y", _SECOND, "weekday, month, day (Goodreads)"),
    "ctime": ("%a %b %d %H:%M:%S %Y", _SECOND, "weekday, month, day (Goodreads)"),
    "RFC": ("%a, %d %b %Y %H:%M:%S GMT", _SECOND, "RFC 2822"),
    "JavaScript": ("%a %b %d %Y %H:%M:%S GMT+0000 (UTC)", _SECOND, "JavaScript"),
    "Amazon": ("%m %d, %Y", _DAY, "month day, year"),
    "MovieLens": ("%d-%b-%Y", _DAY, "day-Mon-year"),
    "Apache": ("%d/%b/%Y:%H:%M:%S +0000", _SECOND, "day-Mon-year"),
    "Steam": ("Posted %B %d, %Y.", _DAY, "Mon day, year"),
    "yyyymmdd": ("%Y%m%d", _DAY, "yyyymmdd"),
    "yyyymmddhhmmss": ("%Y%m%d%H%M%S", _SECOND, "yyyymmddhhmmss"),
}


@pytest.mark.parametrize("form", _FORMATS)
@given(moments=st.lists(_MOMENTS, max_size=12))
def test_each_format_means_what_datetime_means(form: str, moments: list[dt.datetime]) -> None:
    pattern, unit, what = _FORMATS[form]
    moments = [_EPOCH + (moment - _EPOCH) // unit * unit for moment in [*moments, _LATE]]
    times = _read([moment.strftime(pattern) for moment in moments])
    assert times.order.tolist() == [_ns(moment) for moment in moments]
    assert times.good.all() and times.what == what


@given(st.lists(st.tuples(_MOMENTS, _ZONES), min_size=1, max_size=12))
def test_zones_mean_what_datetime_means(rows: list[tuple[dt.datetime, dt.timezone]]) -> None:
    local = [moment.replace(microsecond=0).astimezone(zone) for moment, zone in rows]
    expected = [_ns(moment) for moment in local]
    assert _read([moment.isoformat() for moment in local]).order.tolist() == expected
    assert _read([moment.strftime("%Y-%m-%d %H:%M:%S %z") for moment in local]).order.tolist() == expected
    assert _read([moment.strftime("%a %b %d %H:%M:%S %z %Y") for moment in local]).order.tolist() == expected
    mails = [format_datetime(moment) for moment in local]
    assert _read(mails).order.tolist() == [_ns(parsedate_to_datetime(mail)) for mail in mails] == expected


@pytest.mark.parametrize(
    "text",
    [
        "Mon Aug 07 09:47:06 -0700 2017",
        "Mon, 07 Aug 2017 09:47:06 -0700",
        "Mon, 7 Aug 2017 09:47:06 PDT",
        "2009-05-04T23:08:57Z",
        "8/31/2019 9:05:58 PM",
        "8/31/2019 12:05 AM",
        "August 7, 2017 at 9:47 AM",
        "7 Aug 2017",
        "2017-08-07 09:47:06+05:30",
        "2017-08-07T09:47:06.123456789",
        "2017-8-7",
    ],
)
def test_as_dateutil_reads_them(text: str) -> None:
    read = parser.parse(text, tzinfos={"PDT": -7 * 3600})
    read = read if read.tzinfo else read.replace(tzinfo=_UTC)
    assert _read([text]).ms.tolist() == [_ns(read) // 10**6]


_UNITS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
_PRESENT = st.integers(631_152_001 * 10**9, 4_102_444_799 * 10**9)  # nanoseconds, 1990 to 2100
_AS: dict[str, Callable[[list[int]], pd.Series]] = {
    "Int64": lambda v: pd.Series(v, dtype="Int64"),
    "text": lambda v: pd.Series([str(x) for x in v], dtype="string[pyarrow]"),
    "text with .0": lambda v: pd.Series([f" {x}.0" for x in v], dtype="string[pyarrow]"),
    "categories": lambda v: pd.Series([str(x) for x in v]).astype("category"),
    "objects": lambda v: pd.Series([str(x) for x in v], dtype=object),
}


@pytest.mark.parametrize("unit", _UNITS)
@pytest.mark.parametrize("kind", _AS)
@given(moments=st.lists(_PRESENT, min_size=1, max_size=12))
def test_numbers_of_each_unit_are_exact(unit: str, kind: str, moments: list[int]) -> None:
    counts = [ns // _UNITS[unit] for ns in moments]
    times = read_times(_AS[kind](counts))
    assert times.order.tolist() == [count * _UNITS[unit] for count in counts]
    assert times.ms.tolist() == [count * _UNITS[unit] // 10**6 for count in counts]
    assert times.what == unit and times.good.all()
    assert read_times(_AS["text"](counts)).order.tolist() == times.order.tolist()


@given(st.lists(_PRESENT, min_size=1, max_size=12))
def test_decimal_seconds_keep_nanoseconds_as_text_and_their_order_as_floats(moments: list[int]) -> None:
    text = [f"{ns // 10**9}.{ns % 10**9:09}" for ns in moments]
    times = read_times(pd.Series(text))
    assert times.order.tolist() == moments and times.ms.tolist() == [ns // 10**6 for ns in moments]
    floats = [float(one) for one in text]
    order = read_times(pd.Series(floats)).order
    assert np.abs(order - np.array(moments)).max() < 500
    assert np.array_equal(np.argsort(floats, kind="stable"), np.argsort(order, kind="stable"))


@given(st.lists(st.integers(631_152_001_000, 4_102_444_799_000), min_size=1, max_size=12))
def test_float_seconds_with_milliseconds(moments: list[int]) -> None:
    assert read_times(pd.Series([ms / 1000 for ms in moments])).ms.tolist() == moments


@given(st.lists(st.integers(7305, 32873), min_size=1, max_size=12))
def test_days(days: list[int]) -> None:
    times = read_times(pd.Series(days))
    assert times.what == "days" and times.ms.tolist() == [day * 86_400_000 for day in days]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
@given(moments=st.lists(_MOMENTS, min_size=1, max_size=5))
def test_datetimes(unit: str, zone: str | None, moments: list[dt.datetime]) -> None:
    kind = f"datetime64[{unit}]" if zone is None else pd.DatetimeTZDtype(unit, zone)
    naive = pd.Series([moment.replace(tzinfo=None, microsecond=0) for moment in moments], dtype=f"datetime64[{unit}]")
    series = naive if zone is None else naive.dt.tz_localize("UTC").astype(kind)
    times = read_times(pd.concat([series, pd.Series([pd.NaT], dtype=kind)], ignore_index=True))
    assert times.order.tolist() == [*(_ns(moment.replace(microsecond=0)) for moment in moments), 0]
    assert times.good.tolist() == [True] * len(moments) + [False]


@pytest.mark.parametrize(
    ("values", "good"),
    [
        (["1600000000", "soon", "", None, "1600000001"], [0, 4]),
        (["2020-01-01", "2020-13-01", "2020-02-30", "2020-01-02", "2019-02-29", "2020-02-29"], [0, 3, 5]),
        (["2020-01-01", "2020-01-02", "17", "0000-00-00 00:00:00", "NULL", r"\N", "9999-12-31"], [0, 1]),
        ([1, 2**62, 2, -(2**63)], [0, 2]),
        ([1.0, float("inf"), float("nan")], [0]),
        (["1", "99999999999999999999", "2", "1e400", "0x1F", "9999999999999999999", "4", "5"], [0, 2, 6, 7]),
        ([1_600_000_000, -2_208_988_800, -2_208_988_801, 4_133_980_799, 4_133_980_800], [0, 1, 3]),
        (["1900-01-01", "2100-12-31", "2101-01-01", "1899-12-31"], [0, 1]),
        (["2000-01-01T25:00", "2000-01-01 00:60", "2000-01-01 00:59", "2000-01-01 23:00"], [2, 3]),
        (["2000-01-01T00:00+23:59", "2000-01-01T00:00+24:00", "2000-01-01T00:00:61", "2000-01-01"], [0, 3]),
        (["1/31/2020 12:00 AM", "1/31/2020 13:00 PM", "1/31/2020 0:30 AM", "1/31/2020 1:30 PM"], [0, 3]),
        (["01-Jan-1995", "01-Foo-1995", "02-Sept-1995"], [0, 2]),
        ([20190317, 0, 20200229, 20200301, 20200302, 20200303], [0, 2, 3, 4, 5]),
        ([pd.Timestamp("1899-12-31"), pd.Timestamp("2000-01-01")], [1]),
    ],
)
def test_rows_without_a_time_are_not_good(values: list[object], good: list[int]) -> None:
    times = _read(values)
    assert np.flatnonzero(times.good).tolist() == good
    assert not times.ms[~times.good].any() and not times.order[~times.good].any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-01T24:00:00", "2020-01-02T00:00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        ("2020-01-01 10Z", "2020-01-01T10:00:00"),
        ("19700102T01:00-0100", "1970-01-02T02:00:00"),
        ("1/31/2020 9:05:58\u202fPM", "2020-01-31T21:05:58"),
        ("2020-01", "2020-01-01T00:00:00"),
        ("1.6e9", "2020-09-13T12:26:40"),
        ("+1600000000.", "2020-09-13T12:26:40"),
        ("Aug  7 2017", "2017-08-07T00:00:00"),
    ],
)
def test_rarer_spellings(text: str, expected: str) -> None:
    assert _read([text]).order.tolist() == [int(np.datetime64(expected, "ns").astype(np.int64))]


def test_a_nanosecond_after_a_second_is_not_rounded_away() -> None:
    assert _read(["631152001.000000001", "631152002.000000000"]).order.tolist() == [
        631152001 * 10**9 + 1,
        631152002 * 10**9,
    ]


def test_negative_decimals() -> None:
    for values in ([-1.5, -0.25, 1e9], ["-1.5", "-0.25", "1000000000"]):
        assert _read(values).order.tolist() == [-1_500_000_000, -250_000_000, 10**18]


def test_day_and_month_are_told_by_one_date_of_the_column_or_by_none_that_differs() -> None:
    assert _read(["01/02/2019", "13/02/2019"]).what == "day/month/year"
    assert _read(["01/02/2019", "02/13/2019"]).what == "month/day/year"
    assert _read(["11/11/2019 9:05:58 AM"]).ms.tolist() == [1_573_463_158_000]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["11/11/2019", "11/12/2019"], ["row 2: 11/12/2019 may be month/day/year or day/month/year", "ISO dates"]),
        (["01.02.2019"], ["01.02.2019 may be", "day.month.year"]),
        (["12/31/2019", "31/12/2019"], ["two notations", "row 1: 12/31/2019 (month/day/year)", "row 2: 31/12/2019"]),
        (["2020-01-01", "03/17/2019", "2020-01-02"], ["row 1: 2020-01-01 (ISO 8601)", "row 2: 03/17/2019"]),
        (["1600000000", "1600000001", "2020-01-01"], ["row 1: 1600000000 (a number)", "row 3: 2020-01-01"]),
        (["2020-01-01", "2020-01-02", "20200103"], ["row 3: 20200103 (a number)"]),
        (["2020-01-01", "2020-01-02", "1600000000"], ["row 3: 1600000000 (a number)"]),
        ([20190317, 20191301], ["row 2: 20191301 is no date like 20190317", "dates or seconds"]),
        ([20190317, 20190318, 1_600_000_000], ["row 3: 1600000000 is not in the unit"]),
        ([1_600_000_000, 1_600_000_001, 20190317], ["row 3: 20190317 is not in the unit"]),
        ([1_600_000_000, 1_600_000_000_000], ["is not in the unit of most other rows"]),
        (["soon", "later"], ["row 1 is no time: soon", "--time-column"]),
        (["soon", "later", "2020-01-01"], ["row 1 is no time: soon"]),
        (["2020-13-01"], ["row 1 is no time: 2020-13-01"]),
        (["1e400", "x"], ["row 1 is no time"]),
        ([True, False], ["row 1 is no time: True"]),
        ([None, "", "NULL"], ["row 1 is empty"]),
        ([pd.NaT], ["row 1 is empty"]),
        (["\x1b[31mred\n\u202e"], ["row 1", "[31mred"]),
        ([5e9, 6e9], ["row 1 is no time: 5000000000"]),
    ],
)
def test_what_is_unclear_is_refused(values: list[object], words: list[str]) -> None:
    wrong = said(read_times, pd.Series(values, name="when"))
    assert all(word in wrong for word in ["column when", *words]), wrong
    assert "\x1b" not in wrong


_EACH = st.integers(800_000_000, 3_900_000_000)  # seconds, 1995 to 2093


@given(st.lists(_EACH, min_size=2, max_size=9), st.data(), st.booleans())
def test_a_time_in_another_unit_is_named(seconds: list[int], data: st.DataObject, text: bool) -> None:
    units = data.draw(st.permutations([1, 1000, 10**6, 10**9]).map(lambda p: p[:2]))
    odd = data.draw(st.integers(0, len(seconds)))
    values = [s * units[0] for s in (*seconds, seconds[0])]
    values.insert(odd, seconds[-1] * units[1])
    series = pd.Series([str(v) for v in values] if text else values, name="when")
    wrong = said(read_times, series)
    assert f"column when, row {odd + 1}: {values[odd]} is not in the unit" in wrong and "one unit" in wrong


@pytest.mark.parametrize("filler", [0, -1, 1, 1000, 86_400, 1_000_000, 253_402_300_799])
def test_fillers_are_no_other_unit(filler: int) -> None:
    times = _read([1_600_000_000, filler, 1_700_000_000, 1_500_000_000])
    assert times.ms[[0, 2, 3]].tolist() == [1_600_000_000_000, 1_700_000_000_000, 1_500_000_000_000]
    assert times.good[1] == (filler < 4_133_980_800)


def test_blocks_and_distinct_values_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foster_cli.data.times._BLOCK", 7)
    moments = [dt.datetime(2001, 1, 1, tzinfo=_UTC) + i * dt.timedelta(hours=31) for i in range(100)]
    text = [moment.strftime("%d/%m/%Y %H:%M:%S") for moment in moments]
    text[50], text[8] = "?", None  # type: ignore[call-overload]
    for series in (pd.Series(text), pd.Series(text).astype("category"), pd.Series(text, dtype=object)):
        times = read_times(series)
        assert np.flatnonzero(~times.good).tolist() == [8, 50]
        assert times.order[times.good].tolist() == [_ns(m) for i, m in enumerate(moments) if i not in (8, 50)]


@given(st.lists(st.text(max_size=30) | st.none(), min_size=1, max_size=10))
def test_any_text_is_read_or_refused_in_one_line(values: list[str | None]) -> None:
    try:
        times = read_times(pd.Series([*values, "2020-01-01"], dtype=object))
    except Exception:  # noqa: BLE001 - `said` asserts that it is a FosterError
        said(read_times, pd.Series([*values, "2020-01-01"], dtype=object))
    else:
        assert times.good.any()


def test_no_rows() -> None:
    assert len(read_times(pd.Series([], dtype="string[pyarrow]")).ms) == 0
