"""Order and split depend on the interactions alone, follow time, and count 8:1:1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.split import (
    check_split,
    first_of_pairs,
    leave_one_out,
    pair_hash,
    read_split,
    tie_rates,
    time_order,
    time_split,
)
from foster_cli.errors import FosterError

_events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)),
    min_size=1,
    max_size=60,
    unique_by=lambda e: e[:2],
)


def _columns(events: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(events, dtype=np.int64)
    return table[:, 0], table[:, 1], table[:, 2]


def _named(codes: np.ndarray, letter: str, order: list[int]) -> tuple[np.ndarray, list[str]]:
    """The same ids under another numbering."""
    place = np.argsort(order)
    return place[codes], [f"{letter}{i}" for i in order]


@given(_events, st.permutations(range(7)), st.randoms(use_true_random=False))
def test_split_is_independent_of_row_order_and_numbering(
    events: list[tuple[int, int, int]], numbering: list[int], random: object
) -> None:
    results = []
    for rows, order in ((events, list(range(7))), (list(events), numbering)):
        if order is numbering:
            random.shuffle(rows)  # type: ignore[attr-defined]
        user, item, time = _columns(rows)
        ties = pair_hash(*_named(user, "u", order), *_named(item, "i", order), seed=3)
        split = time_split(time_order(time, ties)).tolist()
        sequence = [rows[j] for j in time_order(time, ties)]
        results.append((dict(zip(rows, split, strict=True)), sequence))
    assert results[0] == results[1]


@given(_events)
def test_split_counts_and_time(events: list[tuple[int, int, int]]) -> None:
    user, item, time = _columns(events)
    names = [str(i) for i in range(7)]
    split = time_split(time_order(time, pair_hash(user, names, item, names, 0)))
    n = len(events)
    assert abs((split == 0).sum() - 0.8 * n) <= 0.5
    assert abs((split == 2).sum() - 0.1 * n) <= 0.5
    for early, late in ((0, 1), (1, 2), (0, 2)):
        if (split == early).any() and (split == late).any():
            assert time[split == early].max() <= time[split == late].min()


def test_seed_and_ids_change_the_order_of_ties() -> None:
    user = np.arange(200)
    item = np.zeros(200, dtype=np.int64)
    users = [f"u{i}" for i in range(200)]
    orders = [
        time_order(item, pair_hash(user, users, item, [name], seed)).tolist()
        for name, seed in (("i", 0), ("i", 1), ("j", 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    swapped = pair_hash(item, ["i"], user, users, 0)
    assert (swapped != pair_hash(user, users, item, ["i"], 0)).all()


def test_hash_is_the_same_in_every_run() -> None:
    # Written down once: a change would silently move ties between splits of published results.
    first = np.array([0])
    assert pair_hash(first, ["u1"], first, ["é"], 0).tolist() == [14432400937904368482]
    assert pair_hash(first, ["u1"], first, ["é"], -1).tolist() == [299826968260976820]


def test_duplicates_keep_the_earliest() -> None:
    user = np.array([0, 0, 1, 0])
    item = np.array([5, 5, 5, 6])
    time = np.array([9, 3, 1, 0])
    assert first_of_pairs(user, item, time).tolist() == [1, 2, 3]
    own = np.array([0, 2, 0, 0], dtype=np.int8)
    assert first_of_pairs(user, item, time, own).tolist() == [0, 2, 3]


def test_tie_rates_by_hand() -> None:
    user = np.array([0, 0, 0, 1, 1])
    time = np.array([4, 4, 5, 5, 6])
    assert tie_rates(user, time) == (2 / 5, 4 / 5)
    assert tie_rates(np.array([0]), np.array([0])) == (0.0, 0.0)


def test_split_names() -> None:
    values = pd.Series(["train", "TEST", "Validation", "val", "dev", " valid", "0", "1", "2"], name="split")
    split, unknown = read_split(values)
    assert split.tolist() == [0, 2, 1, 1, 1, 1, 0, 1, 2] and not unknown


def test_unknown_splits_are_told() -> None:
    split, unknown = read_split(pd.Series(["train", "holdout", None, ""], name="fold"))
    assert split.tolist() == [0, -1, -1, -1] and unknown == {1: "holdout", 2: "", 3: ""}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40))
def test_leave_one_out_is_each_users_end(rows: list[tuple[int, int]]) -> None:
    user, time = (np.array(column) for column in zip(*rows, strict=True))
    order = np.lexsort((np.arange(len(user)), time))
    split = leave_one_out(order, user)
    for u in set(user.tolist()):
        mine = [split[i] for i in order if user[i] == u]
        ends = [1, 2] if len(mine) > 2 else [0] * len(mine)
        assert mine == [0] * (len(mine) - len(ends)) + ends


@pytest.mark.parametrize(
    ("user", "split", "words"),
    [
        ([0, 0, 0], [1, 1, 2], "no train interactions"),
        ([0, 0, 1], [0, 2, 1], "no valid cases"),
        ([0, 0, 1], [0, 1, 2], "no test cases"),
    ],
)
def test_split_without_cases(user: list[int], split: list[int], words: str) -> None:
    for own in (True, False):
        with pytest.raises(FosterError, match=words):
            check_split(np.array(user), np.array(split, dtype=np.int8), own)
