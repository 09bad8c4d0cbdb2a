"""Random training windows and held-out cases."""

from __future__ import annotations

import numpy as np

from foster_cli.data.windows import Cases, Windows


def random_windows(count: int, n: int, longest: int, seed: int = 0) -> Windows:
    """`count` windows of 2…longest items out of n."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    items = np.where(np.arange(longest) < lengths[:, None], rng.integers(0, n, (count, longest)), -1)
    return Windows(items, lengths)


def next_number_windows(count: int, n: int, longest: int) -> Windows:
    """`count` windows of 2…longest items out of n; the next item is the next number: there is something to learn."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, longest + 1, count)
    items = (rng.integers(0, n, (count, 1)) + np.arange(longest)) % n
    return Windows(np.where(np.arange(longest) < lengths[:, None], items, -1), lengths)


def next_number_cases(count: int, n: int, length: int, seed: int = 0) -> Cases:
    """`count` cases of random histories of `length` items out of n; the target is the number after the last one."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, n, (count, length))
    return Cases(history, np.full(count, length), (history[:, -1] + 1) % n, np.arange(count), np.arange(count))
