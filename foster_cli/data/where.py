"""Reads conditions such as "city=Nashville|Tampa" or "rating>=4" and says which rows of a column meet them.

In: the text of `--where`, and the series of R rows that it names, as `readers.arrow.tidy` makes it. Out: a mask (R,).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.columns import factorise
from foster_cli.data.times import MISSING, read_times
from foster_cli.errors import FosterError, did_you_mean

Bool = npt.NDArray[np.bool_]
#: The sign (R,) of the difference of each value and the one of the condition; 2 for a value that cannot be compared.
Signs = npt.NDArray[np.int8]

_OPERATOR = re.compile(r"!=|>=|<=|==|=>|=<|<>|=|>|<")
_SLIPS = {"=>": ">=", "=<": "<=", "<>": "!="}
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{1,2}(?:-\d{1,2}(?P<clock>[Tt ]\S.*)?)?", re.ASCII)
_TRUE, _FALSE = frozenset(["true", "1", "1.0"]), frozenset(["false", "0", "0.0"])
_NONE = 2
_EXAMPLE = "write COLUMN=VALUE, !=, >=, <=, > or <, such as city=Nashville or rating>=4"


@dataclass(frozen=True)
class Where:
    """A condition on one column. `operator` is one of = != > >= < <=; only = and != have several `values`."""

    text: str
    column: str
    operator: str
    values: tuple[str, ...]

    def check(self, names: Sequence[str]) -> None:
        """Raise FosterError if the column is none of `names`."""
        if self.column not in names:
            close = did_you_mean(self.column, names)
            listed = clean(", ".join(names) or "(none)")
            hint = f"name one of: {listed}"
            if close:
                hint = f"did you mean {clean(close)}: --where '{clean(self.text.replace(self.column, close, 1))}'"
            raise FosterError(f"--where {clean(self.text, 80)}: no column {clean(self.column)}; found: {listed}", hint)

    def mask(self, series: pd.Series) -> Bool:
        """The rows (R,) that meet the condition. A missing value meets none, != included.

        Values are compared as numbers if both sides are numbers, as times if this side is an ISO date and the column
        holds times; else as text without blanks at the ends, which has no order. A date without a time is the whole
        day. The value true meets `True`, `true` and 1.
        """
        if self.operator in ("=", "!="):
            found = np.zeros(len(series), dtype=bool)
            here = _Compared(series)
            for value in self.values:
                found |= here.equal(value)
            return found if self.operator == "=" else here.present & ~found
        return self._ordered(series)

    def _ordered(self, series: pd.Series) -> Bool:
        value = self.values[0]
        here = _Compared(series)
        if _NUMBER.fullmatch(value) and not here.is_dates:
            signs = here.number_signs(Decimal(value))
            test: dict[str, Callable[[Signs], Bool]] = {
                ">": lambda s: s == 1,
                ">=": lambda s: (s == 0) | (s == 1),
                "<": lambda s: s == -1,
                "<=": lambda s: s <= 0,
            }
            return test[self.operator](signs)
        if not _DATE.fullmatch(value):
            what = "a date such as 2024-05-01" if here.is_dates else "a number or a date such as 2024-05-01"
            raise FosterError(f"--where {clean(self.text, 80)}: {clean(value, 40)} is not {what}", _EXAMPLE)
        start, end = self._moments(value)
        times = read_times(series)
        at = {">": times.order >= end, ">=": times.order >= start, "<": times.order < start, "<=": times.order < end}
        return times.good & at[self.operator]

    def _moments(self, value: str) -> tuple[int, int]:
        found = moments(value)
        if found is None:
            raise FosterError(f"--where {clean(self.text, 80)}: there is no date {clean(value, 40)}", _EXAMPLE)
        return found


def parse_where(text: str) -> Where:
    """The condition in `text`. Its first operator ends the column's name; `|` separates values and `\\|` is a bar."""
    shown = f"--where {clean(text, 80)}"
    operator = _OPERATOR.search(text)
    if operator is None:
        raise FosterError(f"{shown} has no operator", _EXAMPLE)
    sign, column = operator[0], text[: operator.start()].strip()
    if sign in _SLIPS:
        raise FosterError(f"{shown}: {sign} is no operator", f"write {_SLIPS[sign]}")
    sign = "=" if sign == "==" else sign
    if not column:
        raise FosterError(f"{shown} names no column", _EXAMPLE)
    rest = text[operator.end() :]
    values = tuple(part.replace(r"\|", "|").strip() for part in re.split(r"(?<!\\)\|", rest))
    if not all(values):
        raise FosterError(f"{shown} has no value" if len(values) == 1 else f"{shown} has an empty value", _EXAMPLE)
    if len(values) > 1 and sign not in ("=", "!="):
        raise FosterError(f"{shown}: {sign} takes one value", "give several values to = or != only")
    return Where(text, column, sign, values)


def moments(value: str) -> tuple[int, int] | None:
    """The nanoseconds since 1970 from which and up to which (exclusive) an ISO date lasts: a month, a day or a moment.

    None for text that is no date.
    """
    date = _DATE.fullmatch(value)
    if date is None:
        return None
    try:
        start = int(read_times(pd.Series([value], dtype=object)).order[0])
    except FosterError:
        return None
    if date["clock"]:
        return start, start + 1
    unit = "D" if value.count("-") == 2 else "M"
    after = np.datetime64(start, "ns").astype(f"datetime64[{unit}]") + 1
    return start, int(after.astype("datetime64[ns]").astype(np.int64))


class _Compared:
    """A column in comparison with values: its numbers as they are, its text by the distinct values."""

    def __init__(self, series: pd.Series) -> None:
        self._series = series
        kind = series.dtype
        self.is_dates = pd.api.types.is_datetime64_any_dtype(kind)
        self._is_number = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_unsigned_integer_dtype(kind)
        if self._is_number or self.is_dates:
            self.present: Bool = ~series.isna().to_numpy(bool)
            return
        self._codes, texts = factorise(series)
        self._texts = np.array([text.strip() for text in texts] + [""], dtype=object)  # the last one is for code -1
        self._filled = np.array([text not in MISSING or text == "-" for text in self._texts], dtype=bool)
        self.present = self._filled[self._codes]

    def equal(self, value: str) -> Bool:
        """The rows (R,) whose value is `value`."""
        lower = value.lower()
        if self._is_number or self.is_dates:
            if not self.is_dates and lower in ("true", "false"):
                return self.number_signs(Decimal(lower == "true")) == 0
            if not self.is_dates and _NUMBER.fullmatch(value):
                return self.number_signs(Decimal(value)) == 0
            found = self._in_time(value)
            return np.zeros(len(self._series), dtype=bool) if found is None else found
        if lower in ("true", "false"):
            meant = _TRUE if lower == "true" else _FALSE
            return self._where(np.array([text.lower() in meant for text in self._texts], dtype=bool))
        same = self._where(self._texts == value)
        if _NUMBER.fullmatch(value):
            same |= self.number_signs(Decimal(value)) == 0
        elif (found := self._in_time(value)) is not None:
            same |= found
        return same

    def _where(self, distinct: Bool) -> Bool:
        return (distinct & self._filled)[self._codes]

    def _in_time(self, value: str) -> Bool | None:
        """The rows in the day or at the moment `value`; None if it is no date or the column holds no times."""
        span = moments(value)
        if span is None:
            return None
        try:
            times = read_times(self._series)
        except FosterError:
            return None
        return times.good & (times.order >= span[0]) & (times.order < span[1])

    def number_signs(self, value: Decimal) -> Signs:
        """How each row (R,) compares with a number: exactly, also beyond 2^53."""
        if not self._is_number:
            return _text_signs(self._texts, self._filled, value)[self._codes]
        signs = np.full(len(self._series), _NONE, dtype=np.int8)
        if pd.api.types.is_integer_dtype(self._series.dtype):
            integers = self._series.to_numpy(np.int64, na_value=0)[self.present]
            signs[self.present] = _integer_signs(integers, value)
        else:  # a float means its shortest decimal, so that 0.1 is equal to 0.1
            numbers = self._series.to_numpy(np.float64, na_value=np.nan)[self.present]
            signs[self.present] = _float_signs(numbers, float(value))
        return signs


def _float_signs(numbers: npt.NDArray[np.float64], value: float) -> Signs:
    return (numbers > value).astype(np.int8) - (numbers < value).astype(np.int8)


def _integer_signs(integers: npt.NDArray[np.int64], value: Decimal) -> Signs:
    if value >= 2**63 or value < -(2**63):
        return np.full(len(integers), -1 if value > 0 else 1, dtype=np.int8)
    floor = int(value.to_integral_value("ROUND_FLOOR"))
    signs = (integers > floor).astype(np.int8) - (integers < floor).astype(np.int8)
    return np.where(signs == 0, -1, signs).astype(np.int8) if floor != value else signs


def _text_signs(texts: npt.NDArray[np.object_], filled: Bool, value: Decimal) -> Signs:
    """How each distinct text (V,) compares with a number."""
    signs = np.full(len(texts), _NONE, dtype=np.int8)
    rows = [i for i in np.flatnonzero(filled).tolist() if _NUMBER.fullmatch(texts[i])]
    signs[rows] = _float_signs(np.array([float(texts[i]) for i in rows]), float(value))
    for i in rows:
        if signs[i] == 0:  # equal as floats
            exact = Decimal(texts[i])
            signs[i] = (exact > value) - (exact < value)
    return signs
