"""EASE (Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019): each item from all others, by ridge
regression over users, in closed form.

X (users, n) is 1 where a user's training history holds an item. W minimises ‖X − XW‖² + λ‖W‖² with diag(W) = 0:
P = (XᵀX + λI)⁻¹, W[i, j] = −P[i, j] / P[j, j]. It takes O(n³) time and two (n, n) matrices of float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.linalg import lapack

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.errors import FosterError
from foster_cli.neighbours.base import LAST, Float, Neighbours
from foster_cli.neighbours.choice import DECAYS, Chosen, Training, best_of, reported, some, training

#: More items than this take hours and tens of gigabytes: they are declined unless `any_size` is set.
MOST_ITEMS = 30_000
#: What `choose` tries.
PENALTIES = (100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Ease:
    """Settings. `penalty` is λ."""

    penalty: float = 300.0
    decay: float = 0.7
    last: int = LAST
    any_size: bool = False


def fit(data: Dataset, settings: Ease | None = None) -> Neighbours:
    """EASE of `data`'s training split. Raises FosterError if it is empty, for more than `MOST_ITEMS` items without
    `any_size`, and for a penalty that is not positive."""
    settings = settings or Ease()
    G = gram(_sized(training(data), settings.any_size))
    return Neighbours(closed_form(G, settings.penalty), settings.decay, settings.last)


def gram(rows: Training) -> Any:
    """XᵀX, CSR (n, n) float64: how many users have both items."""
    one = np.ones(len(rows.user))
    X = sp.csr_matrix((one, (rows.user, rows.item)), shape=(int(rows.user.max()) + 1, rows.n))
    X.data[:] = 1.0  # an item that a user has twice counts once
    return (X.T @ X).tocsr()


def closed_form(G: Any, penalty: float) -> Float:
    """W (n, n) float32 of XᵀX; computed in float64. Raises FosterError if the penalty is not positive."""
    if not penalty > 0:
        raise FosterError(f"EASE with penalty {penalty:g}", "use a positive one, e.g. 300")
    P: npt.NDArray[np.float64] = G.toarray(order="F")
    P.flat[:: len(P) + 1] += penalty
    P, failed = lapack.dpotrf(P, lower=1, overwrite_a=1, clean=0)
    if not failed:
        P, failed = lapack.dpotri(P, lower=1, overwrite_c=1)
    if failed:
        raise FosterError("EASE: XᵀX + λI has no inverse in float64", "use a larger penalty")
    return _weights(P)


def _weights(P: npt.NDArray[np.float64]) -> Float:
    """W from the lower half of P, in blocks of columns."""
    n = len(P)
    W = np.empty((n, n), dtype=np.float32)
    diagonal = P.diagonal().copy()
    for a in range(0, n, 1024):
        b = min(a + 1024, n)
        strip = P[a:, a:b]  # columns a…b of the lower half
        W[a:, a:b] = -strip / diagonal[a:b]
        W[a:b, b:] = -strip[b - a :].T / diagonal[b:]
        corner = np.tril(strip[: b - a], -1)
        W[a:b, a:b] = -(corner + corner.T) / diagonal[a:b]  # and the diagonal is 0
    return W


def choose(data: Dataset, valid: Cases, start: Ease | None = None) -> Chosen[Ease, Neighbours]:
    """The best penalty and decay on the validation cases. Raises FosterError as `fit`."""
    start = start or Ease()
    G = gram(_sized(training(data), start.any_size))

    def candidates() -> Iterator[tuple[Ease, Neighbours]]:
        for penalty in PENALTIES:
            W = closed_form(G, penalty)
            for decay in (*DECAYS, 1.0):
                settings = Ease(penalty, decay, start.last, start.any_size)
                yield settings, Neighbours(W, decay, start.last)

    settings, model = best_of(candidates(), some(valid))
    return reported(settings, model, f"penalty {settings.penalty:g}, decay {settings.decay:g}", valid)


def _sized(rows: Training, any_size: bool) -> Training:
    if rows.n > MOST_ITEMS and not any_size:
        raise FosterError(
            f"EASE inverts a matrix of {rows.n} x {rows.n} items, and more than {MOST_ITEMS} take too long",
            "leave this row out, or raise --k-core so that fewer items remain",
        )
    return rows
