"""Random: M users drawn uniformly, and one window of each drawn uniformly. A user with many windows counts once."""

from __future__ import annotations

import numpy as np

from foster_cli.baselines.surrogate import Surrogate
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Int


def random_users(users: Int, M: int, rng: np.random.Generator) -> Int:
    """Indices (M,) into `users` (W,), the user of each window. Every user has one window before any has a second."""
    order = rng.permutation(len(users))  # shuffles the windows of each user too
    shuffled = users[order]
    groups = np.argsort(shuffled, kind="stable")
    first = np.r_[True, np.diff(shuffled[groups]) != 0]
    begin = np.maximum.accumulate(np.where(first, np.arange(len(users)), 0))
    turn = np.empty(len(users), np.int64)
    turn[groups] = np.arange(len(users)) - begin  # number among its user's windows
    rank = rng.permutation(int(users.max()) + 1)[shuffled]  # the user's rank, drawn separately
    return np.asarray(order[np.lexsort((rank, turn))[:M]])


def select(surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT) -> Int:
    """Indices (M,) of training windows."""
    return random_users(surrogate.users, M, rng)
