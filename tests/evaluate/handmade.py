"""Rows of a table and held-out cases written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from foster_cli.data.windows import Cases, Protocol
from foster_cli.evaluate.row import HeldOut, Row


def row_of(ranks: ArrayLike) -> Row:
    """A row of these ranks (seeds, C). The first seed's models take 100 MiB, each further one's 1 MiB more."""
    found = np.array(ranks, dtype=np.float64)
    n = len(found)
    return Row(found, [0.5] * n, [2.0] * n, [100.0 + i for i in range(n)], [None] * n)


def held_out_of(users: Sequence[int], targets: Sequence[int] = (), counts: Sequence[int] = (5,)) -> HeldOut:
    """A case for each entry of `users`, of that user and of the item in `targets`, or of item 0; `counts`: the training
    interactions of each item. What it holds beside plays no part."""
    zeros = np.zeros(len(users), np.int64)
    target = np.array(targets, dtype=np.int64) if targets else zeros
    cases = Cases(zeros[:, None], zeros + 1, target, np.array(users, dtype=np.int64), np.arange(len(users)))
    return HeldOut(cases, 10, Protocol(), np.array(counts, dtype=np.int64))
