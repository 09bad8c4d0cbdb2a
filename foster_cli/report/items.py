"""The items in a bundle's sequences: the most probable ones of each position, their popularity, and their map.

In: a bundle, and the training interactions' items (N,) if there is data. Out: `Sequence`s, `Chart`s, `ItemMap`.
Only one sequence's (L, n) block is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foster_cli.bundle import Bundle
from foster_cli.errors import FosterError
from foster_cli.export.view import likeliest
from foster_cli.report.content import Chart, Float, Int, ItemMap, Position, Sequence, Series
from foster_cli.runtime import generator

TOP = 10
#: The most points of a popularity curve, and the most items on the map.
CURVE_POINTS = 200
MAP_POINTS = 20_000


@dataclass(frozen=True)
class Mass:
    """How much each item is read, and predicted, in the whole synthetic set: shares (n,) that add up to 1."""

    read: Float
    goals: Float | None


def _positions(block: Tensor, mass: Float, top: int, where: str) -> list[Position]:
    """The positions of one (L, n) block of probabilities. Adds the probabilities to `mass` (n,) in place."""
    p = block.double()
    if not bool(torch.isfinite(p).all()):
        raise FosterError(f"{where}: probabilities that are not finite", "distill again: this bundle is damaged")
    spread = torch.special.entr(p).sum(-1).exp()
    mass += p.sum(0).numpy()
    index, value = likeliest(p.numpy(), top)
    return [Position(index[t], value[t], float(spread[t])) for t in range(len(index))]


def read_sequences(bundle: Bundle) -> tuple[list[Sequence], Mass]:
    """The M sequences, and each item's mass over all of them. Raises FosterError for values that are not finite."""
    n = len(bundle.item_ids)
    if bundle.windows is not None:
        return _real_sequences(bundle, n)
    top = min(TOP, n)
    read, goals = np.zeros(n), np.zeros(n)
    found = []
    for user in range(len(bundle.factors["U"])):
        row, where = slice(user, user + 1), f"{bundle.path}: sequence {user + 1}"
        reads = _positions(bundle.probabilities(row)[0], read, top, where)
        after = _positions(bundle.goals(row)[0], goals, top, where) if bundle.own_goals else []
        found.append(Sequence(reads, after))
    return found, Mass(read / read.sum(), goals / goals.sum() if bundle.own_goals else None)


def _real_sequences(bundle: Bundle, n: int) -> tuple[list[Sequence], Mass]:
    """The M real windows as sequences with one item per position."""
    assert bundle.windows is not None
    found = []
    for items, length in zip(bundle.windows.items, bundle.windows.lengths, strict=True):
        found.append(Sequence([Position(items[t : t + 1], np.ones(1), 1.0) for t in range(int(length))], []))
    all_items = bundle.windows.items[bundle.windows.items >= 0]
    return found, Mass(np.bincount(all_items, minlength=n) / len(all_items), None)


def _ranks(n: int) -> Int:
    """At most CURVE_POINTS of the ranks 1…n, evenly spaced on a logarithmic axis, both ends included."""
    if n <= CURVE_POINTS:
        return np.arange(1, n + 1)
    return np.unique(np.geomspace(1, n, CURVE_POINTS).round().astype(np.int64))


def _masses(mass: Mass, real: bool) -> list[tuple[str, Float, str]]:
    if real:
        return [("chosen sequences", mass.read, "synthetic")]
    if mass.goals is None:
        return [("synthetic", mass.read, "synthetic")]
    return [("synthetic, read", mass.read, "synthetic"), ("synthetic, predicted", mass.goals, "goal")]


def popularity(mass: Mass, train_items: Int | None, real: bool) -> list[Chart]:
    """Popularity by rank (Figure 7) and, with the real data, the share of the mass on its popular items.

    `train_items` (N,): the item of each training interaction; None without the data. `real`: this is a coreset.
    """
    n = len(mass.read)
    kinds = _masses(mass, real)
    if train_items is not None:
        count = np.bincount(train_items, minlength=n)
        kinds = [("real", count / count.sum(), "real"), *kinds]
    at = _ranks(n)
    lines = []
    for label, share, role in kinds:
        falling = np.sort(share)[::-1][at - 1] * n
        lines.append(Series(label, np.where(falling >= 1e-4, falling, np.nan), role))
    charts = [
        Chart(
            "popularity", "Popularity by rank", "rank of the item, each line in its own order",
            "times the even share", at.astype(np.float64), lines, log_x=True, log_y=True,
            levels=[("even share", 1.0)],
            note="How often the item of each rank is in the training data, is read or is predicted, over the mean of "
            "all items (the paper's Figure 7). What is below 0.0001 is left out.",
        )
    ]  # fmt: skip
    if train_items is not None:
        order = np.argsort(-count, kind="stable")
        steps = np.unique(np.linspace(0, n, CURVE_POINTS).round().astype(np.int64))
        lines = [Series(label, np.r_[0.0, np.cumsum(share[order])][steps], role) for label, share, role in kinds]
        charts.append(
            Chart(
                "cumulative", "Share of the popular items", "share of the items, the most frequent in training first",
                "share of what they get", steps / n, lines,
                note="All lines in one order: items by their training interactions. What lies below the real line "
                "speaks more of rare items than the data does.",
            )
        )  # fmt: skip
    return charts


def item_map(V: Tensor, sequences: list[Sequence], limit: int = MAP_POINTS) -> ItemMap:
    """The first two principal components of V (n, d). If n > `limit`, only a fixed random subset is drawn.

    It includes the most probable item of every position. Signs are fixed (the largest loading is positive).
    """
    from sklearn.decomposition import PCA

    n, width = V.shape
    X = V.double().numpy()
    if min(n, width) < 2:
        xy, explained = np.c_[X[:, :1] - X[:, :1].mean(0), np.zeros(n)], np.array([1.0, 0.0])
    else:
        with np.errstate(invalid="ignore"):  # identical items have no variance
            fitted = PCA(2, svd_solver="covariance_eigh").fit(X)
        xy, explained = fitted.transform(X), np.nan_to_num(fitted.explained_variance_ratio_)
    named = {int(p.items[0]) for s in sequences for p in (*s.read, *s.goals)}
    drawn = (
        torch.randperm(n, generator=generator(0, "map"))[: max(0, limit - len(named))].numpy() if n > limit else None
    )
    items = np.arange(n) if drawn is None else np.union1d(drawn, np.array(sorted(named), dtype=np.int64))
    return ItemMap(items, xy[items], explained, n)
