"""The k-core of a plan against plain loops, and the largest k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.plan import Plan

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


@contextmanager
def _plan(pairs: set[tuple[int, int]]) -> Iterator[Plan]:
    table = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    with Plan(within=False, split=False, memory=1 << 28) as plan:
        plan.add({"user": table[:, 0], "item": table[:, 1], "moment": np.arange(len(table))})
        assert plan.code(np.arange(9), np.arange(9)) == (0, len(pairs))
        yield plan


def _left(plan: Plan) -> set[tuple[int, int]]:
    return {
        pair for batch in plan.ordered() for pair in zip(batch["user"].tolist(), batch["item"].tolist(), strict=True)
    }


@given(_pairs, st.integers(1, 6))
def test_equals_the_slow_core(pairs: set[tuple[int, int]], k: int) -> None:
    with _plan(pairs) as plan:
        slow = _slow(pairs, k)
        assert plan.core(k) == len(slow) and _left(plan) == slow
        assert [used.tolist() for used in plan.used()] == [sorted({p[i] for p in slow}) for i in (0, 1)]


@given(_pairs)
def test_largest_core_is_the_last_with_two_users_and_items(pairs: set[tuple[int, int]]) -> None:
    def wide(k: int) -> bool:
        return all(len({pair[i] for pair in _slow(pairs, k)}) > 1 for i in (0, 1))

    with _plan(pairs) as plan:
        best = plan.largest_core()
    assert best == max((k for k in range(1, 9) if wide(k)), default=0)


def test_removal_cascades() -> None:
    # A path u0-i0-u1-i1-u2: every end is poor for k = 2, and each removal makes the next end poor.
    with _plan({(0, 0), (1, 0), (1, 1), (2, 1)}) as plan:
        assert plan.core(2) == 0
    # A square stays while the tail u2 on it goes.
    with _plan({(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}) as plan:
        assert plan.core(2) == 4 and _left(plan) == {(0, 0), (0, 1), (1, 0), (1, 1)}
