"""Recognises the columns of a table by name and converts them to arrays.

In: the column names and series of R rows from `readers.read_table`. Out: `Columns` (the resolved names), ids as int64
codes (R,) with the list of their strings, and times as int64 milliseconds (R,).
Row numbers in errors count data rows from 1, without the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.readers.parquet import flat
from foster_cli.data.schema import (
    ITEM_COLUMNS,
    SPLIT_COLUMNS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    TITLE_COLUMNS,
    USER_COLUMNS,
)
from foster_cli.errors import FosterError
from foster_cli.settings import MOST_TITLE, NO_SPLIT, PrepareSettings

Int64 = npt.NDArray[np.int64]

#: (bound, units per millisecond) of nanoseconds, microseconds and milliseconds. A numeric column is in the first unit
#: whose bound its median exceeds, else in seconds. 1e11 s is the year 5138, 1e11 ms is March 1973.
_UNITS = ((1e17, 1_000_000), (1e14, 1_000), (1e11, 1))
#: The end of an ISO time with a time zone.
_ZONE = r"[ Tt]\d{2}.*(?:[Zz]|[+-]\d{2}:?\d{0,2})$"
_LIMIT = 2**62  # bound on the absolute value of a time, in milliseconds
#: 1990 and 2100 in milliseconds. A number is a time between them in at most one of the units.
_TODAY = (631_152_000_000, 4_102_444_800_000)


@dataclass(frozen=True)
class Columns:
    """The resolved column names. `item_key`, `title` and `text` belong to the table that holds the texts."""

    user: str
    item: str
    time: str
    split: str | None
    item_key: str
    title: str | None
    text: tuple[str, ...]


def has_user(names: Sequence[str], settings: PrepareSettings) -> bool:
    """Whether a table with these columns has a user column, and so holds interactions."""
    if settings.user_column is not None:
        return settings.user_column in names
    return bool(_matches(names, USER_COLUMNS))


def recognise(table: Sequence[str], items: Sequence[str] | None, settings: PrepareSettings) -> Columns:
    """Resolve the columns of the interactions table `table` and of the items table `items`, if there is one."""
    user = _one(table, USER_COLUMNS, settings.user_column, "--user-column", "user")
    item = _one(table, ITEM_COLUMNS, settings.item_column, "--item-column", "item")
    time = _one(table, TIME_COLUMNS, settings.time_column, "--time-column", "time")
    split: str | None = None
    ignored = settings.split_column == NO_SPLIT and NO_SPLIT not in table
    if not ignored and (settings.split_column is not None or _matches(table, SPLIT_COLUMNS)):
        split = _one(table, SPLIT_COLUMNS, settings.split_column, "--split-column", "split")
    where, key = table, item
    if items is not None:
        where = items
        given = next((c for c in (settings.item_column, item) if c is not None and c in items), None)
        key = given or _one(items, ITEM_COLUMNS, None, "--item-column", "item")
    if settings.text_columns is None:
        text = tuple(dict.fromkeys(m[0] for c in TEXT_COLUMNS if (m := _matches(where, (c,)))))
    else:
        text = tuple(_given(where, c, "--text-columns", "text") for c in settings.text_columns)
    if not text:
        raise FosterError(
            f"no text at all: no column for titles or other texts among {_listed(where)}",
            "name them with --text-columns a,b",
        )
    titles = [c for c in _matches(where, TITLE_COLUMNS) if c not in (user, key, time, split)]
    return Columns(user, item, time, split, key, titles[0] if titles else None, text)


def _matches(names: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """The columns named exactly like a candidate, in the candidates' order. If there are none, case is ignored."""
    exact = [c for c in candidates if c in names]
    return exact or [name for c in candidates for name in names if name.lower() == c.lower()]


def _listed(names: Iterable[str]) -> str:
    return clean(", ".join(names) or "(none)")


def _given(names: Sequence[str], name: str, option: str, what: str) -> str:
    if name not in names:
        raise FosterError(
            f"no column {clean(name)} for the {what}; found: {_listed(names)}",
            f"give one of these with {option}",
        )
    return name


def _one(names: Sequence[str], candidates: Sequence[str], given: str | None, option: str, what: str) -> str:
    if given is not None:
        return _given(names, given, option, what)
    found = list(dict.fromkeys(_matches(names, candidates)))
    if not found:
        raise FosterError(f"no {what} column recognised; found: {_listed(names)}", f"name it with {option}")
    if len(found) > 1:
        raise FosterError(f"more than one {what} column: {_listed(found)}", f"choose with {option} {clean(found[0])}")
    return found[0]


def as_text(series: pd.Series) -> pd.Series:
    """`series` as strings, whole numbers without ".0". Missing values and categoricals of text stay unchanged."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        if all(isinstance(c, str) for c in series.cat.categories):
            return series
        series = series.astype(object)
    text = pd.StringDtype("pyarrow")
    if pd.api.types.is_float_dtype(series.dtype):
        values = series.to_numpy(np.float64, na_value=np.nan)
        here = values[~np.isnan(values)]
        if np.all(np.isfinite(here)) and np.all(here == np.floor(here)) and np.all(np.abs(here) < 2**62):
            return pd.Series(values).astype(pd.Int64Dtype()).astype(text)
    if series.dtype == object:
        return pd.Series([flat(v) for v in series], dtype=text)
    return series.astype(text)


def factorise(series: pd.Series) -> tuple[Int64, list[str]]:
    """Codes (R,), -1 for a missing value, and the distinct strings that they index. Some strings may be unused."""
    text = as_text(series)
    if isinstance(text.dtype, pd.CategoricalDtype):
        return np.asarray(text.cat.codes, dtype=np.int64), [str(c) for c in text.cat.categories]
    codes, values = pd.factorize(text)
    return np.asarray(codes, dtype=np.int64), [str(v) for v in values]


def encode_ids(series: pd.Series, what: str) -> tuple[Int64, list[str]]:
    """`factorise` for ids. Raises FosterError for an id that is missing, blank or longer than `MOST_TITLE`."""
    codes, ids = factorise(series)
    blank = np.array([not name.strip() for name in ids] + [True])  # the last one is for code -1
    missing = blank[codes]
    if missing.any():
        row = int(missing.argmax()) + 1
        raise FosterError(f"column {clean(series.name)}, row {row}: no {what} id", "fill it in or remove the row")
    long = np.array([len(name) > MOST_TITLE for name in ids], dtype=bool)
    if long.any():
        row = int(long[codes].argmax()) + 1
        raise FosterError(
            f"column {clean(series.name)}, row {row}: the {what} id has more than {MOST_TITLE:,} characters",
            f"give the column of ids with --{what}-column",
        )
    return codes, ids


def parse_times(series: pd.Series) -> Int64:
    """Milliseconds since 1970 (R,) from datetimes, ISO text or numbers.

    A column of numbers has one unit: seconds, or milliseconds if its median exceeds 1e11 (microseconds above 1e14,
    nanoseconds above 1e17). Text is read as numbers if at least half of the values are numbers. Otherwise it is read
    as ISO 8601 dates, in UTC if they name no time zone. Raises FosterError for a value that cannot be read.
    """
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return _from_dates(pd.to_datetime(series, utc=True), series)
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype):
        return _from_numbers(series, series)
    text = as_text(series)
    if isinstance(text.dtype, pd.CategoricalDtype):
        text = text.astype(pd.StringDtype("pyarrow"))
    text = text.str.strip()
    numbers = pd.to_numeric(text, errors="coerce")
    if 2 * int(numbers.isna().sum()) <= len(text):
        return _from_numbers(numbers, series)
    # Pandas 2 gives a time without a zone the zone of the row before, so the two kinds are parsed separately.
    zoned = text.str.contains(_ZONE, na=False).to_numpy(bool)
    times = np.empty(len(text), dtype="datetime64[ms]")
    for part in (zoned, ~zoned):
        dates = pd.to_datetime(text[part].astype(object), format="ISO8601", utc=True, errors="coerce")
        times[part] = dates.dt.tz_localize(None).to_numpy("datetime64[ms]")
    _all_good(~np.isnat(times), series)
    return times.astype(np.int64)


def _from_dates(dates: pd.Series, raw: pd.Series) -> Int64:
    _all_good(dates.notna().to_numpy(bool), raw)
    return dates.dt.tz_localize(None).to_numpy("datetime64[ms]").astype(np.int64)


def _from_numbers(numbers: pd.Series, raw: pd.Series) -> Int64:
    approximate = numbers.to_numpy(np.float64, na_value=np.nan)
    good = np.isfinite(approximate)
    _all_good(good, raw)
    median = float(np.median(approximate))
    divisor = next((factor for bound, factor in _UNITS if median > bound), 0)
    scaled = _milliseconds(approximate, divisor)
    _one_unit(approximate, divisor, raw)
    _all_good(np.abs(scaled) < _LIMIT, raw)
    if pd.api.types.is_integer_dtype(numbers.dtype):
        exact = numbers.to_numpy(np.int64)
        return exact // divisor if divisor else exact * 1000
    return np.rint(scaled).astype(np.int64)


def _milliseconds(numbers: npt.NDArray[np.float64], divisor: int) -> npt.NDArray[np.float64]:
    return numbers / divisor if divisor else numbers * 1000.0


def _one_unit(numbers: npt.NDArray[np.float64], divisor: int, raw: pd.Series) -> None:
    """Raise FosterError if most of `numbers` (R,) are times from 1990 to 2100 in their unit, and one in another unit.

    `divisor`: units per millisecond, 0 for seconds.
    """
    here = _of_today(numbers, divisor)
    if 2 * int(here.sum()) <= len(here):
        return
    for other in (0, *(factor for _, factor in _UNITS)):
        odd = _of_today(numbers, other)
        if other != divisor and odd.any():
            row = int(odd.argmax())
            raise FosterError(
                f"column {clean(raw.name)}, row {row + 1}: {clean(flat(raw.iloc[row]), 60)} is not in the unit of most "
                "other rows",
                "bring the column to one unit, seconds or milliseconds",
            )


def _of_today(numbers: npt.NDArray[np.float64], divisor: int) -> npt.NDArray[np.bool_]:
    scaled = _milliseconds(numbers, divisor)
    return (_TODAY[0] < scaled) & (scaled < _TODAY[1])


def _all_good(good: npt.NDArray[np.bool_], raw: pd.Series) -> None:
    if not good.all():
        row = int((~good).argmax())
        value = flat(raw.iloc[row])
        shown = "is empty" if value is None or not value.strip() else f"is no time: {clean(value, 60)}"
        raise FosterError(
            f"column {clean(raw.name)}, row {row + 1} {shown}",
            "use seconds, milliseconds or ISO dates such as 2024-05-01T12:30:00Z, or another --time-column",
        )
