"""Takes rows of interactions from the tables into a `Plan`, chunk by chunk.

    chunk (R rows) --ids, times, split--> good rows --where--> codes and moments --> Plan.rows; texts --> Plan.texts

How a column is written, such as the notation of its times, is decided in each chunk. Where two chunks disagree, or one
cannot be decided alone, all rows are taken again as one chunk, which takes the memory of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.account import Account, bad_rows, check_bad
from foster_cli.data.ahead import ahead
from foster_cli.data.columns import arrow_text
from foster_cli.data.ids import SUSPECTS, IdCoder
from foster_cli.data.plan import Plan
from foster_cli.data.readers import ORDER, Bad, Read
from foster_cli.data.readers.arrow import flat
from foster_cli.data.split import read_split
from foster_cli.data.tables import Tables
from foster_cli.data.times import Times, read_times
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
T = TypeVar("T")
#: Hears what is being done.
Progress = Callable[[str], None]


def silent(text: str) -> None:
    """Hear what is being done, and say nothing."""


@dataclass
class Ingested:
    """What the rows of `plan` are: their ids as `users` and `items` number them; `fine`: of the times (`Timeline`);
    the `bad` rows; the names of the `texts` columns of the plan; `account`: of the rows until now."""

    plan: Plan
    account: Account
    users: IdCoder
    items: IdCoder
    texts: list[str]
    fine: int = 0
    bad: list[Bad] = field(default_factory=list)


@dataclass(frozen=True)
class _Taken:
    """Of a chunk: the columns of its rows that go on, in the plan's codes; their texts; how many rows were good."""

    rows: dict[str, npt.NDArray[Any]]
    texts: list[pa.Array]
    good: int


class _Undecided(Exception):
    """A chunk does not tell alone how a column is written."""


def ingest(
    tables: Tables, settings: PrepareSettings, memory: int | None = None, progress: Progress = silent
) -> Ingested:
    """The usable rows of the interactions, in a plan that the caller ends.

    Raises FosterError if no row can be read, or more than 1 % cannot.
    """
    chunks = ahead(tables.chunks())
    begin = list(islice(chunks, 2))
    try:
        return _Ingestion(tables, settings, memory, len(begin) == 1, progress).all(chain(begin, chunks))
    except _Undecided:
        return _Ingestion(tables, settings, memory, True, progress).all(tables.chunks(whole=True))


class _Ingestion:
    """One pass over the chunks; `alone`: there is but one, which has all rows."""

    def __init__(
        self, tables: Tables, settings: PrepareSettings, memory: int | None, alone: bool, progress: Progress
    ) -> None:
        self._tables, self._settings, self._alone, self._progress = tables, settings, alone, progress
        self._columns = columns = tables.columns
        self._written: str | None = None
        texts = list(dict.fromkeys([*columns.text, *([columns.title] if columns.title else [])]))
        texts = texts if tables.items is None else []
        within = columns.time is not None and tables.ordered
        plan = Plan(within, columns.split is not None, len(texts), memory)
        self._found = Ingested(plan, Account(notes=list(tables.notes)), IdCoder("user"), IdCoder("item"), texts)
        self._rows = 0
        self._suspects = {(what, name): 0 for what in ("user", "item") for name in SUSPECTS}

    def all(self, chunks: Iterator[Read]) -> Ingested:
        """Take all chunks: one is read, and one looked at, while the database takes in the one before."""
        found, good = self._found, 0
        account = found.account
        try:
            for taken in ahead(self._taken(read) for read in chunks):
                found.plan.add(taken.rows)
                for i, text in enumerate(taken.texts):
                    found.plan.add_texts(i, taken.rows["item"], text, taken.rows["moment"])
                good += taken.good
                self._progress(f"{account.read:,} rows read")
            self._note()
            account.bad = len(found.bad)
            check_bad(found.bad, account.read, "of the interactions", self._settings.allow_bad)
            if not good:
                raise FosterError("no row of the interactions can be read", "mend them")
        except BaseException:
            found.plan.__exit__(None, None, None)
            raise
        return found

    def _taken(self, read: Read) -> _Taken:
        """The rows of a chunk that go on."""
        frame, columns, found = read.frame, self._columns, self._found
        account = found.account
        begin, self._rows = self._rows, self._rows + len(frame)
        account.read += len(frame) + len(read.bad)
        user, why_user = self._decided(lambda: found.users.add(frame[columns.user]))
        item, why_item = self._decided(lambda: found.items.add(frame[columns.item]))
        reasons = dict[int, tuple[str, str]]()
        for why, column in ((why_user, columns.user), (why_item, columns.item)):
            reasons |= {row: (f"(column {clean(column)}) {text}", "") for row, text in why.items()}
        for what, coder, codes in (("user", found.users, user), ("item", found.items, item)):
            for name in SUSPECTS:
                self._suspects[what, name] += coder.count(name, codes)
        good = (user >= 0) & (item >= 0)
        rows: dict[str, npt.NDArray[Any]] = {"user": user, "item": item}
        rows |= self._moments(frame, begin, good, reasons)
        if columns.split is not None:
            rows["split"], unknown = read_split(frame[columns.split])
            reasons |= {row: (f"(column {clean(columns.split)}) is no split", text) for row, text in unknown.items()}
            good &= rows["split"] >= 0
        found.bad += [*read.bad, *bad_rows(read, reasons)]
        asked = good.copy()
        for where in self._tables.wheres.own:
            asked &= self._decided(lambda where=where: where.mask(frame[where.column]))  # type: ignore[misc]
        account.filtered += int((good & ~asked).sum())
        if not asked.all():
            rows = {name: column[asked] for name, column in rows.items()}
        texts = [arrow_text(frame[name] if asked.all() else frame[name][asked]) for name in found.texts]
        return _Taken(rows, texts, int(good.sum()))

    def _moments(
        self, frame: pd.DataFrame, begin: int, good: Bool, reasons: dict[int, tuple[str, str]]
    ) -> dict[str, Int64]:
        """The moments (R,) by which rows are ordered, and `within` where that is known; `good` and `reasons` of bad
        ones are changed. `begin`: the rows before."""
        own = frame[ORDER].to_numpy(np.int64) if ORDER in frame.columns else None
        name = self._columns.time
        if name is None:
            return {"moment": begin + np.arange(len(frame)) if own is None else own}
        times = self._decided(lambda: read_times(frame[name]))
        self._same(times)
        for row in np.flatnonzero(~times.good).tolist():
            shown = flat(frame[name].iloc[row])
            why = "is empty" if shown is None or not shown.strip() else "is no time"
            reasons.setdefault(row, (f"(column {clean(name)}) {why}", (shown or "").strip()))
        good &= times.good
        return {"moment": times.order} if own is None else {"moment": times.order, "within": own}

    def _same(self, times: Times) -> None:
        if self._written not in (None, times.what):
            raise _Undecided
        self._written, self._found.fine = times.what, max(self._found.fine, times.fine)

    def _decided(self, what: Callable[[], T]) -> T:
        """What a column of the chunk says, as all of its rows would."""
        try:
            return what()
        except FosterError as error:
            if self._alone:
                raise
            raise _Undecided from error

    def _note(self) -> None:
        account, columns = self._found.account, self._columns
        for (what, name), count in self._suspects.items():
            column = columns.user if what == "user" else columns.item
            if count:
                account.notes.append(
                    f"{count:,} rows have the {what} id {name}; if that is a missing id: "
                    f"--where '{clean(column)}!={name}'"
                )
        if columns.time is None:
            account.notes.append("no times: rows are in the order in which they happened")
        else:
            account.notes.append(f"times are read as {self._written}")
