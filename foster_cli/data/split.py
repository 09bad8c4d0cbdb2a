"""Sorts interactions by time and splits them into train, valid and test.

In: codes, times and hashes of N interactions, all (N,). Out: orders (permutations of N) and splits (N,) int8,
indices into SPLITS. Nothing here depends on the order of the rows: a hash of (user id, item id, seed) breaks ties
in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.data.columns import factorise
from foster_cli.data.schema import SPLITS
from foster_cli.errors import FosterError

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Int8 = npt.NDArray[np.int8]

#: The names of the splits, as far as they are known.
SPLIT_NAMES = {
    "train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2,
    "0": 0, "1": 1, "2": 2,
}  # fmt: skip


def pair_hash(user: Int64, user_ids: Sequence[str], item: Int64, item_ids: Sequence[str], seed: int) -> UInt64:
    """A hash (N,) of each interaction's (user id, item id, seed), the same in every file, order and run.

    The ids are hashed by SipHash (`pandas.util.hash_array`) with the seed as key, multiplied with distinct
    odd constants, added, and mixed by the finalizer of splitmix64.
    """
    key = f"{seed % 2**64:016x}"
    users = pd.util.hash_array(np.array(user_ids, dtype=object), hash_key=key, categorize=False)
    items = pd.util.hash_array(np.array(item_ids, dtype=object), hash_key=key, categorize=False)
    x = users[user] * np.uint64(0x9E3779B97F4A7C15) + items[item] * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def time_order(time: Int64, ties: UInt64, split: Int8 | None = None) -> npt.NDArray[np.intp]:
    """The permutation that sorts by time and then by hash. If `split` is given, it sorts by split first."""
    return np.lexsort((ties, time) if split is None else (ties, time, split))


def time_split(order: npt.NDArray[np.intp]) -> Int8:
    """Split 8:1:1 by interactions (rounded): the first 80 % of `order` are train, then 10 % valid and 10 % test."""
    n = len(order)
    by_rank = np.full(n, 2, dtype=np.int8)
    by_rank[: (9 * n + 5) // 10] = 1
    by_rank[: (8 * n + 5) // 10] = 0
    split = np.empty(n, dtype=np.int8)
    split[order] = by_rank
    return split


def leave_one_out(order: npt.NDArray[np.intp], user: Int64) -> Int8:
    """Each user's last interaction is for test, the one before for validation; users with fewer than 3 only train.

    `order` sorts by time, `user` (N,) are codes in the order of the rows.
    """
    split = np.zeros(len(user), dtype=np.int8)
    by_user = order[np.argsort(user[order], kind="stable")]
    users = user[by_user]
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    enough = ends[np.bincount(users)[users[ends]] >= 3]
    split[by_user[enough]] = 2
    split[by_user[enough - 1]] = 1
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


def first_of_pairs(user: Int64, item: Int64, time: Int64, split: Int8 | None = None) -> Int64:
    """The earliest row of each (user, item) pair, ascending: earliest by time, or by `split` and then time."""
    pair = user * (int(item.max()) + 1) + item
    order = np.lexsort((time, pair) if split is None else (time, split, pair))
    ordered = pair[order]
    first = np.ones(len(pair), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[first])


def tie_rates(user: Int64, time: Int64) -> tuple[float, float]:
    """The shares of interactions that share their time with another one of the same user, and of any user."""
    order = np.lexsort((time, user))
    users, times = user[order], time[order]
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    everywhere = np.sort(time)
    return _tied(same), _tied(everywhere[1:] == everywhere[:-1])


def _tied(equal_to_last: npt.NDArray[np.bool_]) -> float:
    tied = np.zeros(len(equal_to_last) + 1, dtype=bool)
    tied[1:] |= equal_to_last
    tied[:-1] |= equal_to_last
    return float(tied.mean())


def has_history(user: Int64) -> npt.NDArray[np.bool_]:
    """Whether a row's user has an earlier row, for rows sorted by user. Held-out rows with one are cases."""
    later = np.zeros(len(user), dtype=bool)
    later[1:] = user[1:] == user[:-1]
    return later


def check_split(user: Int64, split: Int8, own: bool) -> None:
    """Raise FosterError unless train has interactions, and valid and test have cases. Rows are sorted by user."""
    if own:
        hint = "give held-out rows to users with earlier ones, or --split-column none to split by time"
    else:
        hint = "give more interactions, or a smaller --k-core"
    if not (split == 0).any():
        raise FosterError("the split leaves no train interactions", hint)
    history = has_history(user)
    for position in (1, 2):
        if own and not (split == position).any():
            raise FosterError(
                f"the split leaves no {SPLITS[position]} cases: none of the interactions is for {SPLITS[position]}",
                "give those too, or --split-column none to split all of them by time",
            )
        if not ((split == position) & history).any():
            raise FosterError(
                f"the split leaves no {SPLITS[position]} cases: no interaction in {SPLITS[position]} has an "
                "earlier one of the same user",
                hint,
            )
