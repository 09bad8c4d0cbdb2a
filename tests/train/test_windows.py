"""Training windows and evaluation cases against a reconstruction in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import (
    Cases,
    Protocol,
    evaluation_cases,
    expected_new,
    protocol_of,
    repeat_share,
    training_counts,
    training_windows,
)
from foster_cli.errors import FosterError
from foster_cli.settings import RankingConfig

ITEMS = 9
#: (user, item, split) in time order; the split need not follow time, as a table's own column need not.
_rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1), st.sampled_from([0, 0, 0, 1, 2])), min_size=1, max_size=60
)


def _per_user(rows: list[tuple[int, int, int]], split: int | None = None) -> list[list[int]]:
    users = sorted({u for u, _, _ in rows})
    return [[i for u, i, s in rows if u == user and split in (None, s)] for user in users]


def _of(rows: list[tuple[int, int, int]], dataset_of: Callable[..., Dataset]) -> Dataset:
    return dataset_of(rows, ITEMS, [""] * ITEMS)


def _padded(items: list[int], width: int) -> list[int]:
    return items + [-1] * (width - len(items))


@given(rows=_rows, length=st.integers(1, 6))
@settings(max_examples=150)
def test_windows_cover_every_training_transition_and_nothing_else(
    rows: list[tuple[int, int, int]], length: int, dataset_of: Callable[..., Dataset]
) -> None:
    histories = [h for h in _per_user(rows, 0) if len(h) >= 2]
    data = _of(rows, dataset_of)
    if not histories:
        with pytest.raises(FosterError):
            training_windows(data, length)
        return
    windows = training_windows(data, length)
    found = []
    for row, size in zip(windows.items.tolist(), windows.lengths.tolist(), strict=True):
        assert 2 <= size <= length + 1 and row == _padded(row[:size], length + 1) and min(row[:size]) >= 0
        found.append(tuple(row[:size]))
    # each history by itself: the windows are in order, contiguous pieces of it
    expected: set[tuple[int, ...]] = set()
    for history in histories:
        pieces = {tuple(history[a : a + length + 1]) for a in range(max(1, len(history) - length))}
        expected |= pieces
        own = [w for w in found if w in pieces]
        held = {pair for w in own for pair in pairwise(w)}
        assert held >= set(pairwise(history)), "a training transition is in no window"
        assert tuple(history[-(length + 1) :]) in own, "the newest interactions are in no window"
        if len(history) <= length + 1:
            assert tuple(history) in own
    assert set(found) <= expected, "a window holds what is no piece of one user's training history"


@given(rows=_rows, length=st.integers(1, 6))
@settings(max_examples=150)
def test_every_interaction_but_a_users_first_is_a_target_once_with_most_of_its_history(
    rows: list[tuple[int, int, int]], length: int, dataset_of: Callable[..., Dataset]
) -> None:
    histories = [h for h in _per_user(rows, 0) if len(h) >= 2]
    if not histories:
        return
    windows = training_windows(_of(rows, dataset_of), length)
    assert windows.first is not None
    targets = [
        (tuple(row[: t + 1]), row[t + 1])
        for row, size, first in zip(windows.items.tolist(), windows.lengths, windows.first, strict=True)
        for t in range(first, size - 1)
    ]
    # windows are in the order of users and time, so the targets are those of the histories, one after another
    assert [target for _, target in targets] == [item for h in histories for item in h[1:]]
    place = [(h, k) for h in histories for k in range(1, len(h))]
    for (context, _), (h, k) in zip(targets, place, strict=True):
        assert list(context) == h[k - len(context) : k] and len(context) >= min(k, length // 2)
    assert windows.alone().first is None
    assert windows.take(np.array([0])).first is not None


@given(rows=_rows, length=st.integers(1, 6), coarse=st.integers(1, 8))
@settings(max_examples=150)
def test_the_age_of_a_window_is_the_share_of_windows_that_end_later(
    rows: list[tuple[int, int, int]], length: int, coarse: int, dataset_of: Callable[..., Dataset]
) -> None:
    """Every interaction has an item of its own, so that a window's last item tells when it ends; `coarse` interactions
    in a row are at the same time."""
    data = dataset_of([(u, k, s) for k, (u, _, s) in enumerate(rows)], len(rows), [""] * len(rows))
    if all(len(h) < 2 for h in _per_user(rows, 0)):
        return
    data = replace(data, interactions=replace(data.interactions, time=data.interactions.time // coarse))
    windows = training_windows(data, length)
    assert windows.age is not None and windows.age.shape == (len(windows),)
    ends = [max(row) // coarse for row in windows.items.tolist()]
    later = [sum(other > end for other in ends) for end in ends]
    assert windows.age.tolist() == pytest.approx([count / len(ends) for count in later], abs=1e-12)
    assert [age == 0.0 for age in windows.age] == [end == max(ends) for end in ends]


def test_windows_of_a_long_history_step_by_half_a_length(dataset_of: Callable[..., Dataset]) -> None:
    data = dataset_of([(0, i, 0) for i in range(13)], 13, [""] * 13)
    starts = training_windows(data, 4).items[:, 0].tolist()
    assert starts == [0, 2, 4, 6, 8]  # windows of 5, one ends with item 12
    assert training_windows(data, 4, stride=3).items[:, 0].tolist() == [0, 3, 6, 8]


def _chosen(found: list[Any], which: str) -> list[Any]:
    """Of (user, …) entries in order, all, or each user's first or last one."""
    if which == "all":
        return found
    users = {entry[0]: entry for entry in (found if which == "last" else reversed(found))}
    return [users[user] for user in sorted(users)]


@given(
    rows=_rows, length=st.integers(1, 6), split=st.sampled_from(["valid", "test"]), masked=st.booleans(),
    which=st.sampled_from(["all", "first", "last"]),
)  # fmt: skip
@settings(max_examples=200)
def test_cases_are_the_held_out_interactions_with_their_past(
    rows: list[tuple[int, int, int]], length: int, split: str, masked: bool, which: str,
    dataset_of: Callable[..., Dataset],
) -> None:  # fmt: skip
    expected = []
    for user in sorted({u for u, _, _ in rows}):
        own = [(i, s) for u, i, s in rows if u == user]
        for k, (item, s) in enumerate(own):
            if s == ("train", "valid", "test").index(split) and k > 0:
                expected.append((user, [i for i, _ in own[:k]], item))
    data, expected = _of(rows, dataset_of), _chosen(expected, which)
    if not expected:
        with pytest.raises(FosterError, match=split):
            evaluation_cases(data, split, length, Protocol(masked, which))
        return
    cases = evaluation_cases(data, split, length, Protocol(masked, which))
    assert len(cases) == len(expected) == len(set(cases.row.tolist()))
    for c, (user, past, item) in enumerate(expected):
        recent = past[-length:]
        assert (cases.user[c], cases.target[c], cases.lengths[c]) == (user, item, len(recent))
        assert cases.history[c].tolist() == _padded(recent, length)
        assert data.interactions.item[cases.row[c]] == item and data.interactions.user[cases.row[c]] == user
        assert cases.seen is None or _past(cases, c) == past
    assert (cases.seen is not None) == masked
    assert cases.seen is None or cases.seen[1][-1] == len(cases.seen[0])


def _past(cases: Cases, c: int) -> list[int]:
    """What case c leaves out."""
    assert cases.seen is not None
    items, offsets = cases.seen
    return list(items[offsets[c] : offsets[c + 1]].tolist())


@given(rows=_rows, masked=st.booleans(), draw=st.data())
@settings(max_examples=100)
def test_some_of_the_cases(
    rows: list[tuple[int, int, int]], masked: bool, draw: st.DataObject, dataset_of: Callable[..., Dataset]
) -> None:
    rows = [*rows, (0, 1, 0), (0, 2, 2)]
    cases = evaluation_cases(_of(rows, dataset_of), "test", 3, Protocol(masked))
    index = draw.draw(st.lists(st.integers(0, len(cases) - 1), max_size=2 * len(cases)))
    some = cases.take(np.array(index, dtype=np.int64))
    assert len(some) == len(index)
    for name in ("history", "lengths", "target", "user", "row"):
        assert getattr(some, name).tolist() == [getattr(cases, name)[i].tolist() for i in index]
    assert (some.seen is not None) == masked
    if masked:
        assert [_past(some, c) for c in range(len(some))] == [_past(cases, i) for i in index]


@given(rows=_rows, which=st.sampled_from(["all", "first"]))
@settings(max_examples=100)
def test_repeats_and_counts_of_training(
    rows: list[tuple[int, int, int]], which: str, dataset_of: Callable[..., Dataset]
) -> None:
    train = [(u, i) for u, i, s in rows if s == 0]
    repeats = sum(pair in train[:k] for k, pair in enumerate(train))
    data = _of(rows, dataset_of)
    assert repeat_share(data) == (repeats / len(train) if train else 0.0)
    assert training_counts(data).tolist() == [sum(i == item for _, i in train) for item in range(ITEMS)]
    assert protocol_of(data, RankingConfig(cases=which)) == Protocol(100 * repeats < len(train), which)
    for asked in (False, True):
        assert protocol_of(data, RankingConfig(asked)) == Protocol(asked)


@pytest.mark.parametrize(("users", "masked"), [(50, False), (51, True)])
def test_one_repeat_in_a_hundred_is_not_rare(users: int, masked: bool, dataset_of: Callable[..., Dataset]) -> None:
    """Two training interactions each, one of them a repeat; a user's own items in other splits are none."""
    rows = [(u, (u + k) % ITEMS, 0) for u in range(users) for k in range(2)] + [(3, 3, 1), (4, 4, 2), (5, 5, 1)]
    rows[1] = (0, 0, 0)
    data = _of(rows, dataset_of)
    assert repeat_share(data) == 1 / (2 * users)
    assert protocol_of(data, RankingConfig()).mask_seen is masked


def test_no_held_out_interaction_is_in_a_training_window(dataset_of: Callable[..., Dataset]) -> None:
    rows = [(u, 2 * k, 0) for k in range(4) for u in range(3)] + [(u, 1, 1) for u in range(3)] + [(0, 3, 2)]
    data = dataset_of(rows, ITEMS, [""] * ITEMS)
    for length in (2, 3, 8):
        assert set(np.unique(training_windows(data, length).items)) <= {-1, 0, 2, 4, 6}


def test_take_keeps_what_belongs_to_a_window_together(dataset: Any) -> None:
    windows = training_windows(dataset, 5)
    part = windows.take(np.array([3, 0, 3]))
    assert len(part) == 3
    assert part.items.tolist() == [windows.items[i].tolist() for i in (3, 0, 3)]
    assert part.lengths.tolist() == [windows.lengths[i] for i in (3, 0, 3)]
    assert windows.first is not None and part.first is not None and windows.age is not None and part.age is not None
    assert part.first.tolist() == [windows.first[i] for i in (3, 0, 3)]
    assert part.age.tolist() == [windows.age[i] for i in (3, 0, 3)] and len(set(part.age)) == 2
    alone = part.alone()
    assert alone.first is None and alone.age is None and alone.take(np.array([1])).age is None
    assert alone.items.tolist() == part.items.tolist() and alone.lengths.tolist() == part.lengths.tolist()


def _shop(new: list[bool], tests: list[int]) -> list[tuple[int, int, int]]:
    """Items 0 to 3 in training; then, in time order, validation targets that are new or not, and test targets."""
    train = [(u, i, 0) for u in range(4) for i in (u, (u + 1) % 4)]
    valid = [(k % 4, 4 + k % 3 if is_new else k % 4, 1) for k, is_new in enumerate(new)]
    return [*train, *valid, *[(k % 4, item, 2) for k, item in enumerate(tests)]]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([False, False, True, False, True, True, False, True], 1.0),  # 1/4, then 3/4: power 1, 3/2 is beyond 1
        ([True] + 9 * [False] + [True, True] + 8 * [False], 0.2 * 2 ** (math.log(2) / math.log(3))),
        ([True, True, False, False, False, False], 2 / 6),  # fewer and fewer: the share of validation
        ([False, True, True, False], 0.5),
        ([False, True, False], 1.0),  # halves of one and two: 0 and 1/2, the steepest power
        ([True, False, True], 2 / 3),
        ([True], 1.0),
        ([False], 0.0),
        (6 * [False], 0.0),
    ],
)
def test_the_expected_share_of_new_targets_by_hand(
    new: list[bool], expected: float, dataset_of: Callable[..., Dataset]
) -> None:
    for tests in ([], [7, 7, 7, 8, 8], [0, 1, 2, 3]):  # no test interaction is read
        data = _of(_shop(new, tests), dataset_of)
        rows = np.flatnonzero(data.interactions.split == 1)
        assert expected_new(data, rows) == pytest.approx(expected)
        assert expected_new(data, rows[::-1]) == pytest.approx(expected)  # by time, whatever the order
        found = evaluation_cases(data, "valid", 4)
        assert found.new_share == pytest.approx(expected)
        assert found.take(np.array([0])).new_share == found.new_share
        if tests:
            assert evaluation_cases(data, "test", 4).new_share is None
