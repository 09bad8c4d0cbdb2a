"""Splits interactions into train, valid and test.

In: batches of interactions that are sorted by a `Plan`. Out: what divides them, and splits (R,) int8, indices into
SPLITS. Nothing here depends on the order of the rows: a hash of (user id, item id, seed) breaks ties in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.data.columns import factorise
from foster_cli.data.schema import SPLITS
from foster_cli.errors import FosterError

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Int8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]

#: The names of the splits, as far as they are known.
SPLIT_NAMES = {
    "train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2,
    "0": 0, "1": 1, "2": 2,
}  # fmt: skip


class PairHash:
    """A hash of (user id, item id, seed), the same in every file, order and run.

    The ids are hashed by SipHash (`pandas.util.hash_array`) with the seed as key, multiplied with distinct
    odd constants, added, and mixed by the finalizer of splitmix64.
    """

    def __init__(self, user_ids: Sequence[str], item_ids: Sequence[str], seed: int) -> None:
        key = f"{seed % 2**64:016x}"
        self._users, self._items = (
            pd.util.hash_array(np.array(ids, dtype=object), hash_key=key, categorize=False)
            for ids in (user_ids, item_ids)
        )

    def of(self, user: Int64, item: Int64) -> UInt64:
        """The hashes (R,) of pairs, each an index of a user id and one of an item id (R,)."""
        x = self._users[user] * np.uint64(0x9E3779B97F4A7C15) + self._items[item] * np.uint64(0xC2B2AE3D27D4EB4F)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return np.asarray(x, dtype=np.uint64)


def time_bounds(n: int) -> tuple[int, int]:
    """The sizes of train, and of train and valid, of n interactions: 8:1:1, rounded."""
    return (8 * n + 5) // 10, (9 * n + 5) // 10


@dataclass(frozen=True)
class Moment:
    """A place in the order of all interactions: the first at `key`, by name of the column, or one among those there.

    `before`: how many of the interactions at `key` come before it.
    """

    key: dict[str, int]
    before: int


def places(sorted_moments: Iterable[Mapping[str, npt.NDArray[Any]]], at: Sequence[int]) -> tuple[list[Moment], int]:
    """The moments of the interactions number `at` (rising) of all, and how many interactions share theirs with others.

    `sorted_moments`: batches of the columns of all moments, sorted. A number beyond the end has no moment.
    """
    found, tied, count = list[Moment](), 0, 0
    run, last = 0, dict[str, int]()  # how many of those so far are at the last moment
    for batch in sorted_moments:
        size = len(next(iter(batch.values())))
        new = np.ones(size, dtype=bool)
        new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in batch.values()])
        goes_on = bool(last) and all(int(batch[name][0]) == value for name, value in last.items())
        new[0] = not goes_on
        starts = np.flatnonzero(new)
        first = starts[0] if len(starts) else size
        lengths = np.diff(starts, append=size)
        if goes_on:
            tied += _tied(run + first) - _tied(run)
        tied += int(lengths[lengths > 1].sum())
        while len(found) < len(at) and at[len(found)] < count + size:
            row = at[len(found)] - count
            run_start = starts[np.searchsorted(starts, row, side="right") - 1] if row >= first else -run
            found.append(Moment({name: int(column[row]) for name, column in batch.items()}, int(row - run_start)))
        run = int(lengths[-1]) if len(starts) else run + size
        last = {name: int(column[-1]) for name, column in batch.items()}
        count += size
    return found, tied


def _tied(run: int) -> int:
    return run if run > 1 else 0


@dataclass(frozen=True)
class Cut:
    """What divides interactions in time: those at an earlier moment than `key` are before it, and of those at `key`,
    the ones whose hash is below `tie`."""

    key: dict[str, int]
    tie: int

    def before(self, columns: Mapping[str, npt.NDArray[Any]], hashes: PairHash) -> Bool:
        """Which of R interactions are before it. `columns`: user and item as `hashes` numbers them, and the moments."""
        earlier = np.zeros(len(columns["user"]), dtype=bool)
        equal = ~earlier
        for name, value in self.key.items():
            earlier |= equal & (columns[name] < value)
            equal &= columns[name] == value
        rows = np.flatnonzero(equal)
        earlier[rows] = hashes.of(columns["user"][rows], columns["item"][rows]) < np.uint64(self.tie)
        return earlier


def shared(columns: Sequence[npt.NDArray[Any]]) -> tuple[Bool, Bool]:
    """Of R rows, which are equal to the one before in all `columns`, from the second on (R-1,); and which are equal to
    the one before or after (R,)."""
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return same, np.append(same, False) | np.append(False, same)


def break_ties(columns: Mapping[str, npt.NDArray[Any]], names: Sequence[str], hashes: PairHash) -> Int64 | None:
    """The order (R,) of interactions that are sorted by `names` when their hashes break ties; None: as they are."""
    same, tied = shared([columns[name] for name in names])
    rows = np.flatnonzero(tied)
    if not len(rows):
        return None
    group = np.cumsum(np.append(True, ~same))[rows]
    order = np.arange(len(tied))
    order[rows] = rows[np.lexsort((hashes.of(columns["user"][rows], columns["item"][rows]), group))]
    return order


def leave_one_out(user: Int64) -> Int8:
    """Splits (R,) of interactions sorted by user and time: each user's last one is for test, the one before for
    validation; users with fewer than 3 only train."""
    split = np.zeros(len(user), dtype=np.int8)
    ends = np.flatnonzero(np.append(user[1:] != user[:-1], True))
    enough = ends[np.diff(ends, prepend=-1) >= 3]
    split[enough] = 2
    split[enough - 1] = 1
    return split


def read_split(series: pd.Series) -> tuple[Int8, dict[int, str]]:
    """A table's split column as indices into SPLITS, and the rows that hold none, with what they hold.

    `SPLIT_NAMES` are known, in any case. A row that holds none has the index -1.
    """
    codes, names = factorise(series)
    known = np.array([SPLIT_NAMES.get(name.strip().lower(), -1) for name in names] + [-1], dtype=np.int8)
    split = known[codes]
    rows = np.flatnonzero(split < 0).tolist()
    return split, {row: names[codes[row]] if codes[row] >= 0 else "" for row in rows}


def check_split(interactions: Sequence[int], cases: Sequence[int], own: bool) -> None:
    """Raise FosterError unless train has interactions, and valid and test have cases. Both are given by split."""
    if own:
        hint = "give held-out rows to users with earlier ones, or --split-column none to split by time"
    else:
        hint = "give more interactions, or a smaller --k-core"
    if not interactions[0]:
        raise FosterError("the split leaves no train interactions", hint)
    for position in (1, 2):
        if own and not interactions[position]:
            raise FosterError(
                f"the split leaves no {SPLITS[position]} cases: none of the interactions is for {SPLITS[position]}",
                "give those too, or --split-column none to split all of them by time",
            )
        if not cases[position]:
            raise FosterError(
                f"the split leaves no {SPLITS[position]} cases: no interaction in {SPLITS[position]} has an "
                "earlier one of the same user",
                hint,
            )
