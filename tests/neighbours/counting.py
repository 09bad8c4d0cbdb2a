"""Small data by hand or by chance, and what the models count, said again as plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foster_cli.data.schema import Catalogue, Dataset, Interactions
from foster_cli.data.windows import Cases

WORDS = ("red", "blue", "pen", "cup", "lamp", "book")


def data_of(histories: Sequence[Sequence[int]], n: int, held: int = 2, texts: Sequence[str] | None = None) -> Dataset:
    """A user for each history, whose last `held` items are validation and test, half of them each; times go on from
    user to user, so that a later user is more recent."""
    user = np.concatenate([np.full(len(h), u) for u, h in enumerate(histories)])
    item = np.concatenate([np.asarray(h, dtype=np.int64) for h in histories])
    split = np.zeros(len(user), dtype=np.int8)
    for u, h in enumerate(histories):
        mine = np.flatnonzero(user == u)
        cut = min(held, len(h) - 1)
        split[mine[len(h) - cut :]] = 1
        split[mine[len(h) - cut // 2 :]] = 2
    texts = list(texts) if texts is not None else [f"{WORDS[i % 6]} {WORDS[i % 5]}" for i in range(n)]
    names = [f"i{i}" for i in range(n)]
    rows = Interactions(user.astype(np.int64), item, np.arange(len(user)), split)
    return Dataset("tiny", "hash", [f"u{u}" for u in range(len(histories))], Catalogue(names, names, texts), rows)


def random_data(seed: int = 0, users: int = 40, n: int = 15, longest: int = 12) -> Dataset:
    """Random histories without repeated items; the last two items of the catalogue have no interaction."""
    rng = np.random.default_rng(seed)
    return data_of([rng.permutation(n - 2)[: rng.integers(3, longest)].tolist() for _ in range(users)], n)


def cases_of(histories: Sequence[Sequence[int]], target: Sequence[int], seen: Sequence[Sequence[int]] | None) -> Cases:
    """A case for each history; `seen` is what each leaves out."""
    size = np.array([len(h) for h in histories])
    history = np.full((len(histories), size.max()), -1)
    for row, h in zip(history, histories, strict=True):
        row[: len(h)] = h
    number = np.arange(len(histories))
    hidden = None
    if seen is not None:
        flat = np.array([i for items in seen for i in items], dtype=np.int64)
        hidden = (flat, np.cumsum([0, *map(len, seen)]))
    return Cases(history, size, np.asarray(target), number, number, hidden)


def training_histories(data: Dataset) -> list[list[int]]:
    """The training items of each user, in order."""
    out: list[list[int]] = [[] for _ in data.user_ids]
    rows = data.interactions
    for u, i, s in zip(rows.user.tolist(), rows.item.tolist(), rows.split.tolist(), strict=True):
        if s == 0:
            out[u].append(i)
    return out


def scores_by_loops(W: Any, history: Sequence[int], decay: float, last: int) -> list[float]:
    """The score of each item after one history."""
    out = [0.0] * len(W)
    for age, i in enumerate(reversed(history)):
        if age < last:
            for j in range(len(W)):
                out[j] += decay**age * float(W[i][j])
    return out


def rank_by_loops(scores: Sequence[float], target: int, seen: Sequence[int]) -> float:
    """1 + better items + half of the equal ones, without those in `seen`; the target is never left out."""
    rank = 1.0
    for j, score in enumerate(scores):
        if j != target and j not in seen:
            rank += 1.0 if score > scores[target] else 0.5 if score == scores[target] else 0.0
    return rank


def another_test(data: Dataset) -> Dataset:
    """The same data with other items in the test split."""
    rows = data.interactions
    item = np.where(rows.split == 2, (rows.item + 3) % len(data.catalogue), rows.item)
    assert (item != rows.item).any()
    changed = Interactions(rows.user, item, rows.time, rows.split)
    return Dataset(data.name, "another hash", data.user_ids, data.catalogue, changed)
