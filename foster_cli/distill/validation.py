"""Validation of D~: fresh models are trained on it and scored on a fixed sample of the validation cases.

The number of steps that is best for all of them together is part of the result, so that whoever trains on the set later
needs no validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from foster_cli.console import SILENT, Stage
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.ranking.sample import VALIDATION, sample
from foster_cli.runtime import stream_seed
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.task import Task

#: Maps Q (M, rows, d) and the number of outer steps to validation R@10 and more, as means over fresh models.
Check = Callable[[Tensor, int], dict[str, float]]


@dataclass(frozen=True)
class FreshCheck:
    """A `Check` that trains `count` fresh models on D~, always with the same seeds and validated on the same cases.

    `R@10` and `N@10` are means over the models after `student_steps` steps, the best number for their mean R@10; `sd`
    is the deviation of R@10 among the models. `told` hears of the processor seconds of a step, once for each model.
    """

    task: Task
    V: Tensor
    subset: Subset
    reading: Reading
    student: StudentConfig
    seed: int
    count: int
    told: Callable[[float], None] = lambda seconds: None

    def __call__(self, Q: Tensor, step: int) -> dict[str, float]:
        D, cases = SyntheticSet(Q, self.V, self.subset, self.reading), sample(self.task.valid, VALIDATION)
        histories = []
        for i in range(self.count):
            own = stream_seed(self.seed, "check", i)
            stage = Stage(SILENT, f"fresh model {i + 1} of {self.count} on D~")
            fit = fit_synthetic(self.task.fresh(own), D, cases, self.student, own, stage)
            histories.append(fit.history)
            self.told(fit.processor / max(1.0, fit.history[-1]["at"]))
        at = list(zip(*histories, strict=False))  # the validations that every model has seen
        best = max(at, key=lambda rows: sum(row["R@10"] for row in rows))
        values = [row["R@10"] for row in best]
        return {
            "R@10": float(np.mean(values)),
            "N@10": float(np.mean([row["N@10"] for row in best])),
            "sd": float(np.std(values)),
            "student_steps": best[0]["at"],
        }


class ValidationCache(Protocol):
    """A cache of the results of validations of D~."""

    def __call__(self, check: FreshCheck, spent: Callable[[float], None]) -> Check:
        """`check` with the cache: a known result is read, and `spent` is called with the seconds it once took."""
        ...


def no_cache(check: FreshCheck, spent: Callable[[float], None]) -> Check:
    """A `ValidationCache` that stores nothing."""
    return check
