"""Reads a column of times in any usual notation as milliseconds and nanoseconds since 1970.

In: a series of R rows as `readers.arrow.tidy` makes them. Out: `Times`, all of its arrays (R,).
One column has one notation, decided over all of its rows. The steps for text:

    blocks of 2^20 rows --_Parsed--> notation, first, second (R,) --_winner--> one notation --> ns (R,)

The values of a block that Arrow casts as a whole (integers, whole floats, strict ISO 8601) are not looked at one by
one. Otherwise the distinct values of the block are matched against the patterns of `_NOTATIONS`.
Row numbers in errors count data rows from 1, without the header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foster_cli.console import clean
from foster_cli.data.readers.arrow import flat
from foster_cli.errors import FosterError

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Chars = npt.NDArray[np.uint8]

#: What stands in a cell for "no value", in any column.
MISSING = frozenset(
    ["", r"\N", "NULL", "null", "None", "none", "NaN", "nan", "NAN", "NaT", "N/A", "n/a", "#N/A", "<NA>", "-"]
) | frozenset(["[]", "['']", '[""]', "[None]", "[nan]", "[null]", "{}"])

#: 1900-01-01 and 2101-01-01 in seconds. A time outside of them is not good.
_RANGE = (-2_208_988_800, 4_133_980_800)
#: 1990 and 2100 in seconds. A number is a time between them in at most one of the units.
_TODAY = (631_152_000, 4_102_444_800)
#: 1990 and 2060 in days. Spreadsheets count from 1900, so that their days of these years are larger numbers.
_DAYS = (7_305, 32_873)
#: (name, units per second, bound). A numeric column is in the first unit whose bound the absolute value of its median
#: exceeds. 1e11 s is the year 5138, 1e11 ms is March 1973.
_UNITS = (
    ("nanoseconds", 10**9, 1e17),
    ("microseconds", 10**6, 1e14),
    ("milliseconds", 10**3, 1e11),
    ("seconds", 1, -1),
)
_SECOND = 10**9  # nanoseconds
_BAD = np.iinfo(np.int64).min  # stands for a value that cannot be read
_BLOCK = 1 << 20
_HINT = "use seconds, milliseconds or ISO dates such as 2024-05-01T12:30:00Z, or another --time-column"


@dataclass(frozen=True)
class Times:
    """The times of R rows. `ms`: milliseconds since 1970 UTC, rounded down. `order`: nanoseconds since 1970 UTC.

    `good` is False for a row whose time is missing, unreadable or outside the years 1900 to 2100; its `ms` and `order`
    are 0. `what` names the notation, such as "seconds", "ISO 8601" or "month/day/year".
    `order` sorts like `ms` and keeps the microseconds and nanoseconds that `ms` does not hold. `fine`: to how many
    nanoseconds it was rounded before `ms` was cut off.
    """

    ms: Int64
    order: Int64
    good: Bool
    what: str
    fine: int = 1


def read_times(series: pd.Series) -> Times:
    """Read the times of `series`, whose notation is decided over the whole column.

    Raises FosterError for a column that has two notations or units, that leaves day and month open, or of which more
    than half of the values that are there cannot be read. Times without a zone are in UTC.
    """
    if len(series) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Times(none, none, none.astype(bool), "nothing")
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return _from_dates(series)
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype):
        missing = series.isna().to_numpy(bool)
        return _from_numbers(*_whole(series, missing), missing, series)
    return _from_text(series)


def _times(ns: Int64, good: Bool, what: str, fine: int = 1) -> Times:
    """`Times` of `ns` (R,)."""
    order = np.where(good, ns, 0)
    return Times(milliseconds(order, fine), order, good, what, fine)


def milliseconds(order: Int64, fine: int) -> Int64:
    """Milliseconds, rounded down, of nanoseconds (R,) that are first rounded to `fine` of them."""
    at = order if fine == 1 else (order + fine // 2) // fine * fine
    return at // 1_000_000


def _enough(good: Bool, missing: Bool, raw: pd.Series) -> None:
    """Raise FosterError unless at least half of the values that are there are good, and there is one."""
    here = len(good) - int(missing.sum())
    if here == 0:
        raise FosterError(f"column {clean(raw.name)}, row 1 is empty, and so is every row", _HINT)
    if 2 * int(good.sum()) < here or not good.any():
        row = int((~good & ~missing).argmax())
        raise FosterError(f"column {clean(raw.name)}, row {row + 1} is no time: {_shown(raw, row)}", _HINT)


def _shown(raw: pd.Series, row: int) -> str:
    return clean(flat(raw.iloc[row]) or "", 60)


# Columns of datetimes


def _from_dates(series: pd.Series) -> Times:
    dates = pd.to_datetime(series, utc=True).dt.tz_localize(None).to_numpy()
    unit = np.datetime_data(dates.dtype)[0]
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    count = dates.view(np.int64)
    missing = np.isnat(dates)
    good = ~missing & (count >= _RANGE[0] * per_second) & (count < _RANGE[1] * per_second)
    _enough(good, missing, series)
    return _times(np.where(good, count, 0) * (_SECOND // per_second), good, "dates")


# Columns of numbers: each is `whole` + `part` / 10^9


def _whole(series: pd.Series, missing: Bool) -> tuple[Int64, Int64 | None]:
    """The numbers of a numeric series as (whole, part): whole is `_BAD` for one beyond ±2^62 or not finite."""
    if pd.api.types.is_unsigned_integer_dtype(series.dtype):
        large = series.to_numpy(np.uint64, na_value=0)
        return np.where(missing | (large >= 2**62), _BAD, large.astype(np.int64)), None
    if pd.api.types.is_integer_dtype(series.dtype):
        whole = series.to_numpy(np.int64, na_value=0)
        return np.where(missing | (np.abs(whole) >= 2**62), _BAD, whole), None
    return _split(series.to_numpy(np.float64, na_value=np.nan))


def _split(numbers: npt.NDArray[np.float64]) -> tuple[Int64, Int64 | None]:
    with np.errstate(invalid="ignore"):
        fits = np.abs(numbers) < 2.0**62
    kept = np.where(fits, numbers, 0.0)
    floor = np.floor(kept)
    whole = np.where(fits, floor.astype(np.int64), _BAD)
    kept -= floor
    # A part that rounds to 1 is cut, so that it stays below the next whole number.
    part = np.minimum(np.rint(kept * 1e9), 999_999_999).astype(np.int64) if kept.any() else None
    return whole, part


def _from_numbers(whole: Int64, part: Int64 | None, missing: Bool, raw: pd.Series, exact: bool = False) -> Times:
    """`exact`: `part` was read from decimal digits; otherwise it comes from binary floats, which are near them."""
    here = whole != _BAD
    if not here.any():
        _enough(here, missing, raw)
    integral = here if part is None else here & (part == 0)
    count = int(here.sum())
    fine = 1 if exact or part is None else 1000
    for digits, name in ((8, "yyyymmdd"), (14, "yyyymmddhhmmss")):
        low, high = 1900_01_01 * 10 ** (digits - 8), 2101_01_01 * 10 ** (digits - 8)
        inside = integral & (whole >= low) & (whole < high)
        if 2 * int(inside.sum()) > count:
            ns = np.full(len(whole), _BAD, dtype=np.int64)
            ns[inside] = _calendar(whole[inside], digits)
            good = ns != _BAD
            share = int(good.sum()) / int(inside.sum())
            if digits == 8 and 0.1 < share < 0.9:
                row, other = int((inside & ~good).argmax()), int(good.argmax())
                raise FosterError(
                    f"column {clean(raw.name)}, row {row + 1}: {_shown(raw, row)} is no date like "
                    f"{_shown(raw, other)} in row {other + 1}, so whether these are dates or seconds is unclear",
                    "bring the column to ISO dates such as 2024-05-01",
                )
            if share >= 0.9:
                _one_unit(whole, good & _of_today(np.where(good, ns, 0), _SECOND), here, name, raw)
                _enough(good, missing, raw)
                return _times(ns, good, name)
    inside = integral & (whole >= _DAYS[0]) & (whole <= _DAYS[1])
    if 10 * int(inside.sum()) >= 9 * count:
        _one_unit(whole, inside, here, "days", raw)
        good = integral & (whole >= _RANGE[0] // 86_400) & (whole < _RANGE[1] // 86_400)
        return _times(np.where(good, whole, 0) * 86_400 * _SECOND, good, "days")
    median = abs(float(np.median(whole[here].astype(np.float64))))
    name, per_second = next((name, per) for name, per, bound in _UNITS if median > bound)
    _one_unit(whole, here & _of_today(whole, per_second), here, name, raw)
    good = here & (whole >= _RANGE[0] * per_second) & (whole < _RANGE[1] * per_second)
    _enough(good, missing, raw)
    ns = np.where(good, whole, 0) * (_SECOND // per_second)
    if part is not None:
        ns += np.where(good, part, 0) // per_second
    return _times(ns, good, name, fine)


def _of_today(whole: Int64, per_second: int) -> Bool:
    return (whole > _TODAY[0] * per_second) & (whole < _TODAY[1] * per_second)


def _calendar(numbers: Int64, digits: int) -> Int64:
    """Nanoseconds of numbers such as 20190317 (8 digits) or 20190317123000 (14), `_BAD` for one that is no date."""
    day, clock = np.divmod(numbers, 10 ** (digits - 8))
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    return _ns(day // 10_000, day // 100 % 100, day % 100, _clock(hour, minute, second))


def _other_notations(whole: Int64, name: str) -> Iterator[tuple[str, Bool]]:
    """Which of the numbers are times from 1990 to 2100 in each notation other than `name`, days excepted."""
    for other, per_second, _ in reversed(_UNITS):
        if other != name:
            yield other, _of_today(whole, per_second)
    for digits, other in ((8, "yyyymmdd"), (14, "yyyymmddhhmmss")):
        if other != name:
            low, high = 1990_01_01 * 10 ** (digits - 8), 2100_01_01 * 10 ** (digits - 8)
            odd = (whole >= low) & (whole < high)
            odd[odd] = _calendar(whole[odd], digits) != _BAD
            yield other, odd


def _one_unit(whole: Int64, usual: Bool, here: Bool, name: str, raw: pd.Series) -> None:
    """Raise FosterError if most numbers are times from 1990 to 2100 in their notation, and one is in another notation.

    `usual` (R,): which of the numbers are such times in the notation `name` of the column.
    """
    if 2 * int(usual.sum()) < int(here.sum()):
        return
    for _, odd in _other_notations(whole, name):
        odd &= here & ~usual
        if odd.any():
            row = int(odd.argmax())
            raise FosterError(
                f"column {clean(raw.name)}, row {row + 1}: {_shown(raw, row)} is not in the unit of most other rows",
                "bring the column to one unit, seconds or milliseconds",
            )


# Columns of text


@dataclass(frozen=True)
class _Notation:
    """A notation of dates. The groups of `pattern`: y year, m month (number or name), d day, h, mi, s, f fraction of
    the second, ap (a or p of am and pm), z zone, w weekday. Groups `one` and `two` are day and month in an order left
    open, which is `month_first` or `day_first` for the user.
    """

    name: str
    pattern: str
    month_first: str = ""
    day_first: str = ""


_FRACTION = r"(?:[.,](?P<f>\d{1,9})\d*)?"
_AMPM = r"(?: ?(?P<ap>[AaPp])\.?[Mm]\.?)?"
_CLOCK = rf"(?P<h>\d{{1,2}}):(?P<mi>\d{{2}})(?::(?P<s>\d{{2}}){_FRACTION})?{_AMPM}"
_ZONE = r"(?: ?(?P<z>[Zz]|UTC|UT|GMT|[ECMP][SD]T|[+-]\d{2}(?::?\d{2})?))?"
_WEEKDAY = r"(?P<w>[A-Za-z]{3,9})\.?,? "
_NAME = r"(?P<m>[A-Za-z]{3,9})\.?"
_LATER = rf"(?:,?[ Tt] ?{_CLOCK}{_ZONE})?"


def _open(mark: str) -> _Notation:
    """Day and month in either order, with `mark` between them."""
    pattern = rf"(?P<one>\d{{1,2}})[{mark}](?P<two>\d{{1,2}})[{mark}](?P<y>\d{{4}}){_LATER}"
    first, second = mark.join(("month", "day", "year")), mark.join(("day", "month", "year"))
    return _Notation(first, pattern, first, second)


#: The notations in the order in which they are tried. One of the same name as another is the same notation.
#: Of numbers, `whole` and `f` are digits, and `rough` is what those cannot hold.
_NOTATIONS = (
    _Notation("a number", r"(?P<sign>[+-]?)(?P<whole>\d{1,19})(?:\.(?P<f>\d{0,9})\d*)?"),
    _Notation("a number", r"(?P<rough>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)"),
    _Notation(
        "ISO 8601",
        r"(?P<y>\d{4})-(?P<m>\d{1,2})(?:-(?P<d>\d{1,2})(?:[Tt ] ?(?P<h>\d{1,2})"
        rf"(?::(?P<mi>\d{{2}})(?::(?P<s>\d{{2}}){_FRACTION})?)?{_AMPM}{_ZONE})?)?",
    ),
    _Notation(
        "ISO 8601",
        r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})[Tt](?P<h>\d{2})"
        rf"(?::?(?P<mi>\d{{2}})(?::?(?P<s>\d{{2}}){_FRACTION})?)?{_ZONE}",
    ),
    _Notation("year/month/day", rf"(?P<y>\d{{4}})/(?P<m>\d{{1,2}})/(?P<d>\d{{1,2}}){_LATER}"),
    _Notation("year.month.day", rf"(?P<y>\d{{4}})\.(?P<m>\d{{1,2}})\.(?P<d>\d{{1,2}}){_LATER}"),
    _open("/"),
    _open("."),
    _open("-"),
    _Notation("weekday, month, day (Goodreads)", rf"{_WEEKDAY}{_NAME} (?P<d>\d{{1,2}}) {_CLOCK}{_ZONE} (?P<y>\d{{4}})"),
    _Notation("RFC 2822", rf"{_WEEKDAY}(?P<d>\d{{1,2}})[ -]{_NAME}[ -](?P<y>\d{{4}}) {_CLOCK}{_ZONE}(?: ?\([^()]*\))?"),
    _Notation(
        "JavaScript",
        rf"{_WEEKDAY}{_NAME} (?P<d>\d{{1,2}}) (?P<y>\d{{4}}) {_CLOCK} (?:GMT|UTC)?(?P<z>[+-]\d{{4}}|)(?: ?\([^()]*\))?",
    ),
    _Notation("month day, year", r"(?P<m>\d{1,2}) (?P<d>\d{1,2}), (?P<y>\d{4})"),
    _Notation("day-Mon-year", rf"(?P<d>\d{{1,2}})\.?[ /-]{_NAME},?[ /-](?P<y>\d{{4}})(?:,?[ :Tt] ?{_CLOCK}{_ZONE})?"),
    _Notation(
        "Mon day, year",
        rf"(?:Posted:? )?{_NAME} (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\.?(?:,?(?: at)? {_CLOCK}{_ZONE})?",
    ),
)
_PATTERNS = [re.compile(n.pattern, re.ASCII) for n in _NOTATIONS]
_FIRST_OF_NAME = [next(i for i, n in enumerate(_NOTATIONS) if n.name == one.name) for one in _NOTATIONS]
_NUMBER = 0
_ISO = next(i for i, n in enumerate(_NOTATIONS) if n.name == "ISO 8601")
#: What any notation looks like, for Arrow.
_ANY = "^(?:" + "|".join(re.sub(r"\?P<\w+>", "?:", n.pattern) for n in _NOTATIONS) + ")$"
_LONGEST = 100  # characters of a time
_UNREAD, _EMPTY = -1, -2  # in place of an index in _NOTATIONS
_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october"]
_MONTHS += ["november", "december"]
_NAMES = [(name[:3], i) for i, name in enumerate(_MONTHS, 1)] + [(name, i) for i, name in enumerate(_MONTHS, 1)]
_NAMES += [("sept", 9)]
_ZONES = {"Z": 0, "UTC": 0, "UT": 0, "GMT": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5} | {
    "MST": -7,
    "MDT": -6,
    "PST": -8,
    "PDT": -7,
}
_NO_DATE = "0000-00-00"


def _from_text(series: pd.Series) -> Times:
    parsed = _Parsed(len(series))
    for start, block in _blocks(series):
        parsed.read(start, block)
    missing = parsed.notation == _EMPTY
    chosen = _winner(parsed, missing, series)
    rows = parsed.notation == chosen
    first = np.where(rows, parsed.first, _BAD)
    if chosen == _NUMBER:
        second = None if parsed.second is None else np.where(rows, parsed.second, 0)
        return _from_numbers(first, second, missing, series, exact=True)
    what, ns = _NOTATIONS[chosen].name, first
    if _NOTATIONS[chosen].day_first:
        assert parsed.second is not None
        what, ns = _day_or_month(_NOTATIONS[chosen], first, np.where(rows, parsed.second, _BAD), series)
    good = ns != _BAD
    _enough(good, missing, series)
    return _times(ns, good, what)


def _day_or_month(notation: _Notation, month_first: Int64, day_first: Int64, raw: pd.Series) -> tuple[str, Int64]:
    """Whether day or month comes first, and the times. Raises FosterError if no date says it, or if two disagree."""
    by_month, by_day = month_first != _BAD, day_first != _BAD
    only_month, only_day = by_month & ~by_day, by_day & ~by_month
    if only_month.any() and only_day.any():
        _mixed(raw, (int(only_month.argmax()), notation.month_first), (int(only_day.argmax()), notation.day_first))
    if only_day.any():
        return notation.day_first, day_first
    unclear = by_month & (month_first != day_first)
    if unclear.any() and not only_month.any():
        row = int(unclear.argmax())
        raise FosterError(
            f"column {clean(raw.name)}, row {row + 1}: {_shown(raw, row)} may be {notation.month_first} or "
            f"{notation.day_first}, and no row has a day above 12",
            "bring the column to ISO dates such as 2024-05-01",
        )
    return notation.month_first, month_first


def _mixed(raw: pd.Series, one: tuple[int, str], two: tuple[int, str]) -> None:
    rows = " and ".join(f"row {row + 1}: {_shown(raw, row)} ({name})" for row, name in sorted((one, two)))
    raise FosterError(
        f"column {clean(raw.name)} has two notations of time, {rows}",
        "bring the column to one, such as ISO dates (2024-05-01T12:30:00Z)",
    )


def _winner(parsed: _Parsed, missing: Bool, raw: pd.Series) -> int:
    """The notation of most rows. Raises FosterError if a good time is in another one."""
    notation = parsed.notation
    counts = np.bincount(notation[notation >= 0], minlength=len(_NOTATIONS))
    chosen = int(counts.argmax())
    if counts[chosen] == 0:
        _enough(np.zeros(len(notation), dtype=bool), missing, raw)
    for other in np.flatnonzero(counts).tolist():
        if other == chosen:
            continue
        odd = notation == other
        if other == _NUMBER:  # a number such as 0 or 17 is no time among dates; one of today is
            usual = np.where(odd, parsed.first, 0)
            odd &= np.logical_or.reduce([mask for _, mask in _other_notations(usual, "")])
        elif _NOTATIONS[other].day_first:
            assert parsed.second is not None
            odd &= (parsed.first != _BAD) | (parsed.second != _BAD)
        else:
            odd &= parsed.first != _BAD
        if odd.any():
            main = (notation == chosen) & (parsed.first != _BAD)
            if main.any():
                _mixed(raw, (int(main.argmax()), _NOTATIONS[chosen].name), (int(odd.argmax()), _NOTATIONS[other].name))
    return chosen


def _blocks(series: pd.Series) -> Iterator[tuple[int, pa.Array]]:
    """(first row, values as large_string) of the blocks of a series of text, of categories or of objects."""
    categories: pa.Array | None = None
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = pa.array([flat(c) for c in series.cat.categories], pa.large_string())
        codes = np.asarray(series.cat.codes, dtype=np.int64)
    for start in range(0, len(series), _BLOCK):
        if categories is not None:
            part = codes[start : start + _BLOCK]
            yield start, pa.DictionaryArray.from_arrays(pa.array(part, mask=part < 0), categories)
            continue
        values = series.iloc[start : start + _BLOCK]
        if values.dtype == object:
            yield start, pa.array([flat(v) for v in values], pa.large_string())
            continue
        block = pa.array(values.array, from_pandas=True)
        block = block.combine_chunks() if isinstance(block, pa.ChunkedArray) else block
        yield start, block.cast(pa.large_string())


class _Parsed:
    """What the cells of R rows of text are, before the notation of the column is known.

    `notation` (R,) int8: an index in `_NOTATIONS`, `_UNREAD` or `_EMPTY`. `first` (R,): nanoseconds since 1970, with
    the month first where that is open; of a number its whole part; `_BAD` if there are none. `second` (R,), made when
    it is needed: nanoseconds with the day first; of a number its fraction in 10^-9.
    """

    def __init__(self, rows: int) -> None:
        self.notation = np.full(rows, _EMPTY, dtype=np.int8)
        self.first = np.full(rows, _BAD, dtype=np.int64)
        self.second: Int64 | None = None

    def read(self, start: int, block: pa.Array) -> None:
        """Read the rows from `start` on."""
        place = slice(start, start + len(block))
        if not isinstance(block, pa.DictionaryArray):
            quick = _quick(block)
            if quick is None:
                block = _trimmed(block)
                quick = _quick(block)
            if quick is not None:
                self.notation[place], self.first[place] = quick
                return
            block = block.dictionary_encode()
        codes = block.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        notation, first, second = _distinct(_trimmed(block.dictionary))
        self.notation[place] = np.append(notation, np.int8(_EMPTY))[codes]
        self.first[place] = np.append(first, _BAD)[codes]
        if second is not None:
            if self.second is None:
                self.second = np.zeros(len(self.first), dtype=np.int64)
            self.second[place] = np.append(second, 0)[codes]


def _trimmed(values: pa.Array) -> pa.Array:
    """`values` without blanks at the ends, null where nothing is left."""
    values = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def _quick(block: pa.Array) -> tuple[npt.NDArray[np.int8], Int64] | None:
    """(notation, first) of a block that Arrow casts as a whole to integers, whole floats or ISO times; else None."""
    readers: list[tuple[int, Callable[[pa.Array], pa.Array]]] = [
        (_NUMBER, _integers),
        (_NUMBER, _whole_floats),
        (_ISO, lambda b: pc.cast(b, pa.timestamp("ns")).cast(pa.int64())),
        (_ISO, lambda b: pc.cast(b, pa.timestamp("ns", "UTC")).cast(pa.int64())),
    ]
    for kind, reader in readers:
        try:
            reader(block.slice(0, 64))  # Arrow makes a message for each value that it cannot cast, which takes long
            values = reader(block)
        except pa.ArrowInvalid:
            continue
        missing = values.is_null().to_numpy(zero_copy_only=False)
        first = values.fill_null(_BAD).to_numpy(zero_copy_only=False)
        if kind == _ISO:
            first = np.where((first >= _RANGE[0] * _SECOND) & (first < _RANGE[1] * _SECOND), first, _BAD)
        elif (np.abs(first[~missing]) >= 2**62).any():
            continue
        return np.where(missing, _EMPTY, kind).astype(np.int8), first
    return None


def _integers(block: pa.Array) -> pa.Array:
    values = pc.cast(block, pa.int64())
    if pc.any(pc.match_substring(block, "x", ignore_case=True)).as_py():  # Arrow reads 0x1F
        raise pa.ArrowInvalid("hexadecimal")
    return values


def _whole_floats(block: pa.Array) -> pa.Array:
    values = pc.cast(block, pa.float64())
    whole = pc.all(pc.and_(pc.less(pc.abs(values), 2.0**53), pc.equal(pc.floor(values), values))).as_py()
    if (
        not whole or pc.any(pc.match_substring_regex(block, r"\.0*[1-9]")).as_py()
    ):  # 5.0000000000000001 is a whole float
        raise pa.ArrowInvalid("not whole")
    return pc.cast(values, pa.int64())


def _distinct(values: pa.Array) -> tuple[npt.NDArray[np.int8], Int64, Int64 | None]:
    """(notation, first, second) of V distinct values, see `_Parsed`.

    Values of one length and one shape (digits, letters of a name and other characters at the same places) have one
    notation, with its fields at the same places. So the pattern is matched with one of them, and the fields of all are
    cut out of the matrix of their characters.
    """
    notation = np.full(len(values), _UNREAD, dtype=np.int8)
    first = np.full(len(values), _BAD, dtype=np.int64)
    second: Int64 | None = None
    empty = pc.is_in(values, pa.array(sorted(MISSING), values.type)).to_numpy(zero_copy_only=False)
    empty = empty | pc.starts_with(values, _NO_DATE).fill_null(True).to_numpy(zero_copy_only=False)
    notation[empty] = _EMPTY
    values = _single_blanks(values)
    like_a_time = pc.match_substring_regex(values, _ANY).fill_null(False).to_numpy(zero_copy_only=False)
    length = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    like_a_time = like_a_time & ~empty & (length <= _LONGEST)
    for width in np.unique(length[like_a_time]).tolist():
        rows = np.flatnonzero(like_a_time & (length == width))
        chars = _characters(values, rows, width)
        while len(rows):
            found = _match(chars[0])
            if found is None:
                same = (chars == chars[0]).all(axis=1)
            else:
                kind, match = found
                same = _same_shape(chars, match)
                one, two = _moments(chars[same], match)
                notation[rows[same]] = _FIRST_OF_NAME[kind]
                first[rows[same]] = one
                if two is not None:
                    second = np.zeros(len(notation), dtype=np.int64) if second is None else second
                    second[rows[same]] = two
            rows, chars = rows[~same], chars[~same]
    return notation, first, second


def _single_blanks(values: pa.Array) -> pa.Array:
    """Several blanks as one. Newer locales put a no-break space before AM and PM."""
    odd = r"[\s\x{a0}\x{2009}\x{202f}]"
    if pc.any(pc.match_substring_regex(values, rf"[^\S ]|[\x{{a0}}\x{{2009}}\x{{202f}}]|{odd}{odd}")).as_py():
        return pc.replace_substring_regex(values, rf"{odd}+", " ")
    return values


def _characters(values: pa.Array, rows: Int64, width: int) -> Chars:
    """The bytes (V, width) of the values at `rows`, which are `width` bytes long."""
    chosen = values if len(rows) == len(values) else values.take(pa.array(rows))
    _, offsets, data = chosen.buffers()
    start = int(np.frombuffer(offsets, dtype=np.int64)[chosen.offset])
    return np.frombuffer(data, dtype=np.uint8, count=len(rows) * width, offset=start).reshape(len(rows), width)


def _match(chars: npt.NDArray[np.uint8]) -> tuple[int, re.Match[str]] | None:
    """The first notation of one value, and the match."""
    text = chars.tobytes().decode()
    for kind, pattern in enumerate(_PATTERNS):
        match = pattern.fullmatch(text) if text.isascii() else None
        if match is not None:
            return kind, match
    return None


def _same_shape(chars: Chars, match: re.Match[str]) -> Bool:
    """Which values (V,) have digits, letters of names and other characters at the places where `match` has them."""
    names = [span for name in ("w", "m") if name in match.re.groupindex and (span := match.span(name))[0] >= 0]
    same = np.ones(len(chars), dtype=bool)
    for i, character in enumerate(match.string):
        column = chars[:, i]
        if character.isdigit():
            same &= (column >= ord("0")) & (column <= ord("9"))
        elif character.isalpha() and any(start <= i < end for start, end in names):
            lower = column | 0x20
            same &= (lower >= ord("a")) & (lower <= ord("z"))
        else:
            same &= column == ord(character)
    return same


def _moments(chars: Chars, match: re.Match[str]) -> tuple[Int64, Int64 | None]:
    """(first, second) of V values of the shape of `match`, see `_Parsed`."""
    spans = {name: match.span(name) for name in match.re.groupindex if match.group(name)}
    if "rough" in spans:
        numbers = [float(row.tobytes()) for row in chars]
        return _split(np.array(numbers))
    if "whole" in spans:
        return _number(chars, spans, match["sign"] == "-")

    def digits(name: str, default: int = 0) -> Int64:
        return _digits(chars, spans[name]) if name in spans else np.full(len(chars), default, dtype=np.int64)

    hour = digits("h")
    if "ap" in spans:
        wrong = (hour < 1) | (hour > 12)
        hour = np.where(wrong, 99, hour % 12 + (12 if match["ap"] in "pP" else 0))
    clock = _clock(hour, digits("mi"), digits("s"), _fraction(chars, spans.get("f")))
    if "z" in spans:
        clock = _minus(clock, _ahead(chars, spans["z"], match["z"]))
    year = digits("y")
    if "one" in spans:
        one, two = digits("one"), digits("two")
        return _ns(year, one, two, clock), _ns(year, two, one, clock)
    month = _month(chars, spans["m"]) if match["m"].isalpha() else digits("m")
    return _ns(year, month, digits("d", 1), clock), None


def _digits(chars: Chars, span: tuple[int, int]) -> Int64:
    number = np.zeros(len(chars), dtype=np.int64)
    for i in range(*span):
        number = 10 * number + (chars[:, i] - ord("0"))
    return number


def _fraction(chars: Chars, span: tuple[int, int] | None) -> Int64:
    """Digits after the point, in 10^-9."""
    return (
        np.zeros(len(chars), dtype=np.int64) if span is None else _digits(chars, span) * 10 ** (9 + span[0] - span[1])
    )


def _number(chars: Chars, spans: dict[str, tuple[int, int]], negative: bool) -> tuple[Int64, Int64]:
    """(whole, part) of numbers, exact: up to 5e18 before the point and 9 digits after it."""
    start, end = spans["whole"]
    whole, part = _digits(chars, (start, end)), _fraction(chars, spans.get("f"))
    if negative:
        carry = part > 0
        whole, part = -whole - carry, np.where(carry, _SECOND - part, part)
    if end - start == 19:
        whole = np.where(chars[:, start] <= ord("4"), whole, _BAD)
    return whole, part


def _month(chars: Chars, span: tuple[int, int]) -> Int64:
    """The months of names, 0 for another word."""
    letters = chars[:, slice(*span)] | 0x20
    month = np.zeros(len(chars), dtype=np.int64)
    for name, number in _NAMES:
        if len(name) == letters.shape[1]:
            month[(letters == np.frombuffer(name.encode(), dtype=np.uint8)).all(axis=1)] = number
    return month


def _ahead(chars: Chars, span: tuple[int, int], zone: str) -> Int64:
    """The nanoseconds that the zones are ahead of UTC, `_BAD` for hours or minutes out of range."""
    if zone.upper() in _ZONES:
        return np.full(len(chars), _ZONES[zone.upper()] * 3600 * _SECOND, dtype=np.int64)
    start, end = span
    hours = _digits(chars, (start + 1, start + 3))
    minutes = _digits(chars, (end - 2, end)) if end - start > 3 else np.zeros(len(chars), dtype=np.int64)
    ahead = (hours * 60 + minutes) * 60 * _SECOND * (-1 if zone[0] == "-" else 1)
    return np.where((hours <= 23) & (minutes <= 59), ahead, _BAD)


# The calendar


def _clock(hour: Int64, minute: Int64, second: Int64, part: Int64 | int = 0) -> Int64:
    """Nanoseconds of the day, `_BAD` where there is no such time. 24:00:00 and a 60th second belong to what follows."""
    fits = (hour >= 0) & (hour <= 24) & (minute >= 0) & (minute <= 59) & (second >= 0) & (second <= 60)
    fits &= (hour < 24) | ((minute == 0) & (second == 0) & (np.asarray(part) == 0))
    return np.where(fits, (hour * 3600 + minute * 60 + second) * _SECOND + part, _BAD)


def _minus(one: Int64, two: Int64) -> Int64:
    return np.where((one == _BAD) | (two == _BAD), _BAD, one - np.where(two == _BAD, 0, two))


def _ns(year: Int64, month: Int64, day: Int64, clock: Int64) -> Int64:
    """Nanoseconds since 1970, `_BAD` for a date that the calendar does not have or that is outside 1900 to 2100."""
    fits = (year >= 1899) & (year <= 2101) & (month >= 1) & (month <= 12) & (day >= 1) & (clock != _BAD)
    y, m = np.where(fits, year, 1970), np.where(fits, month, 1)
    # Days from 1970-01-01 to y-m-01: years are counted from March, so that a leap day ends its year.
    shifted = y - (m <= 2)
    since_march = (153 * ((m + 9) % 12) + 2) // 5
    start = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + since_march - 719_468
    leap = ((y % 4 == 0) & (y % 100 != 0)) | (y % 400 == 0)
    length = np.where(m == 2, 28 + leap, 30 + ((m + (m > 7)) % 2))
    fits &= day <= length
    ns = np.where(fits, (start + day - 1) * 86_400, 0) * _SECOND + np.where(fits, clock, 0)
    fits &= (ns >= _RANGE[0] * _SECOND) & (ns < _RANGE[1] * _SECOND)
    return np.where(fits, ns, _BAD)
