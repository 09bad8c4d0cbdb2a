"""Order and split depend on the interactions alone, follow time, and count 8:1:1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.ingest import silent
from foster_cli.data.plan import Plan
from foster_cli.data.schema import Interactions
from foster_cli.data.split import PairHash, check_split, leave_one_out, places, read_split
from foster_cli.data.timeline import Counts, Timeline
from foster_cli.errors import FosterError

_events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)),
    min_size=1,
    max_size=60,
    unique_by=lambda e: e[:2],
)


def _arranged(
    events: list[tuple[int, int, int]], users: list[str], items: list[str], seed: int = 0, by: str = "time"
) -> tuple[Interactions, Counts]:
    """The interactions of (user, item, moment), whose ids are in `users` and `items`, sorted."""
    user, item, moment = np.array(events, dtype=np.int64).T
    with Plan(within=False, split=False, memory=1 << 28) as plan:
        plan.add({"user": user, "item": item, "moment": moment})
        plan.code(np.arange(len(users)), np.arange(len(items)))
        size = plan.core(1)
        used = plan.used()
        ids = ([names[i] for i in codes.tolist()] for names, codes in zip((users, items), used, strict=True))
        return Timeline(plan, size, *used, PairHash(*ids, seed), by, 0).arrange(silent)


def _slow_order(events: list[tuple[int, int, int]], users: list[str], items: list[str], seed: int) -> list[int]:
    """By time, then by hash, all of them at once."""
    user, item, moment = np.array(events, dtype=np.int64).T
    return np.lexsort((PairHash(users, items, seed).of(user, item), moment)).tolist()


NAMES = [str(i) for i in range(7)]


@given(_events, st.permutations(range(7)), st.randoms(use_true_random=False))
def test_split_is_independent_of_row_order_and_numbering(
    events: list[tuple[int, int, int]], numbering: list[int], random: object
) -> None:
    first, _ = _arranged(events, NAMES, NAMES, 3)
    random.shuffle(events)  # type: ignore[attr-defined]
    again, _ = _arranged(events, NAMES, NAMES, 3)
    for one, two in zip(vars(first).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(one, two)


@given(_events, st.integers(0, 3))
def test_order_and_split_equal_those_of_all_at_once(events: list[tuple[int, int, int]], seed: int) -> None:
    order = _slow_order(events, NAMES, NAMES, seed)
    n = len(events)
    train, valid = (8 * n + 5) // 10, (9 * n + 5) // 10
    split = {events[row][:2]: (rank >= train) + (rank >= valid) for rank, row in enumerate(order)}
    slow = sorted(order, key=lambda row: events[row][0])  # stable
    found, counts = _arranged(events, NAMES, NAMES, seed)
    used = [sorted({event[i] for event in events}) for i in (0, 1)]
    pairs = [(used[0][u], used[1][i]) for u, i in zip(found.user.tolist(), found.item.tolist(), strict=True)]
    assert pairs == [events[row][:2] for row in slow]
    assert found.time.tolist() == [events[row][2] for row in slow]
    assert found.split.tolist() == [split[pair] for pair in pairs]
    assert counts.interactions == [list(split.values()).count(i) for i in range(3)]
    assert [int(items.sum()) for items in counts.items] == [
        len({pair[1] for pair, own in split.items() if own == i}) for i in range(3)
    ]
    assert counts.users == [len({pair[0] for pair, own in split.items() if own == i}) for i in range(3)]
    moments = [event[2] for event in events]
    assert counts.tied_globally == sum(moments.count(moment) > 1 for moment in moments)
    own = [(event[0], event[2]) for event in events]
    assert counts.tied == sum(own.count(moment) > 1 for moment in own)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(1, 9), max_size=10))
def test_places_in_batches_of_any_size(values: list[int], sizes: list[int]) -> None:
    values.sort()
    at = (len(values) // 3, len(values) // 2 + 1)
    batches, rest = [], values
    for size in sizes:
        batches, rest = [*batches, rest[:size]], rest[size:]
    moments = [{"moment": np.array(batch)} for batch in [*batches, rest] if batch]
    found, tied = places(iter(moments), at)
    inside = [row for row in at if row < len(values)]
    assert [(m.key["moment"], m.before) for m in found] == [(values[i], i - values.index(values[i])) for i in inside]
    assert tied == sum(values.count(value) > 1 for value in values)


def test_seed_and_ids_change_the_order_of_ties() -> None:
    user, item, users = np.arange(200), np.zeros(200, dtype=np.int64), [f"u{i}" for i in range(200)]
    hashes = [PairHash(users, [name], seed).of(user, item).tolist() for name, seed in (("i", 0), ("i", 1), ("j", 0))]
    assert hashes[0] != hashes[1] != hashes[2] != hashes[0]
    swapped = PairHash(["i"], users, 0).of(item, user)
    assert (swapped != PairHash(users, ["i"], 0).of(user, item)).all()


def test_hash_is_the_same_in_every_run() -> None:
    # Written down once: a change would silently move ties between splits of published results.
    first = np.array([0])
    assert PairHash(["u1"], ["é"], 0).of(first, first).tolist() == [14432400937904368482]
    assert PairHash(["u1"], ["é"], -1).of(first, first).tolist() == [299826968260976820]


def test_duplicates_keep_the_earliest() -> None:
    user, item, moment = np.array([0, 0, 1, 0]), np.array([5, 5, 5, 6]), np.array([9, 3, 1, 0])
    for split, first in ((None, 3), ([0, 2, 0, 0], 9)):
        with Plan(within=False, split=split is not None, memory=1 << 28) as plan:
            rows = {"user": user, "item": item, "moment": moment}
            plan.add(rows if split is None else {**rows, "split": np.array(split)})
            assert plan.code(np.arange(2), np.arange(7)) == (0, 3)
            plan.core(1)
            found = {}
            for batch in plan.ordered():
                pairs = zip(batch["user"].tolist(), batch["item"].tolist(), strict=True)
                found |= dict(zip(pairs, batch["moment"].tolist(), strict=True))
        assert found == {(0, 5): first, (0, 6): 0, (1, 5): 1}


def test_split_names() -> None:
    values = pd.Series(["train", "TEST", "Validation", "val", "dev", " valid", "0", "1", "2"], name="split")
    split, unknown = read_split(values)
    assert split.tolist() == [0, 2, 1, 1, 1, 1, 0, 1, 2] and not unknown


def test_unknown_splits_are_told() -> None:
    split, unknown = read_split(pd.Series(["train", "holdout", None, ""], name="fold"))
    assert split.tolist() == [0, -1, -1, -1] and unknown == {1: "holdout", 2: "", 3: ""}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_leave_one_out_is_each_users_end(lengths: list[int]) -> None:
    split = leave_one_out(np.repeat(np.arange(len(lengths)), lengths)).tolist()
    for length in lengths:
        mine, split = split[:length], split[length:]
        ends = [1, 2] if length > 2 else [0] * length
        assert mine == [0] * (length - len(ends)) + ends


@pytest.mark.parametrize(
    ("interactions", "cases", "words"),
    [
        ([0, 1, 1], [0, 1, 1], "no train interactions"),
        ([3, 1, 1], [0, 0, 1], "no valid cases"),
        ([3, 1, 1], [0, 1, 0], "no test cases"),
    ],
)
def test_split_without_cases(interactions: list[int], cases: list[int], words: str) -> None:
    for own in (True, False):
        with pytest.raises(FosterError, match=words):
            check_split(interactions, cases, own)
