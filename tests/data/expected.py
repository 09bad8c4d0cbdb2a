"""What a prepared dataset must hold: duplicates, k-core, order and split, made by loops from the rows of files."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from foster_cli.data.schema import SPLITS, Dataset


class Row(NamedTuple):
    """An interaction: ids as text, `time` in seconds, what sorts equal times, and a split of its own."""

    user: str
    item: str
    time: float
    within: int = 0
    split: str = ""


Rows = list[Row]


def core(rows: Rows, k: int) -> Rows:
    """The k-core of rows without duplicates."""
    while True:
        users, items = Counter(row.user for row in rows), Counter(row.item for row in rows)
        left = [row for row in rows if users[row.user] >= k and items[row.item] >= k]
        if len(left) == len(rows):
            return left
        rows = left


def first(rows: Rows) -> Rows:
    """The earliest row of each pair of user and item."""
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=_place):
        found.setdefault((row.user, row.item), row)
    return list(found.values())


def _place(row: Row) -> tuple[int, float, int]:
    return (SPLITS.index(row.split) if row.split else 0, row.time, row.within)


def _sequences(rows: Rows) -> dict[str, list[Row]]:
    """The rows of each user in order."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_place):
        found.setdefault(row.user, []).append(row)
    return found


def check(data: Dataset, rows: Rows, k: int, by: str) -> None:
    """Compare a dataset with the rows of its files. Rows of a user at the same time may be in either order."""
    kept = core(first(rows), k)
    assert data.user_ids == sorted({row.user for row in kept})
    assert data.catalogue.ids == sorted({row.item for row in kept})
    found = data.interactions
    told: dict[str, list[tuple[str, float, str]]] = {}
    for user, item, time, split in zip(found.user, found.item, found.time, found.split, strict=True):
        told.setdefault(data.user_ids[user], []).append((data.catalogue.ids[item], time / 1000, SPLITS[split]))
    for user, mine in _sequences(kept).items():
        theirs = told[user]
        if by != "leave-one-out":
            assert [time for _, time, _ in theirs] == pytest.approx([row.time for row in mine], abs=1e-3)
        if len({(row.time, row.within) for row in mine}) == len(mine):
            assert [item for item, _, _ in theirs] == [row.item for row in mine]
        else:
            assert sorted(item for item, _, _ in theirs) == sorted(row.item for row in mine)
        if mine[0].split:
            assert [split for _, _, split in theirs] == [row.split for row in mine]
        elif by == "leave-one-out":
            last = ["valid", "test"] if len(mine) > 2 else ["train"] * len(mine)
            assert [split for _, _, split in theirs] == ["train"] * (len(mine) - len(last)) + last
    if by == "time" and not rows[0].split:
        n = len(kept)
        ends = [(8 * n + 5) // 10, (9 * n + 5) // 10]
        assert [sum(found.split == s) for s in range(3)] == [ends[0], ends[1] - ends[0], n - ends[1]]
        assert found.time[found.split == 0].max() <= found.time[found.split == 2].min()
    account = data.statistics["rows"]
    assert account["read"] == len(rows) and account["kept"] == len(kept)
    gone = account["bad"] + account["filtered"] + account["duplicates"] + account["cut_by_k_core"]
    assert account["read"] == account["kept"] + gone
