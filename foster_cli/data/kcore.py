"""The k-core: a mask (N,) of interactions (N,) under which every remaining user and item has at least k."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def k_core(user: Int64, item: Int64, k: int) -> npt.NDArray[np.bool_]:
    """The mask (N,) of the k-core: users and items with fewer than k rows are removed until there are none.

    `user` and `item` are codes from 0; each (user, item) pair should occur once. The result is the unique
    largest k-core, so the order of removal does not matter.
    """
    rows = np.arange(len(user))
    while len(rows):
        users, items = user[rows], item[rows]
        keep = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if keep.all():
            break
        rows = rows[keep]
    mask = np.zeros(len(user), dtype=bool)
    mask[rows] = True
    return mask


def largest_core(user: Int64, item: Int64) -> int:
    """The largest k with a non-empty k-core, by binary search (cores are nested). 0 without interactions."""
    if not len(user):
        return 0
    low, high = 1, int(min(np.bincount(user).max(), np.bincount(item).max()))
    while low < high:
        middle = (low + high + 1) // 2
        mask = k_core(user, item, middle)
        if mask.any():
            user, item, low = user[mask], item[mask], middle
        else:
            high = middle - 1
    return low
