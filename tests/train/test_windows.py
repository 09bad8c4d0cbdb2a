"""Training windows and evaluation cases against a reconstruction in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import evaluation_cases, seen_items, training_windows
from foster_cli.errors import FosterError

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


def test_windows_of_a_long_history_step_by_half_a_length(dataset_of: Callable[..., Dataset]) -> None:
    data = dataset_of([(0, i, 0) for i in range(13)], 13, [""] * 13)
    starts = training_windows(data, 4).items[:, 0].tolist()
    assert starts == [0, 2, 4, 6, 8]  # windows of 5, one ends with item 12
    assert training_windows(data, 4, stride=3).items[:, 0].tolist() == [0, 3, 6, 8]


@given(rows=_rows, length=st.integers(1, 6), split=st.sampled_from(["valid", "test"]))
@settings(max_examples=150)
def test_cases_and_seen_items_are_the_held_out_interactions_with_their_past(
    rows: list[tuple[int, int, int]], length: int, split: str, dataset_of: Callable[..., Dataset]
) -> None:
    expected = []
    for user in sorted({u for u, _, _ in rows}):
        own = [(i, s) for u, i, s in rows if u == user]
        for k, (item, s) in enumerate(own):
            if s == ("train", "valid", "test").index(split) and k > 0:
                expected.append((user, [i for i, _ in own[:k]], item))
    data = _of(rows, dataset_of)
    if not expected:
        with pytest.raises(FosterError, match=split):
            evaluation_cases(data, split, length)
        return
    cases = evaluation_cases(data, split, length)
    assert len(cases) == len(expected) == len(set(cases.row.tolist()))
    flat, offsets = seen_items(data, cases)
    for c, (user, past, item) in enumerate(expected):
        recent = past[-length:]
        assert (cases.user[c], cases.target[c], cases.lengths[c]) == (user, item, len(recent))
        assert cases.history[c].tolist() == _padded(recent, length)
        assert data.interactions.item[cases.row[c]] == item and data.interactions.user[cases.row[c]] == user
        assert flat[offsets[c] : offsets[c + 1]].tolist() == past
    assert offsets[-1] == len(flat)


def test_no_held_out_interaction_is_in_a_training_window(dataset_of: Callable[..., Dataset]) -> None:
    rows = [(u, 2 * k, 0) for k in range(4) for u in range(3)] + [(u, 1, 1) for u in range(3)] + [(0, 3, 2)]
    data = dataset_of(rows, ITEMS, [""] * ITEMS)
    for length in (2, 3, 8):
        assert set(np.unique(training_windows(data, length).items)) <= {-1, 0, 2, 4, 6}


def test_take_keeps_items_and_lengths_together(dataset: Any) -> None:
    windows = training_windows(dataset, 5)
    part = windows.take(np.array([3, 0, 3]))
    assert len(part) == 3
    assert part.items.tolist() == [windows.items[i].tolist() for i in (3, 0, 3)]
    assert part.lengths.tolist() == [windows.lengths[i] for i in (3, 0, 3)]
