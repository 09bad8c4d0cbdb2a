"""Training windows and evaluation cases of a `Dataset`, as index arrays padded with -1 on the right.

Windows: items (W, L+1); the input is [:, :-1], the target [:, 1:]. Cases: one per held-out interaction with a
history; history (C, L), its length (C,), target (C,), user (C,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.errors import FosterError

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """`items` (W, L+1) int64, right-padded with -1; `lengths` (W,) in 2…L+1."""

    items: Int
    lengths: Int

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: Int) -> Windows:
        """The windows at `index` (B,)."""
        return Windows(self.items[index], self.lengths[index])


@dataclass(frozen=True)
class Cases:
    """Evaluation cases. `row` (C,) is the position of the target in `Dataset.interactions`."""

    history: Int
    lengths: Int
    target: Int
    user: Int
    row: Int

    def __len__(self) -> int:
        return len(self.target)


def _gather(items: Int, starts: Int, lengths: Int, width: int) -> Int:
    """Rows items[start : start + length], right-padded with -1 to `width`."""
    columns = np.arange(width)
    index = starts[:, None] + columns[None, :]
    inside = columns[None, :] < lengths[:, None]
    return np.where(inside, items[np.minimum(index, max(len(items) - 1, 0))], -1)


def _user_starts(user: Int) -> Int:
    """The first row of each row's user. Rows are sorted by user."""
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    return first[np.cumsum(np.r_[True, user[1:] != user[:-1]]) - 1]


def training_windows(data: Dataset, length: int, stride: int | None = None) -> Windows:
    """Sliding windows of at most L+1 training interactions over each user's history (Appendix D.2).

    A history of at most L+1 is one window. A longer one gives a window every `stride` interactions (default L // 2)
    and one that ends with its last interaction. A user with a single training interaction gives none.
    """
    keep = data.interactions.split == SPLITS.index("train")
    start, size = _spans(data.interactions.user[keep], length, stride or max(1, length // 2))
    return Windows(_gather(data.interactions.item[keep], start, size, length + 1), size)


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


def evaluation_cases(data: Dataset, split: str, length: int) -> Cases:
    """One case per interaction of `split` with a history, which is the user's last L interactions before it.

    Raises FosterError if the split has no case.
    """
    user, items = data.interactions.user, data.interactions.item
    begin = _user_starts(user)
    row = np.flatnonzero((data.interactions.split == SPLITS.index(split)) & (np.arange(len(user)) > begin))
    if len(row) == 0:
        raise FosterError(
            f"the {split} split holds no case (an interaction of a user with an earlier one)",
            "give more interactions, or a table without a split column so that foster splits it 8:1:1 by time",
        )
    size = np.minimum(row - begin[row], length)
    return Cases(_gather(items, row - size, size, length), size, items[row], user[row], row)


def seen_items(data: Dataset, cases: Cases) -> tuple[Int, Int]:
    """All earlier items of each case's user: flat `items`, and `offsets` (C+1,)."""
    begin = _user_starts(data.interactions.user)[cases.row]
    size = cases.row - begin
    offsets = np.r_[0, np.cumsum(size)]
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1], size) + np.repeat(begin, size)
    return data.interactions.item[flat], offsets
