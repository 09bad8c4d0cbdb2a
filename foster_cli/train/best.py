"""The course of a training, and its best state: what is validated, on which cases, and which state wins.

In: a recommender in training and validation cases. Out: a `Fit` with the trajectory, and the recommender in its best
state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from foster_cli.data.windows import Cases
from foster_cli.errors import NotFinite
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import answers, ranks
from foster_cli.ranking.metrics import at_ten
from foster_cli.ranking.offset import OffsetChoice
from foster_cli.ranking.sample import SAMPLE, VALIDATION, sample

#: The best states on a sample of the cases among which all cases choose at the end of a training.
FINALISTS = 3
#: How far the backbone goes towards its trained state from its `origins` (untrained, or reading the last item alone),
#: the best of which is kept. A backbone that goes part of the way ranks later interactions better where a trained one
#: has learnt what no longer holds (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). The whole way
#: is tried last.
WAYS = (0.5, 0.75, 1.0)


#: What is known of a recommender on cases besides its ranks, from its H (C, d) and E (n, d): such as its KL from a
#: teacher (`value_of`).
Measure = Callable[[Tensor, Tensor], dict[str, float]]


@dataclass
class Fit:
    """The course of a training. `history`: a dict per validation; `best`: the epoch or step of the best one.

    `untrained`, `valid`: R@10 and N@10 over all validation cases before the training, and of its best state; `value`:
    the latter's R@10 with new targets weighted as `OffsetChoice` does, by which trainings are compared. `way`: how far
    the best state's backbone goes (`WAYS`); its row in `history` says from which origin.
    `seconds` includes validation; `processor` is the processor time of the training steps alone, in seconds.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    best_value: float = -1.0
    seconds: float = 0.0
    processor: float = 0.0
    untrained: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] = field(default_factory=dict)
    value: float = -1.0
    way: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """A validated state: its `value` on the cases that were ranked, `at` which epoch or step, and its `way`."""

    value: float
    at: int
    way: float
    state: dict[str, Tensor]


def validate(model: Recommender, cases: Cases, measure: Measure | None = None) -> dict[str, float]:
    """R@10 and N@10 over all `cases`, and what `measure` finds."""
    H, E = answers(model, cases)
    more = {} if measure is None else measure(H, E)
    return {**at_ten(ranks(H, E, cases.target, cases.seen)), **more}


def value_of(found: dict[str, float]) -> float:
    """What states are chosen by: -KL from a teacher where there is one; else R@10, with new targets weighted where an
    offset was chosen for them."""
    return -found["KL"] if "KL" in found else found.get("weighted", found["R@10"])


def check_finite(value: float, what: str) -> None:
    """Raise NotFinite, which names `what`, if `value` is NaN or Inf."""
    if not np.isfinite(value):
        raise NotFinite(f"{what} became {value}", "use a lower learning rate")


class Best:
    """Validates a training and holds its best state; `stale` counts the validations since then.

    Cases beyond `SAMPLE` are sampled, the same ones at every validation. `begin` and `finish` rank all of them, and
    choose the offset of new items on all of them; `finish` also chooses among the `finalists` best states. `model` is
    untrained at first, and `ways` are tried from its origins then. `measure`: more to know of a state on the cases.
    """

    def __init__(
        self, model: Recommender, cases: Cases, fit: Fit, finalists: int = 1, ways: tuple[float, ...] = (1.0,),
        measure: Measure | None = None,
    ) -> None:  # fmt: skip
        self.model, self.cases, self.fit, self.measure = model, cases, fit, measure
        self.some = sample(cases, VALIDATION, most=SAMPLE)
        self.sample = self.some is not cases
        self.offset = OffsetChoice.of(model, self.some)
        self.offset_of_all = OffsetChoice.of(model, cases) if self.sample else self.offset
        self.finalists = finalists if self.sample else 1
        self.kept: list[Candidate] = []  # the best first
        self.origins = model.sequence.origins()
        self.paths = [(origin, way) for way in ways[:-1] for origin in range(len(self.origins))] + [(0, ways[-1])]
        self.stale = 0

    def check(self, at: int, **extra: float) -> float:
        """Validate now; return R@10. Raises NotFinite for NaN or Inf in the scores."""
        own, row, state = self._backbone(), dict[str, float](), None
        for origin, way in self.paths if self.kept else self.paths[-1:]:
            self._go(origin, own, way)
            found = {**self._validate(self.some, self.offset), "way": way, "origin": float(origin)}
            if not row or value_of(found) >= value_of(row):
                enters = len(self.kept) < self.finalists or value_of(found) > self.kept[-1].value
                row, state = found, self.model.learnables() if enters else None
        value = value_of(row)
        self.fit.history.append({"at": float(at), **row, **extra})
        self.stale += 1
        if not self.kept or value > self.fit.best_value:
            self.fit.best, self.fit.best_value, self.fit.way, self.stale = at, value, row["way"], 0
        if state is not None:
            kept = [*self.kept, Candidate(value, at, row["way"], state)]
            self.kept = sorted(kept, key=lambda one: -one.value)[: self.finalists]
        return row["R@10"]

    def begin(self) -> None:
        """Validate the untrained state, and leave the model with the offset that all cases choose."""
        if not self.sample:
            self.check(0)
            self.fit.untrained = self._all(0)
            return
        self.fit.untrained = self._all(0)
        own = self.model.learnables()
        if self.offset is not None:
            self.offset.hold(self.model)
        self.check(0)
        self.model.restore(own)

    def finish(self, model: Recommender) -> None:
        """Give `model` the best state by all cases."""
        fit, found = self.fit, []
        for one in self.kept:
            self.model.restore(one.state)
            valid = self._all(one.at)
            found.append((fit.value, valid, replace(one, state=self.model.learnables())))
        fit.value, fit.valid, best = max(found, key=lambda one: one[0])
        fit.best_value, fit.best, fit.way = best.value, best.at, best.way
        self.model.restore(best.state)
        model.restore(best.state)
        model.eval()

    def sampled(self) -> str:
        """What the sampled cases said of the best state, with the standard error, and what all cases say."""
        value = next(row["R@10"] for row in self.fit.history if row["at"] == self.fit.best)
        error = math.sqrt(value * (1.0 - value) / len(self.some))
        return (
            f"validation R@10 {value:.4f} ± {error:.4f} on the {len(self.some):,} cases that chose the state, "
            f"{self.fit.valid['R@10']:.4f} on all {len(self.cases):,}"
        )

    def _backbone(self) -> list[Tensor]:
        """Copies of the backbone's parameters."""
        return [p.detach().clone() for p in self.model.sequence.parameters()]

    @torch.no_grad()
    def _go(self, origin: int, end: list[Tensor], way: float) -> None:
        """Set the backbone to `way` of the way from an origin to `end`."""
        for p, start, x in zip(self.model.sequence.parameters(), self.origins[origin], end, strict=True):
            p.copy_(x if way == 1.0 else torch.lerp(start, x, way))

    def _all(self, at: int) -> dict[str, float]:
        """R@10 and N@10 of the present state, validated after `at` epochs, over all cases."""
        if self.sample:
            found = self._validate(self.cases, self.offset_of_all)
        else:
            found = next(row for row in self.fit.history if row["at"] == at)
        self.fit.value = value_of(found)
        return {name: found[name] for name in ("R@10", "N@10")}

    def _validate(self, cases: Cases, offset: OffsetChoice | None) -> dict[str, float]:
        try:
            chosen = {} if offset is None else offset(self.model)
            return {**validate(self.model, cases, self.measure), **chosen}
        except ValueError as error:  # rank_counts: NaN or Inf
            raise NotFinite(str(error), "use a lower learning rate") from error
