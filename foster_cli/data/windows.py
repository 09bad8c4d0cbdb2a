"""Training windows and evaluation cases of a `Dataset`, as index arrays padded with -1 on the right.

Windows: items (W, L+1); the input is [:, :-1], the target [:, 1:]. Cases: held-out interactions with a history, all of
them or one per user; history (C, L), its length (C,), target (C,), user (C,), and what the ranking leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foster_cli.data.rows import empty_rows, release
from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.errors import FosterError
from foster_cli.settings import RankingConfig

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
#: The items that each of C cases leaves out of its ranking: flat items, and offsets (C+1,).
Seen = tuple[Int, Int]
#: Items that a user already has are left out of the ranking if fewer than one in this many training interactions is of
#: such an item.
RARE = 100
#: Windows, or cases, that are made at once.
_PART = 1 << 14
#: Which held-out interactions are ranked: all of a split, or each user's first or last one in it.
CASES = ("all", "first", "last")


@dataclass(frozen=True)
class Windows:
    """`items` (W, L+1) int64, right-padded with -1; `lengths` (W,) in 2…L+1. `first` (W,): the first position whose
    next item is a target; None: 0. Overlapping windows have no target twice. `age` (W,) in 0…1: the share of all
    windows that end later; None: 0."""

    items: Int
    lengths: Int
    first: Int | None = None
    age: Float | None = None

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: Int) -> Windows:
        """The windows at `index` (B,)."""
        first = None if self.first is None else self.first[index]
        age = None if self.age is None else self.age[index]
        return Windows(self.items[index], self.lengths[index], first, age)

    def alone(self) -> Windows:
        """The same windows, each with all its targets and of no age, as if there were no others."""
        return Windows(self.items, self.lengths)


@dataclass(frozen=True)
class Protocol:
    """How held-out interactions are ranked, in validation as in the test. `mask_seen`: items that the user already has
    are left out, except the target. `cases`: `all` of a split, or each user's `first` or `last` one in it."""

    mask_seen: bool = False
    cases: str = "all"


@dataclass(frozen=True)
class Cases:
    """Evaluation cases. `row` (C,) is the position of the target in `Dataset.interactions`. `seen`: the items that the
    ranking leaves out, in any order and perhaps repeated; None: no item. `new_share`: the share of targets that do not
    occur in training which is expected in the test (`expected_new`)."""

    history: Int
    lengths: Int
    target: Int
    user: Int
    row: Int
    seen: Seen | None = None
    new_share: float | None = None

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: Int) -> Cases:
        """The cases at `index` (B,), in its order."""
        seen = None if self.seen is None else _take_rows(*self.seen, index)
        return Cases(
            self.history[index], self.lengths[index], self.target[index], self.user[index], self.row[index], seen,
            self.new_share,
        )  # fmt: skip


def _take_rows(items: Int, offsets: Int, index: Int) -> Seen:
    """Rows `index` (B,) of ragged rows: flat `items`, and `offsets` (rows + 1,)."""
    return _spans_of(items, offsets[index], offsets[index + 1] - offsets[index])


def _spans_of(items: Int, begin: Int, size: Int) -> Seen:
    """The pieces items[begin : begin + size] one after another, and their offsets; `begin` and `size` are (B,)."""
    offsets = np.r_[0, np.cumsum(size)]
    found = empty_rows(int(offsets[-1]), np.int64)
    for rows in _parts(len(begin)):
        low, high = offsets[rows.start], offsets[rows.stop]
        found[low:high] = items[np.arange(low, high) + np.repeat(begin[rows] - offsets[:-1][rows], size[rows])]
        release(found)
    return found, offsets


def _gather(items: Int, starts: Int, lengths: Int, width: int) -> Int:
    """Rows items[start : start + length], right-padded with -1 to `width`."""
    columns = np.arange(width)
    found = empty_rows(len(starts) * width, np.int64).reshape(-1, width)
    for rows in _parts(len(starts)):
        index = starts[rows, None] + columns[None, :]
        inside = columns[None, :] < lengths[rows, None]
        found[rows] = np.where(inside, items[np.minimum(index, max(len(items) - 1, 0))], -1)
        release(found)
    return found


def _parts(size: int) -> Iterator[slice]:
    """0 to `size` in parts whose windows or histories fit into memory."""
    for begin in range(0, size, _PART):
        yield slice(begin, min(begin + _PART, size))


def _user_starts(user: Int) -> Int:
    """The first row of each row's user. Rows are sorted by user."""
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    return first[np.cumsum(np.r_[True, user[1:] != user[:-1]]) - 1]


def training_windows(data: Dataset, length: int, stride: int | None = None) -> Windows:
    """Sliding windows of at most L+1 training interactions over each user's history (Appendix D.2).

    A history of at most L+1 is one window. A longer one gives a window every `stride` interactions (default L // 2)
    and one that ends with its last interaction. A user with a single training interaction gives none.
    An interaction in several windows is the target of the first one alone: there it follows on most of its history.
    """
    keep = data.interactions.split == SPLITS.index("train")
    user = data.interactions.user[keep]
    start, size = _spans(user, length, stride or max(1, length // 2))
    before = np.r_[0, (start + size)[:-1]]  # where the window before ends; below `start` if it is another user's
    first = np.maximum(before - start - 1, 0)
    end = data.interactions.time[keep][start + size - 1]
    age = 1.0 - np.searchsorted(np.sort(end), end, side="right") / len(end)
    return Windows(_gather(data.interactions.item[keep], start, size, length + 1), size, first, age)


def window_users(data: Dataset, length: int, stride: int | None = None) -> Int:
    """The user (W,) of each window of `training_windows`."""
    user = data.interactions.user[data.interactions.split == SPLITS.index("train")]
    return user[_spans(user, length, stride or max(1, length // 2))[0]]


def _spans(user: Int, length: int, stride: int) -> tuple[Int, Int]:
    """First row and length (W,) of each window over rows sorted by user. Raises FosterError if there is none."""
    if len(user) == 0:
        raise FosterError(
            "no training interactions", "check the split column, or leave it out with --split-column none"
        )
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    count = np.diff(np.r_[first, len(user)])
    starts, lengths = [], []
    short = (count >= 2) & (count <= length + 1)
    starts.append(first[short])
    lengths.append(count[short])
    for begin, total in zip(first[count > length + 1], count[count > length + 1], strict=True):
        offsets = np.unique(np.r_[np.arange(0, total - length, stride), total - length - 1])
        starts.append(begin + offsets)
        lengths.append(np.full(len(offsets), length + 1))
    start, size = np.concatenate(starts), np.concatenate(lengths)
    order = np.argsort(start, kind="stable")
    start, size = start[order], size[order]
    if len(start) == 0:
        raise FosterError("no user has two training interactions", "give longer histories, or a lower --k-core")
    return start, size


def evaluation_cases(data: Dataset, split: str, length: int, protocol: Protocol = Protocol()) -> Cases:
    """The cases of `split`: its interactions with a history, which is the user's last L interactions before it.

    `protocol`: all of them or one per user, and whether they leave out what the user already has. Raises FosterError if
    the split has no case.
    """
    user, items = data.interactions.user, data.interactions.item
    begin = _user_starts(user)
    row = np.flatnonzero((data.interactions.split == SPLITS.index(split)) & (np.arange(len(user)) > begin))
    if len(row) == 0:
        raise FosterError(
            f"the {split} split holds no case (an interaction of a user with an earlier one)",
            "give more interactions, or a table without a split column so that foster splits it 8:1:1 by time",
        )
    if protocol.cases != "all":
        other = user[row][1:] != user[row][:-1]  # than that of the next case, or of the one before
        row = row[np.r_[True, other] if protocol.cases == "first" else np.r_[other, True]]
    size = np.minimum(row - begin[row], length)
    seen = _spans_of(items, begin[row], row - begin[row]) if protocol.mask_seen else None
    share = expected_new(data, row) if split == "valid" else None
    return Cases(_gather(items, row - size, size, length), size, items[row], user[row], row, seen, share)


def expected_new(data: Dataset, rows: Int) -> float:
    """The share of the test's targets that will not occur in training, as expected from those of validation at `rows`.

    The test is later than validation, so more of its items are new. The share is taken to grow as a power g of the
    time since training, 0 <= g <= 1: from validation's earlier half, at 1/4 of its length, to its later half, at 3/4,
    and on to the middle of a test that is as long, at 3/2. No test interaction is read.
    """
    new = training_counts(data)[data.interactions.item[rows]] == 0
    new = new[np.argsort(data.interactions.time[rows], kind="stable")]
    half = len(new) // 2
    if half == 0:
        return float(new.mean())
    early, late = float(new[:half].mean()), float(new[half:].mean())
    if late <= early:
        return float(new.mean())
    power = min(1.0, float(np.log(late / early) / np.log(3.0))) if early > 0 else 1.0
    return min(1.0, late * 2.0**power)


def _repeats(data: Dataset) -> tuple[int, int]:
    """The number of training interactions with an item that the user had in training before, and of all of them."""
    train = data.interactions.split == SPLITS.index("train")
    pair = data.interactions.user[train] * len(data.catalogue) + data.interactions.item[train]
    return len(pair) - len(np.unique(pair)), len(pair)


def repeat_share(data: Dataset) -> float:
    """The share of training interactions with an item that the user had in training before; 0 without any."""
    repeats, total = _repeats(data)
    return repeats / max(1, total)


def protocol_of(data: Dataset, config: RankingConfig) -> Protocol:
    """The protocol of `config`. If it does not say so, items that a user already has are left out where fewer than 1 %
    of the training interactions repeat one."""
    if config.mask_seen is not None:
        return Protocol(config.mask_seen, config.cases)
    repeats, total = _repeats(data)
    return Protocol(RARE * repeats < total, config.cases)


def training_counts(data: Dataset) -> Int:
    """(n,): the number of training interactions of each item."""
    train = data.interactions.split == SPLITS.index("train")
    return np.bincount(data.interactions.item[train], minlength=len(data.catalogue))
