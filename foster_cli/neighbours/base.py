"""The interface of models that count: scores of all n items for histories, hard or soft, and ranks of held-out cases.

A history is a bag (n,): its last item weighs 1, the one before it `decay`, then `decay`², and so on. A bag times an
item-item matrix W (n, n) gives the scores. Ranks are those of `foster_cli.ranking`: 1 is best, ties count half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from foster_cli.data.windows import Cases

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float32]
Ranks = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: Scores that are in memory at once, as a number of float32 (64 MiB).
BLOCK = 1 << 24
#: How many last items of a history count, unless a model says otherwise.
LAST = 20


@dataclass(frozen=True)
class Factors:
    """An item-item matrix W = A Bᵀ that is never built. `A`, `B` (n, f): CSR or dense, float32."""

    A: Any
    B: Any

    @property
    def width(self) -> int:
        """f."""
        return int(self.A.shape[1])

    def after(self, bag: Any) -> Float:
        """bag (B, n) times W: (B, n)."""
        query = bag @ self.A
        if not sp.issparse(self.B):
            return _dense(query) @ self.B.T
        # A sparse matrix times many dense columns at once is far faster here than a product of two sparse matrices.
        query = sp.csr_matrix(query)
        used = np.unique(query.indices)
        place = np.searchsorted(used, query.indices)
        query = sp.csr_matrix((query.data, place, query.indptr), shape=(query.shape[0], len(used)))
        return np.ascontiguousarray((self.B[:, used] @ query.T.toarray(order="C")).T)


class Ranked(NamedTuple):
    """Ranks (C,) of the targets, and which items (n,) are in the top k of at least one case."""

    rank: Ranks
    top: Flags


class Scorer(ABC):
    """A model that scores all items after a history."""

    @property
    @abstractmethod
    def items(self) -> int:
        """n."""

    @property
    def width(self) -> int:
        """The longest row that `scores` holds for each case beside the scores themselves."""
        return self.items

    @abstractmethod
    def scores(self, cases: Cases, part: Int) -> Float:
        """Scores (B, n) after the histories of the cases at `part` (B,). Seen items have their scores too."""

    @abstractmethod
    def soft_scores(self, P: Any) -> Float:
        """Scores (B, n) after soft histories P (B, l, n), an array or a tensor: position t is a distribution over the
        items. P may also be bags (B, n), dense or sparse, which are taken as they are."""

    def ranks(self, cases: Cases) -> Ranks:
        """Rank (C,) of each target among all items, without those in `cases.seen` if that is given: 1 + the items
        above it + half of those equal to it. The target itself is always ranked."""
        return self.ranked(cases).rank

    def covered(self, cases: Cases, k: int) -> int:
        """Number of different items in the top k of at least one case; of equal items the first ones are on top."""
        return int(self.ranked(cases, k).top.sum())

    def ranked(self, cases: Cases, k: int = 0) -> Ranked:
        """`ranks` and, for k > 0, what the top k of all cases hold, in one pass over blocks of `BLOCK` scores."""
        rank, top = np.empty(len(cases)), np.zeros(self.items, dtype=bool)
        rows = max(1, min(1024, BLOCK // max(self.items, self.width)))
        for a in range(0, len(cases), rows):
            part = np.arange(a, min(a + rows, len(cases)))
            scores = self.scores(cases, part)
            goal = _hide_seen(scores, cases, part)
            above = np.count_nonzero(scores > goal[:, None], axis=1)
            equal = np.count_nonzero(scores == goal[:, None], axis=1) - 1
            rank[part] = 1.0 + above + 0.5 * equal
            if k > 0:
                top |= _in_top(scores, k).any(0)
        return Ranked(rank, top)


@dataclass(frozen=True)
class Neighbours(Scorer):
    """`weights` W (n, n): CSR or dense, float32, or `Factors`. The last `last` items of a history count, an item of
    age a (0 is the last one) by `decay`**a. Raises ValueError for weights that are not square or not finite, and for
    decay outside (0, 1] or last below 1."""

    weights: Any
    decay: float = 1.0
    last: int = LAST

    def __post_init__(self) -> None:
        parts = (self.weights.A, self.weights.B) if isinstance(self.weights, Factors) else (self.weights,)
        for part in parts:
            if not np.isfinite(part.data if sp.issparse(part) else part).all():
                raise ValueError("the weights are not finite")
        square = parts[0].shape == parts[1].shape if len(parts) == 2 else parts[0].shape[0] == parts[0].shape[1]
        if not square:
            raise ValueError(f"weights of shapes {[part.shape for part in parts]} make no square matrix")
        if not 0.0 < self.decay <= 1.0 or self.last < 1:
            raise ValueError(f"decay {self.decay} is not in (0, 1], or last {self.last} is below 1")

    @property
    def items(self) -> int:
        """n."""
        return int((self.weights.A if isinstance(self.weights, Factors) else self.weights).shape[0])

    @property
    def width(self) -> int:
        """n, or the width of the factors."""
        return self.weights.width if isinstance(self.weights, Factors) else self.items

    def bags(self, cases: Cases, part: Int) -> Any:
        """The histories of the cases at `part` as weighted bags, CSR (B, n) float32. An item that is in a history
        twice has the sum of both weights."""
        history, size = cases.history[part], cases.lengths[part][:, None]
        age = size - 1 - np.arange(history.shape[1])[None, :]
        row, column = np.nonzero((age >= 0) & (age < self.last))
        weight = np.power(self.decay, age[row, column]).astype(np.float32)
        return sp.csr_matrix((weight, (row, history[row, column])), shape=(len(history), self.items))

    def soft_bags(self, P: Any) -> Any:
        """Soft histories (B, l, n) as weighted bags (B, n) float32; bags stay as they are."""
        if sp.issparse(P):
            return P.tocsr().astype(np.float32)
        P = P.detach().float().cpu().numpy() if isinstance(P, torch.Tensor) else np.asarray(P, dtype=np.float32)
        if P.ndim == 2:
            return P
        P = P[:, -self.last :]
        weight = np.power(self.decay, np.arange(P.shape[1])[::-1]).astype(np.float32)
        return np.einsum("l,bln->bn", weight, P)

    def after(self, bag: Any) -> Float:
        """Scores (B, n) = bag @ W of bags (B, n), CSR or dense."""
        return self.weights.after(bag) if isinstance(self.weights, Factors) else _dense(bag @ self.weights)

    def scores(self, cases: Cases, part: Int) -> Float:
        """Scores (B, n) after the histories of the cases at `part` (B,)."""
        return self.after(self.bags(cases, part))

    def soft_scores(self, P: Any) -> Float:
        """Scores (B, n) after soft histories (B, l, n) or bags (B, n); linear in them."""
        return self.after(self.soft_bags(P))


def _dense(product: Any) -> Float:
    return product.toarray() if sp.issparse(product) else np.asarray(product)


def _hide_seen(scores: Float, cases: Cases, part: Int) -> Float:
    """The targets' scores (B,). In `scores` (B, n), what each case's user has seen becomes -inf, but not the target.
    `part` is a range of cases."""
    row = np.arange(len(part))
    goal = scores[row, cases.target[part]]
    if cases.seen is not None:
        items, offsets = cases.seen
        bounds = offsets[part[0] : part[-1] + 2]
        scores[np.repeat(row, np.diff(bounds)), items[bounds[0] : bounds[-1]]] = -np.inf
        scores[row, cases.target[part]] = goal
    return goal


def _in_top(scores: Float, k: int) -> Flags:
    """Which items (B, n) are in each case's top k; seen ones never are. Of equal items the first ones are on top."""
    n = scores.shape[1]
    if k >= n:
        return scores > -np.inf
    edge = torch.from_numpy(scores).topk(k, dim=1).values[:, -1:].numpy()  # np.partition is slow on rows of many zeros
    top = scores > edge
    equal = (scores == edge) & (edge > -np.inf)
    room = k - np.count_nonzero(top, axis=1)
    tied = np.count_nonzero(equal, axis=1) > room
    equal[tied] &= np.cumsum(equal[tied], axis=1, dtype=np.int32) <= room[tied, None]
    top |= equal
    return top
