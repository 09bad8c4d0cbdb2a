"""Decodes a bundle into hard sequences with one item per position, the form that most tools read.

In: the bundle's distributions (L, n) per synthetic user. Out: a `HardSet` of B = M × copies sequences. `argmax` takes
the most probable item that is not yet in the sequence; `sample` draws from the distribution over these items. An item
repeats only after all n have been used. Real sequences (a coreset) are not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from foster_cli.errors import FosterError
from foster_cli.export.text import encodable
from foster_cli.export.view import best, blocks
from foster_cli.runtime import stream_seed
from foster_cli.settings import choice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from foster_cli.bundle import Bundle

    Int = npt.NDArray[np.int64]
    Float = npt.NDArray[np.float64]

DECODES = ("argmax", "sample")


class Example(NamedTuple):
    """A training example: predict `target` after `history`. Items are indices into the catalogue."""

    row: int
    position: int
    history: list[int]
    target: int
    probability: float  # of `target`, in the distribution to predict


@dataclass(frozen=True)
class HardSet:
    """B hard sequences of at most L positions over n items, padded with -1 on the right."""

    item_ids: list[str]  # n
    titles: list[str]  # n
    user: Int  # (B,) the synthetic user
    copy: Int  # (B,) which of its copies
    copies: int
    items: Int  # (B, L) the inputs
    probability: Float  # (B, L) of `items`
    lengths: Int  # (B,)
    goals: Int | None = None  # (B, L) the target after each position; None: the item of the next position
    goal_probability: Float | None = None  # (B, L)
    real: bool = False  # a coreset: nothing was hardened

    def __len__(self) -> int:
        return len(self.items)

    def label(self, row: int) -> str:
        """The sequence's user id: the number of its synthetic user and, with several copies, of its copy."""
        return f"synthetic-{self.user[row]}" + (f"-{self.copy[row]}" if self.copies > 1 else "")

    def sequence(self, row: int) -> list[int]:
        """The items of a sequence, without padding."""
        found: list[int] = self.items[row, : self.lengths[row]].tolist()
        return found

    def examples(self) -> Iterator[Example]:
        """Yield one training example per position that has a target."""
        for row in range(len(self)):
            items = self.sequence(row)
            for t in range(len(items) if self.goals is not None else len(items) - 1):
                if self.goals is not None and self.goal_probability is not None:
                    target, probability = int(self.goals[row, t]), float(self.goal_probability[row, t])
                else:
                    target, probability = items[t + 1], float(self.probability[row, t + 1])
                yield Example(row, t, items[: t + 1], target, probability)

    def mass(self) -> tuple[float, float]:
        """Mean probability of the input items, and of the target items."""
        read = float(self.probability.mean())
        return read, read if self.goal_probability is None else float(self.goal_probability.mean())


def make_hard(bundle: Bundle, decode: str = "argmax", copies: int = 1, seed: int = 0) -> HardSet:
    """Decode every synthetic user into `copies` hard sequences. `seed` and a copy's number determine the copy.

    Raises FosterError for several copies with `argmax`, which would be equal, and for drawing from real sequences.
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
    """An item of p (n,) outside `used`: the most probable without `rng`, else a draw. If all are used, any item.

    If the unused items have no probability, it is the first of them in the order of the catalogue.
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
    """(L, n) -> (L,): items without repeats. Once all n are used, all become available again."""
    import numpy as np

    chosen = np.empty(len(p), np.int64)
    start = 0
    for t, row in enumerate(p):
        if t - start == p.shape[1]:
            start = t
        chosen[t] = _pick(row, chosen[start:t], rng)
    return chosen


def _goals(g: Float, read: Int, rng: np.random.Generator | None) -> Int:
    """(L, n) -> (L,): for each position a target that is not among the inputs up to it."""
    import numpy as np

    return np.array([_pick(row, read[: t + 1], rng) for t, row in enumerate(g)], dtype=np.int64)
