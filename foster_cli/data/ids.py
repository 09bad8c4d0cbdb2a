"""Numbers the ids of users or items, chunk by chunk.

In: the series of R rows of a column of ids, one after the other. Out: `IdCoder.names`, the distinct ids, and codes (R,)
into them; `IdCoder.finish` joins the ids that are the same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.columns import factorise
from foster_cli.errors import FosterError
from foster_cli.settings import MOST_TITLE

Int64 = npt.NDArray[np.int64]

#: A whole number, as text or as a floating number writes it.
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?$")
#: What stands for a missing id.
_NO_ID = ("", "\\N")
#: Ids that may stand for a missing one: they are ids, and a note tells of them.
SUSPECTS = ("nan", "NaN", "null", "NULL", "None", "<NA>")


@dataclass(frozen=True)
class Ids:
    """The ids of R rows: `codes` (R,) into `names`, -1 for a row without a usable id; `reason` why it has none."""

    codes: Int64
    names: list[str]
    reasons: dict[int, str]


class IdCoder:
    """The ids seen so far: `names`, text without blanks at the ends. `what`: "user" or "item", for messages."""

    def __init__(self, what: str) -> None:
        self.names: list[str] = []
        self._what = what
        self._code: dict[str, int] = {}

    def add(self, series: pd.Series) -> tuple[Int64, dict[int, str]]:
        """Codes (R,) into `names`, and why the rows of code -1 have none: their id is missing, blank or longer than
        `MOST_TITLE`. Raises FosterError for floating numbers of 2^53 and more, which may be others than were meant."""
        codes, values = self._values(series)
        found = list(map(self._code.get, values))
        for i in [i for i, code in enumerate(found) if code is None]:
            found[i] = self._new(values[i])
        coded = np.array([*found, -1], dtype=np.int64)[codes]
        empty = np.array([value.strip() in _NO_ID for value in values] + [True]) if (coded < 0).any() else None
        reasons = {} if empty is None else {row: self._why(bool(empty[codes[row]])) for row in _rows(coded < 0)}
        return coded, reasons

    def count(self, name: str, codes: Int64) -> int:
        """How many of `codes` (R,) are those of the id `name`."""
        code = self._code.get(name)
        return 0 if code is None else int((codes == code).sum())

    def finish(self) -> tuple[list[str], Int64]:
        """The distinct ids, and the place of each of `names` among them: where all are whole numbers, `1.0` is `1`.

        No more ids can be added.
        """
        self._code.clear()
        if not all(_WHOLE.match(name) for name in self.names):
            return self.names, np.arange(len(self.names))
        place: dict[str, int] = {}
        merged = np.array([place.setdefault(name.split(".")[0], len(place)) for name in self.names], dtype=np.int64)
        return list(place), merged

    def _values(self, series: pd.Series) -> tuple[Int64, list[str]]:
        if isinstance(series.dtype, pd.CategoricalDtype):
            series = series.cat.remove_unused_categories()
        if not pd.api.types.is_float_dtype(series.dtype):
            return factorise(series)
        numbers = series.to_numpy(np.float64, na_value=np.nan)
        large = np.abs(np.nan_to_num(numbers, posinf=0, neginf=0)) >= 2**53
        if large.any():
            raise FosterError(
                f"column {clean(series.name)}, row {int(large.argmax()) + 1}: the {self._what} ids are floating "
                "numbers of 2^53 and more, which are not exact",
                "store them as integers or text",
            )
        codes, found = pd.factorize(numbers)
        return np.asarray(codes, dtype=np.int64), [str(value) for value in found.tolist()]

    def _new(self, value: str) -> int:
        name = value.strip()
        if name in _NO_ID or len(name) > MOST_TITLE:
            return -1
        code = self._code.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code

    def _why(self, empty: bool) -> str:
        if empty:
            return f"has no {self._what} id"
        article = "an" if self._what[0] in "aeiou" else "a"
        return f"has {article} {self._what} id of more than {MOST_TITLE:,} characters"


def _rows(mask: npt.NDArray[np.bool_]) -> list[int]:
    return [int(row) for row in np.flatnonzero(mask)]


def encode_ids(series: pd.Series, what: str) -> Ids:
    """The ids of a whole column. Raises FosterError as `IdCoder.add`."""
    coder = IdCoder(what)
    codes, reasons = coder.add(series)
    names, merged = coder.finish()
    return Ids(np.append(merged, -1)[codes], names, reasons)
