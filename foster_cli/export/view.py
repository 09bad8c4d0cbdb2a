"""What the soft formats read: a bundle in, the top items of every position out.

In: anything with `item_ids`, `titles` (n each) and `probabilities(rows)` → (m, L, n) float32; where positions have
goals of their own also `goals(rows)` → (m, L, n). Out: a `SyntheticView` over M synthetic users × L positions. One
user's (1, L, n) block is in memory at a time. Real sequences (a coreset) become a view too: every position holds its
one item, with probability 1. `export.hard` makes one item of each position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from foster_cli.errors import FosterError
from foster_cli.export.text import encodable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from foster_cli.data.windows import Windows


class BundleLike(Protocol):
    """The part of `foster_cli.bundle.Bundle` that exporters use."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's own record of itself, as `bundle.json` holds it."""
        ...

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


@dataclass(frozen=True)
class SyntheticView:
    """M synthetic users × L positions, distributions over n items."""

    item_ids: list[str]  # n
    titles: list[str]  # n
    top_index: npt.NDArray[np.int64]  # (M, L, top) items by falling probability, ties in catalogue order
    top_probability: npt.NDArray[np.float64]  # (M, L, top)
    goals: Goals | None = None  # what is predicted after each position; None where that is the next position
    lengths: npt.NDArray[np.int64] | None = None  # (M,) positions of each sequence, where they are not all L

    def positions(self, user: int) -> int:
        """How many positions the sequence of `user` has."""
        return int(self.top_index.shape[1] if self.lengths is None else self.lengths[user])


def make_view(bundle: BundleLike, top: int) -> SyntheticView:
    """Read the `top` likeliest items of every position from `bundle`, or its real sequences.

    Raises FosterError unless 1 ≤ top ≤ n, and for probabilities that are not finite.
    """
    import numpy as np

    n = len(bundle.item_ids)
    if not 1 <= top <= n:
        raise FosterError(f"--top {top}: this bundle has {n} items", f"give 1 to {n}")
    ids, titles = [encodable(i) for i in bundle.item_ids], [encodable(t) for t in bundle.titles]
    if bundle.windows is not None:
        items = bundle.windows.items[..., None]
        return SyntheticView(ids, titles, items, np.ones(items.shape), lengths=bundle.windows.lengths)
    reads, goals = [], []
    for p, g in blocks(bundle):
        reads.append(_likeliest(p, top))
        if g is not None:
            goals.append(_likeliest(g, top))
    index, probability = (np.stack(part) for part in zip(*reads, strict=True))
    own = Goals(*(np.stack(part) for part in zip(*goals, strict=True))) if goals else None
    return SyntheticView(ids, titles, index, probability, own)


Block = tuple["npt.NDArray[np.float64]", "npt.NDArray[np.float64] | None"]


def blocks(bundle: BundleLike) -> Iterator[Block]:
    """For each of the M synthetic users what is read (L, n), and its goals (L, n) where it has some of its own.

    Raises FosterError for probabilities that are not finite, and where there is no user.
    """
    n, user = len(bundle.item_ids), 0
    while True:
        rows = slice(user, user + 1)
        read = bundle.probabilities(rows)
        if read.shape[0] == 0:
            break
        yield _checked(read, user, n), _checked(bundle.goals(rows), user, n) if bundle.own_goals else None
        user += 1
    if user == 0:
        raise FosterError("the bundle holds no synthetic users", "distill again: this bundle is damaged")


def _likeliest(p: npt.NDArray[np.float64], top: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(L, n) -> (L, top) items by falling probability, and their probabilities."""
    import numpy as np

    index = np.stack([best(row, top) for row in p])
    return index, np.take_along_axis(p, index, axis=1)


def _checked(block: torch.Tensor, user: int, n: int) -> npt.NDArray[np.float64]:
    """(1, L, n) -> (L, n) in double. Raises FosterError for another n, or what is not finite."""
    import numpy as np

    p = block[0].detach().cpu().numpy().astype(np.float64)
    if p.shape[1] != n:
        raise FosterError(
            f"synthetic user {user}: distributions over {p.shape[1]} items, the bundle names {n}",
            "distill again: this bundle is damaged",
        )
    if not np.isfinite(p).all():
        raise FosterError(
            f"synthetic user {user}: probabilities that are not finite",
            "distill again: this bundle is damaged",
        )
    return p


def best(p: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    """(k,) the positions of the k largest of p (n,), falling; ties in order of position."""
    import numpy as np

    kth = np.partition(p, len(p) - k)[len(p) - k]
    at = np.flatnonzero(p >= kth)
    return np.asarray(at[np.argsort(-p[at], kind="stable")][:k], dtype=np.int64)
