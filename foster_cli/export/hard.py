"""One item per position: a bundle in, hard sequences out, as most tools read them.

In: the bundle's distributions (L, n) per synthetic user. Out: a `HardSet` of B = M × copies sequences. `argmax` takes
the likeliest item that the sequence does not hold yet; `sample` draws from what is left of the distribution. An item
appears once in a sequence as long as there are enough of them. Real sequences (a coreset) stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from foster_cli.config import choice
from foster_cli.errors import FosterError
from foster_cli.export.text import encodable
from foster_cli.export.view import best, blocks
from foster_cli.runtime import stream_seed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from foster_cli.export.view import BundleLike

    Int = npt.NDArray[np.int64]
    Float = npt.NDArray[np.float64]

DECODES = ("argmax", "sample")


class Example(NamedTuple):
    """A training example: after `history` comes `target`. Items are positions in the catalogue."""

    row: int
    position: int
    history: list[int]
    target: int
    probability: float  # of `target` where it is to be predicted


@dataclass(frozen=True)
class HardSet:
    """B hard sequences of at most L positions over n items; -1 pads on the right."""

    item_ids: list[str]  # n
    titles: list[str]  # n
    user: Int  # (B,) the synthetic user
    copy: Int  # (B,) which of its copies
    copies: int
    items: Int  # (B, L) what is read
    probability: Float  # (B, L) of `items`
    lengths: Int  # (B,)
    goals: Int | None = None  # (B, L) what is to be predicted after each position; None: the next position
    goal_probability: Float | None = None  # (B, L)
    real: bool = False  # a coreset: nothing was hardened

    def __len__(self) -> int:
        return len(self.items)

    def label(self, row: int) -> str:
        """The sequence's name as a user's id: the synthetic user's number, and the copy's where there are several."""
        return f"synthetic-{self.user[row]}" + (f"-{self.copy[row]}" if self.copies > 1 else "")

    def sequence(self, row: int) -> list[int]:
        """The items of a sequence, without padding."""
        found: list[int] = self.items[row, : self.lengths[row]].tolist()
        return found

    def examples(self) -> Iterator[Example]:
        """Every position's history and what is to be predicted after it."""
        for row in range(len(self)):
            items = self.sequence(row)
            for t in range(len(items) if self.goals is not None else len(items) - 1):
                if self.goals is not None and self.goal_probability is not None:
                    target, probability = int(self.goals[row, t]), float(self.goal_probability[row, t])
                else:
                    target, probability = items[t + 1], float(self.probability[row, t + 1])
                yield Example(row, t, items[: t + 1], target, probability)

    def mass(self) -> tuple[float, float]:
        """Mean probability of the items that are read, and of those that are predicted."""
        read = float(self.probability.mean())
        return read, read if self.goal_probability is None else float(self.goal_probability.mean())


def make_hard(bundle: BundleLike, decode: str = "argmax", copies: int = 1, seed: int = 0) -> HardSet:
    """`copies` hard sequences of every synthetic user. A copy depends on `seed` and its number alone.

    Raises FosterError for what `decode` cannot do: several equal copies, or drawing from real sequences.
    """
    import numpy as np

    choice("--decode", decode, DECODES)
    if copies < 1:
        raise FosterError(f"--copies {copies}: out of range", "use a number of 1 or more")
    if bundle.windows is not None and (decode == "sample" or copies > 1):
        raise FosterError("--decode, --copies: the bundle holds real sequences, nothing is drawn", "leave them out")
    if decode == "argmax" and copies > 1:
        raise FosterError(f"--copies {copies}: argmax gives the same sequence every time", "add --decode sample")
    ids, titles = [encodable(i) for i in bundle.item_ids], [encodable(t) for t in bundle.titles]
    if bundle.windows is not None:
        items, lengths = bundle.windows.items, bundle.windows.lengths
        number, zeros = np.arange(len(items)), np.zeros(len(items), np.int64)
        return HardSet(ids, titles, number, zeros, 1, items, np.ones(items.shape), lengths, real=True)
    found = []
    for user, (p, g) in enumerate(blocks(bundle)):
        for copy in range(copies):
            rng = np.random.default_rng(stream_seed(seed, "export", user, copy)) if decode == "sample" else None
            read = _sequence(p, rng)
            goal = _goals(g, read, rng) if g is not None else None
            at = np.arange(len(p))
            found.append((user, copy, read, p[at, read], goal, None if g is None else g[at, goal]))
    users, numbers, reads, shares, goals, goal_shares = zip(*found, strict=True)
    own = goals[0] is not None
    return HardSet(
        ids, titles, np.array(users), np.array(numbers), copies, np.stack(reads), np.stack(shares),
        np.full(len(reads), reads[0].shape[0]),
        np.stack(goals) if own else None, np.stack(goal_shares) if own else None,
    )  # fmt: skip


def _pick(p: Float, used: Int, rng: np.random.Generator | None) -> int:
    """An item of p (n,) outside `used`: the likeliest without `rng`, else drawn. All items where all are used.

    Where what is left has no probability at all, it is the first that is left in the order of the catalogue.
    """
    import numpy as np

    if rng is None:
        likeliest = best(p, min(len(p), len(used) + 1))
        return next((int(i) for i in likeliest if i not in used), int(likeliest[0]))
    left = p.copy()
    if len(np.unique(used)) < len(p):
        left[used] = 0.0
    if left.sum() <= 0.0:
        return _pick(p, used, None)
    return int(rng.choice(len(p), p=left / left.sum()))


def _sequence(p: Float, rng: np.random.Generator | None) -> Int:
    """(L, n) -> (L,): items without repeats; once all n are used, all may be used again."""
    import numpy as np

    chosen = np.empty(len(p), np.int64)
    start = 0
    for t, row in enumerate(p):
        if t - start == p.shape[1]:
            start = t
        chosen[t] = _pick(row, chosen[start:t], rng)
    return chosen


def _goals(g: Float, read: Int, rng: np.random.Generator | None) -> Int:
    """(L, n) -> (L,): after each position an item that was not read up to there."""
    import numpy as np

    return np.array([_pick(row, read[: t + 1], rng) for t, row in enumerate(g)], dtype=np.int64)
