"""Validation of D~: fresh models are trained on it and scored on the validation cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from foster_cli.console import SILENT, Stage
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.runtime import stream_seed
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.task import Task

#: Maps Q (M, rows, d) and the number of outer steps to validation R@10 and more, as means over fresh models.
Check = Callable[[Tensor, int], dict[str, float]]


@dataclass(frozen=True)
class FreshCheck:
    """A `Check` that trains `count` fresh models on D~ and validates them on all cases, always with the same seeds."""

    task: Task
    V: Tensor
    subset: Subset
    reading: Reading
    student: StudentConfig
    seed: int
    count: int

    def __call__(self, Q: Tensor, step: int) -> dict[str, float]:
        D, fits = SyntheticSet(Q, self.V, self.subset, self.reading), []
        for i in range(self.count):
            own = stream_seed(self.seed, "check", i)
            stage = Stage(SILENT, f"fresh model {i + 1} of {self.count} on D~")
            fits.append(fit_synthetic(self.task.fresh(own), D, self.task.valid, self.student, own, stage))
        values = [fit.valid["R@10"] for fit in fits]
        return {
            "R@10": float(np.mean(values)),
            "N@10": float(np.mean([fit.valid["N@10"] for fit in fits])),
            "sd": float(np.std(values)),
            "student_steps": float(np.mean([f.best for f in fits])),
        }


class ValidationCache(Protocol):
    """A cache of the results of validations of D~."""

    def __call__(self, check: FreshCheck, spent: Callable[[float], None]) -> Check:
        """`check` with the cache: a known result is read, and `spent` is called with the seconds it once took."""
        ...


def no_cache(check: FreshCheck, spent: Callable[[float], None]) -> Check:
    """A `ValidationCache` that stores nothing."""
    return check
