"""Neighbours of items by co-occurrence in training histories, near ones in the history counting more.

For interactions i, then j of one user, d ≤ `window` steps apart, W[i, j] grows by 1/d and W[j, i] by `back`/d. Column j
is divided by (training interactions of j)^`power`, so that popular items are not everybody's neighbours. This is the
item-based kNN of Sarwar et al. 2001 with the position weights of sequence-aware variants (Ludewig & Jannach 2018).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.neighbours.base import LAST, Neighbours
from foster_cli.neighbours.choice import DECAYS, Chosen, Training, best_of, reported, some, training


@dataclass(frozen=True)
class ItemKnn:
    """Settings. At most `neighbours` entries of each row of W are kept, the largest ones."""

    window: int = 20
    back: float = 0.5
    power: float = 0.5
    decay: float = 0.7
    last: int = LAST
    neighbours: int = 500


#: What `choose` tries, one setting after another; decays last.
POWERS = (0.1, 0.2, 0.3, 0.5, 0.7)
BACKS = (0.5, 1.0)


def fit(data: Dataset, settings: ItemKnn | None = None) -> Neighbours:
    """The neighbours of `data`'s training split. Raises FosterError if it is empty."""
    settings = settings or ItemKnn()
    rows = training(data)
    return _weighted(pairs(rows, settings.window), rows, settings)


def pairs(rows: Training, window: int) -> Any:
    """CSR (n, n) float64: the sum of 1/d over all pairs (earlier item, later item) of one user, d ≤ window apart."""
    total = sp.csr_matrix((rows.n, rows.n))
    for d in range(1, min(window, len(rows.user) - 1) + 1):
        same = rows.user[d:] == rows.user[:-d]
        if not same.any():
            break  # no history is longer than d
        cell = (rows.item[:-d][same], rows.item[d:][same])
        total = total + sp.csr_matrix((np.full(len(cell[0]), 1.0 / d), cell), shape=(rows.n, rows.n))
    return total


def _weighted(forward: Any, rows: Training, settings: ItemKnn) -> Neighbours:
    popularity = np.bincount(rows.item, minlength=rows.n)
    scale = np.maximum(popularity, 1) ** -settings.power
    W = ((forward + settings.back * forward.T) @ sp.diags(scale)).tocsr().astype(np.float32)
    return Neighbours(pruned(W, settings.neighbours), settings.decay, settings.last)


def pruned(W: Any, most: int) -> Any:
    """`W` (CSR) with the `most` largest entries of each row; of equal entries the first ones stay."""
    W.sum_duplicates()  # sorts the columns of each row
    keep = np.ones(W.nnz, dtype=bool)
    for row in np.flatnonzero(np.diff(W.indptr) > most):
        a, b = W.indptr[row], W.indptr[row + 1]
        keep[a + np.argsort(-W.data[a:b], kind="stable")[most:]] = False
    kept = np.r_[0, np.cumsum(keep)]
    return sp.csr_matrix((W.data[keep], W.indices[keep], kept[W.indptr]), shape=W.shape)


def choose(data: Dataset, valid: Cases, start: ItemKnn | None = None) -> Chosen[ItemKnn, Neighbours]:
    """The best of `POWERS`, then of `BACKS`, then of `DECAYS` on the validation cases. Raises FosterError as `fit`."""
    settings, sample = start or ItemKnn(), some(valid)
    rows = training(data)
    forward = pairs(rows, settings.window)

    def best(options: Iterable[ItemKnn]) -> tuple[ItemKnn, Neighbours]:
        return best_of(((option, _weighted(forward, rows, option)) for option in options), sample)

    settings, _ = best([replace(settings, power=power) for power in POWERS])
    settings, model = best([replace(settings, back=back) for back in BACKS])
    decays = [(replace(settings, decay=decay), replace(model, decay=decay)) for decay in DECAYS]
    settings, model = best_of(decays, sample)
    what = f"power {settings.power:g}, back {settings.back:g}, decay {settings.decay:g}"
    return reported(settings, model, what, valid)
