"""Arranges the interactions that a `Plan` gives as arrays (N,), sorted by user and time, and splits and counts them.

    batches sorted by user --whole users--> ties broken, split --> Interactions (N,), and their `Counts`

The arrays of large data are memory-mapped from a temporary file (`rows.py`), so that N is not bounded by the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from foster_cli.data.plan import Columns, Plan
from foster_cli.data.rows import empty_interactions, release
from foster_cli.data.schema import SPLITS, Interactions
from foster_cli.data.split import Cut, PairHash, break_ties, leave_one_out, places, shared, time_bounds
from foster_cli.data.times import milliseconds

Int64 = npt.NDArray[np.int64]
#: In which of the `SPLITS` are held-out interactions.
_HELD_OUT = (1, 2)


@dataclass
class Counts:
    """By split: the numbers of `interactions`, of `users`, of `cases` and the `items` (n,) that occur. `tied`: the
    interactions at the moment of another one of their user; `tied_globally`: of anyone."""

    interactions: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    users: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    cases: list[int] = field(default_factory=lambda: [0] * len(SPLITS))
    items: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    tied: int = 0
    tied_globally: int = 0


@dataclass(frozen=True)
class Timeline:
    """How the N interactions of a plan are numbered and split. `users`, `items`: their sorted codes in the plan, whose
    places are the numbers; `hashes`: of these numbers; `by`: "time", "leave-one-out" or "column"; `fine`: to how many
    nanoseconds moments are rounded before milliseconds are cut off, 0: a moment is the time itself."""

    plan: Plan
    size: int
    users: Int64
    items: Int64
    hashes: PairHash
    by: str
    fine: int

    def arrange(self, progress: Callable[[str], None]) -> tuple[Interactions, Counts]:
        """The interactions, and what they count. `progress` hears how many are arranged."""
        counts = Counts(items=[np.zeros(len(self.items), dtype=bool) for _ in SPLITS])
        cuts, counts.tied_globally = self._cuts()
        found = empty_interactions(self.size)
        end = 0
        for columns in self._whole_users():
            begin, end = end, end + len(columns["user"])
            split = self._arranged(columns, cuts)
            for column, values in (
                (found.user, columns["user"]), (found.item, columns["item"]), (found.split, split),
                (found.time, self._times(columns["moment"])),
            ):  # fmt: skip
                column[begin:end] = values
                release(column)
            _count(columns, split, counts)
            progress(f"{end:,} of {self.size:,} interactions in order")
        return found, counts

    def _cuts(self) -> tuple[list[Cut], int]:
        bounds = time_bounds(self.size)
        moments, tied = places(self.plan.moments(), bounds if self.by == "time" else ())
        cuts = []
        for moment in moments:
            there = self._numbered(self.plan.at(moment.key))
            ties = np.sort(self.hashes.of(there["user"], there["item"]))
            cuts.append(Cut(moment.key, int(ties[moment.before])))
        return cuts, tied

    def _numbered(self, columns: Columns) -> Columns:
        """`columns` with numbers for the codes of users and items."""
        user = np.searchsorted(self.users, columns["user"])
        return {**columns, "user": user, "item": self._place[columns["item"]]}

    @cached_property
    def _place(self) -> Int64:
        """The number of each code of an item, -1 for none."""
        place = np.full(int(self.items[-1]) + 1, -1, dtype=np.int64)
        place[self.items] = np.arange(len(self.items))
        return place

    def _whole_users(self) -> Iterator[Columns]:
        """The sorted interactions, cut between users, with numbers for codes."""
        rest: Columns = {}
        for batch in self.plan.ordered():
            columns = self._numbered(batch)
            if rest:
                columns = {name: np.concatenate([rest[name], column]) for name, column in columns.items()}
            last = int(np.searchsorted(columns["user"], columns["user"][-1]))
            rest = {name: column[last:] for name, column in columns.items()}
            if last:
                yield {name: column[:last] for name, column in columns.items()}
        if rest:
            yield rest

    def _arranged(self, columns: Columns, cuts: list[Cut]) -> npt.NDArray[np.int8]:
        """The splits (R,) of `columns`, in which ties are broken, in place."""
        order = break_ties(columns, [name for name in columns if name != "item"], self.hashes)
        if order is not None:
            for name, column in columns.items():
                columns[name] = column[order]
        if self.by == "column":
            return np.asarray(columns["split"], dtype=np.int8)
        if self.by == "leave-one-out":
            return leave_one_out(columns["user"])
        split = np.full(len(columns["user"]), len(cuts), dtype=np.int8)
        for cut in cuts:
            split -= cut.before(columns, self.hashes)
        return split

    def _times(self, moment: Int64) -> Int64:
        """Milliseconds, rounded down."""
        return moment if self.fine == 0 else milliseconds(moment, self.fine)


def _count(columns: Columns, split: npt.NDArray[np.int8], counts: Counts) -> None:
    """Add R interactions of whole users to `counts`."""
    user = columns["user"]
    first = np.append(True, user[1:] != user[:-1])
    for position in range(len(SPLITS)):
        here = split == position
        counts.interactions[position] += int(here.sum())
        counts.users[position] += int(np.logical_or.reduceat(here, np.flatnonzero(first)).sum())
        counts.items[position][columns["item"][here]] = True
        if position in _HELD_OUT:
            counts.cases[position] += int((here & ~first).sum())
    keys = [user, *(columns[name] for name in ("moment", "within") if name in columns)]
    if "split" in columns:  # sorted by it before the moment
        order = np.lexsort(keys[::-1])
        keys = [key[order] for key in keys]
    counts.tied += int(shared(keys)[1].sum())
