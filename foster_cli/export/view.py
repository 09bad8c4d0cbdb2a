"""What exporters read: a bundle in, the top items of every position and the hard sequence out.

In: anything with `item_ids`, `titles` (n each) and `probabilities(rows)` → (m, L, n) float32; where positions have
goals of their own also `goals(rows)` → (m, L, n). Out: a `SyntheticView` over M synthetic users × L positions. One
user's (1, L, n) block is in memory at a time. Real sequences (a coreset) become a view too: every position holds its
one item, with probability 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from foster_cli.errors import FosterError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from foster_cli.data.windows import Windows


class BundleLike(Protocol):
    """The part of `foster_cli.bundle.Bundle` that exporters use."""

    @property
    def item_ids(self) -> list[str]: ...

    @property
    def titles(self) -> list[str]: ...

    def probabilities(self, rows: slice | None) -> torch.Tensor:
        """(m, L, n) float32 for the synthetic users in `rows`; m = 0 for a slice past the last one."""
        ...

    @property
    def windows(self) -> Windows | None:
        """The real sequences of a coreset, in the place of all probabilities."""
        ...

    @property
    def own_goals(self) -> bool: ...

    def goals(self, rows: slice | None) -> torch.Tensor:
        """(m, L, n) float32: what is predicted after each position. Asked for only where `own_goals`."""
        ...


class Sink(Protocol):
    """Where exporters write: any open binary file. They write bytes and need nothing else of it."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Goals:
    """What is to be predicted after each of M × L positions."""

    top_index: npt.NDArray[np.int64]  # (M, L, top) items by falling probability, ties in catalogue order
    top_probability: npt.NDArray[np.float64]  # (M, L, top)
    hard: npt.NDArray[np.int64]  # (M, L) the likeliest item that the hard sequence does not hold up to there
    hard_probability: npt.NDArray[np.float64]  # (M, L)


@dataclass(frozen=True)
class SyntheticView:
    """M synthetic users × L positions, distributions over n items."""

    item_ids: list[str]  # n
    titles: list[str]  # n
    top_index: npt.NDArray[np.int64]  # (M, L, top) items by falling probability, ties in catalogue order
    top_probability: npt.NDArray[np.float64]  # (M, L, top)
    hard: npt.NDArray[np.int64]  # (M, L) one item per position, without repeats in a sequence
    hard_probability: npt.NDArray[np.float64]  # (M, L) the probability of `hard`
    goals: Goals | None = None  # what is predicted after each position; None where that is the next position
    lengths: npt.NDArray[np.int64] | None = None  # (M,) positions of each sequence, where they are not all L

    def positions(self, user: int) -> int:
        """How many positions the sequence of `user` has."""
        return int(self.hard.shape[1] if self.lengths is None else self.lengths[user])


def make_view(bundle: BundleLike, top: int) -> SyntheticView:
    """Read the `top` likeliest items of every position from `bundle`, and its hard sequences, or its real ones.

    Raises FosterError unless 1 ≤ top ≤ n, and for probabilities that are not finite.
    """
    import numpy as np

    n = len(bundle.item_ids)
    if not 1 <= top <= n:
        raise FosterError(f"--top {top}: this bundle has {n} items", f"give 1 to {n}")
    if bundle.windows is not None:
        return _real_view(bundle, bundle.windows)
    index, probability, hard, hard_probability = [], [], [], []
    goals = []
    user = 0
    while True:
        block = bundle.probabilities(slice(user, user + 1))
        if block.shape[0] == 0:
            break
        p = _checked(block, user, n)
        best = [_best(row, max(top, min(len(p), n))) for row in p]
        index.append(np.stack([b[:top] for b in best]))
        probability.append(np.take_along_axis(p, index[-1], axis=1))
        hard.append(_hard(best, n))
        hard_probability.append(p[np.arange(len(p)), hard[-1]])
        if bundle.own_goals:
            g = _checked(bundle.goals(slice(user, user + 1)), user, n)
            likeliest = np.stack([_best(row, top) for row in g])
            new = np.array([_unread(row, hard[-1][: t + 1]) for t, row in enumerate(g)], dtype=np.int64)
            goals.append((likeliest, np.take_along_axis(g, likeliest, axis=1), new, g[np.arange(len(g)), new]))
        user += 1
    if not index:
        raise FosterError("the bundle holds no synthetic users", "distil again: this bundle is damaged")
    return SyntheticView(
        item_ids=[_encodable(i) for i in bundle.item_ids],
        titles=[_encodable(t) for t in bundle.titles],
        top_index=np.stack(index),
        top_probability=np.stack(probability),
        hard=np.stack(hard),
        hard_probability=np.stack(hard_probability),
        goals=Goals(*(np.stack(part) for part in zip(*goals, strict=True))) if goals else None,
    )


def _real_view(bundle: BundleLike, windows: Windows) -> SyntheticView:
    """M real sequences, as they are: repeats stay, and a position lists no more than its one item."""
    import numpy as np

    ones = np.ones(windows.items.shape)
    return SyntheticView(
        item_ids=[_encodable(i) for i in bundle.item_ids],
        titles=[_encodable(t) for t in bundle.titles],
        top_index=windows.items[..., None],
        top_probability=ones[..., None],
        hard=windows.items,
        hard_probability=ones,
        lengths=windows.lengths,
    )


def _checked(block: torch.Tensor, user: int, n: int) -> npt.NDArray[np.float64]:
    """(1, L, n) -> (L, n) in double. Raises FosterError for another n, or what is not finite."""
    import numpy as np

    p = block[0].detach().cpu().numpy().astype(np.float64)
    if p.shape[1] != n:
        raise FosterError(
            f"synthetic user {user}: distributions over {p.shape[1]} items, the bundle names {n}",
            "distil again: this bundle is damaged",
        )
    if not np.isfinite(p).all():
        raise FosterError(
            f"synthetic user {user}: probabilities that are not finite",
            "distil again: this bundle is damaged",
        )
    return p


def _best(p: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    """(k,) the positions of the k largest of p (n,), falling; ties in order of position."""
    import numpy as np

    kth = np.partition(p, len(p) - k)[len(p) - k]
    at = np.flatnonzero(p >= kth)
    return np.asarray(at[np.argsort(-p[at], kind="stable")][:k], dtype=np.int64)


def _hard(best: list[npt.NDArray[np.int64]], n: int) -> npt.NDArray[np.int64]:
    """(L,) per position the likeliest item not used before; once all n are used, all may be used again."""
    import numpy as np

    chosen: list[int] = []
    used: set[int] = set()
    for items in best:
        if len(used) == n:
            used.clear()
        item = next(int(i) for i in items if int(i) not in used)
        used.add(item)
        chosen.append(item)
    return np.array(chosen, dtype=np.int64)


def _unread(p: npt.NDArray[np.float64], read: npt.NDArray[np.int64]) -> int:
    """The likeliest item of p (n,) that is not in `read`; of all items where `read` holds every one."""
    best = _best(p, min(len(p), len(read) + 1))
    return next((int(i) for i in best if i not in read), int(best[0]))


def _encodable(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 file can hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def short(probability: float) -> float:
    """`probability` to 9 significant digits: what a float32 needs to be read back exactly."""
    return float(f"{probability:.9g}")
