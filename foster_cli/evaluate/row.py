"""A row of a results table: the ranks of held-out cases, and what it took to get them.

In: a trained recommender, or a model that counts, and held-out cases. Out: a `Row` with ranks (seeds, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from foster_cli.data.windows import Cases, Int, Protocol, training_counts
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import covered, last_outputs, ranks
from foster_cli.train.task import Task

Float = npt.NDArray[np.float64]


class Trained(NamedTuple):
    """A trained model and the costs of its training. `valid`: its validation R@10, if known; `processor`: seconds of
    processor time of its training steps."""

    model: Recommender
    seconds: float
    peak_mb: float
    chosen: Any
    valid: float | None = None
    processor: float = 0.0


@dataclass
class Row:
    """One line of the table. `ranks` (seeds, C), 1 is best; `coverage` per seed, share of the catalogue; `valid` per
    seed, validation R@10 if known; `processor` per seed, see `Trained`."""

    ranks: Float
    coverage: list[float]
    train_seconds: list[float]
    peak_mb: list[float]
    chosen: list[Any]
    valid: list[float | None] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """Held-out cases, the k of the coverage, the protocol of the cases, the training interactions (n,) of each item."""

    cases: Cases
    k: int
    protocol: Protocol
    counts: Int

    def describe(self) -> dict[str, Any]:
        """The entries of a result's JSON on the cases: how many there are, how many are cold, and by which protocol."""
        cold = int((self.counts[self.cases.target] == 0).sum())
        return {
            "cases": len(self.cases), "cold": {"cases": cold, "share": cold / len(self.cases)},
            "ranking": asdict(self.protocol),
        }  # fmt: skip


#: Gives a row of one seed, by its name: read from the store of an interrupted evaluation, or made now.
RowCache = Callable[[str, int, Callable[[], Row]], Row]


def make_now(name: str, seed: int, make: Callable[[], Row]) -> Row:
    """The `RowCache` that stores nothing."""
    return make()


def ranked(H: Tensor, E: Tensor, test: HeldOut) -> tuple[Float, float]:
    """Ranks (C,) and catalogue coverage of the top k."""
    cases = test.cases
    return ranks(H, E, cases.target, cases.seen), covered(H, E, test.k, cases.seen) / len(E)


def model_row(test: HeldOut, seed: int, train: Callable[[int], Trained]) -> Row:
    """The row of one trained model, `train(seed)`."""
    t = train(seed)
    E = t.model.embed_all()
    rank, share = ranked(last_outputs(t.model, E, test.cases), E, test)
    return Row(rank[None], [share], [t.seconds], [t.peak_mb], [t.chosen], [t.valid], [t.processor])


def joined(rows: list[Row]) -> Row:
    """Rows of different seeds as one row, ranks (all seeds, C)."""
    names = ("coverage", "train_seconds", "peak_mb", "chosen", "valid", "processor")
    columns = ([x for row in rows for x in getattr(row, name)] for name in names)
    return Row(np.concatenate([row.ranks for row in rows]), *columns)


def held_out(task: Task, k: int, split: str = "test") -> HeldOut:
    """The cases of `split`; the test cases are read only once, after every choice is made."""
    return HeldOut(task.cases(split), k, task.protocol, training_counts(task.data))
