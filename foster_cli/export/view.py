"""The view of a bundle that the soft formats write: the top items of every position.

In: a bundle. Out: a `SyntheticView` over M synthetic users × L positions. Only one user's (1, L, n) block is in memory
at a time. In the view of real sequences (a coreset) each position has one item with probability 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from foster_cli.errors import FosterError
from foster_cli.export.text import encodable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from foster_cli.bundle import Bundle


class Sink(Protocol):
    """An open binary file, of which the exporters use only `write`."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Goals:
    """The targets after each of M × L positions."""

    top_index: npt.NDArray[np.int64]  # (M, L, top) items by falling probability, ties in catalogue order
    top_probability: npt.NDArray[np.float64]  # (M, L, top)


@dataclass(frozen=True)
class SyntheticView:
    """M synthetic users × L positions, distributions over n items."""

    item_ids: list[str]  # n
    titles: list[str]  # n
    top_index: npt.NDArray[np.int64]  # (M, L, top) items by falling probability, ties in catalogue order
    top_probability: npt.NDArray[np.float64]  # (M, L, top)
    goals: Goals | None = None  # separate targets; None if each position predicts the next one
    lengths: npt.NDArray[np.int64] | None = None  # (M,) positions of each sequence, if not all have L

    def positions(self, user: int) -> int:
        """The number of positions in the sequence of `user`."""
        return int(self.top_index.shape[1] if self.lengths is None else self.lengths[user])


def make_view(bundle: Bundle, top: int) -> SyntheticView:
    """The `top` most probable items of every position of `bundle`, or the items of its real sequences.

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
        reads.append(likeliest(p, top))
        if g is not None:
            goals.append(likeliest(g, top))
    index, probability = (np.stack(part) for part in zip(*reads, strict=True))
    own = Goals(*(np.stack(part) for part in zip(*goals, strict=True))) if goals else None
    return SyntheticView(ids, titles, index, probability, own)


Block = tuple["npt.NDArray[np.float64]", "npt.NDArray[np.float64] | None"]


def blocks(bundle: Bundle) -> Iterator[Block]:
    """Yield for each of the M synthetic users the inputs (L, n) and the separate targets (L, n), or None without them.

    Raises FosterError for probabilities that are not finite, and for a bundle without users.
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


def likeliest(p: npt.NDArray[np.float64], top: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(L, n) -> (L, top) items by falling probability, and their probabilities."""
    import numpy as np

    index = np.stack([best(row, top) for row in p])
    return index, np.take_along_axis(p, index, axis=1)


def _checked(block: torch.Tensor, user: int, n: int) -> npt.NDArray[np.float64]:
    """(1, L, n) -> (L, n) in double. Raises FosterError for another n, or values that are not finite."""
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
    """The indices (k,) of the k largest values of p (n,), in falling order; ties in order of index."""
    import numpy as np

    kth = np.partition(p, len(p) - k)[len(p) - k]
    at = np.flatnonzero(p >= kth)
    return np.asarray(at[np.argsort(-p[at], kind="stable")][:k], dtype=np.int64)
