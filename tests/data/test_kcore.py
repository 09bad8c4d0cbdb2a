"""The k-core against plain loops, and the largest k."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.kcore import k_core, largest_core

_pairs = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=50)


def _slow(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    """Removes one poor user or item at a time."""
    pairs = set(pairs)
    while True:
        users = Counter(u for u, _ in pairs)
        items = Counter(i for _, i in pairs)
        poor = next((p for p in sorted(pairs) if users[p[0]] < k or items[p[1]] < k), None)
        if poor is None:
            return pairs
        pairs.remove(poor)


def _arrays(pairs: set[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(_pairs, st.integers(1, 6))
def test_equals_the_slow_core(pairs: set[tuple[int, int]], k: int) -> None:
    user, item = _arrays(pairs)
    mask = k_core(user, item, k)
    assert set(zip(user[mask].tolist(), item[mask].tolist(), strict=True)) == _slow(pairs, k)


@given(_pairs)
def test_largest_core_is_the_last_that_is_not_empty(pairs: set[tuple[int, int]]) -> None:
    best = largest_core(*_arrays(pairs))
    assert _slow(pairs, best) or not pairs
    assert not _slow(pairs, best + 1)


def test_removal_cascades() -> None:
    # A path u0-i0-u1-i1-u2: every end is poor for k = 2, and each removal makes the next end poor.
    assert not k_core(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 2).any()
    # A square stays while the tail u2 on it goes.
    mask = k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), 2)
    assert mask.tolist() == [True, True, True, True, False]
