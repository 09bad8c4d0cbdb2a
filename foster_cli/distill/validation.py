"""Validation of D~: fresh models are trained on it and compared with their teacher on a fixed sample of the cases.

D~ says what its teacher answers, so the best D~ is the one whose models answer most like it,

    KL( softmax of the teacher's scores || softmax of the model's ) after the histories of validation cases,

a mean over cases and models (**ours**). Which items these users took next is not read for this choice. R@10 of the same
models is far noisier: of a few thousand cases that it hits or misses, most are the same for all models.

The number of steps that is best for all of them together is part of the result, so that whoever trains on the set later
needs no validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foster_cli.console import SILENT, Stage
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.ops import soft_kl
from foster_cli.ranking.sample import VALIDATION, sample
from foster_cli.runtime import stream_seed
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.best import value_of
from foster_cli.train.task import Task

#: Cases at a time.
BLOCK = 1024
#: Maps Q (M, rows, d) and the number of outer steps to KL, validation R@10 and more, as means over fresh models.
Check = Callable[[Tensor, int], dict[str, float]]


@dataclass(frozen=True)
class FreshCheck:
    """A `Check` that trains `count` fresh models on D~, always with the same seeds and validated on the same cases.

    `KL`, `R@10` and `N@10` are means over the models after `student_steps` steps, the best number for their mean KL
    from the teacher, whose outputs on these cases are `answers` (C, w), or without one for their mean R@10 (then there
    is no `KL`). `sd` is the deviation of R@10 among the
    models. `told` hears of the processor seconds of a step, once for each model.
    """

    task: Task
    V: Tensor
    subset: Subset
    reading: Reading
    student: StudentConfig
    seed: int
    count: int
    told: Callable[[float], None] = lambda seconds: None
    answers: Tensor | None = None

    def __call__(self, Q: Tensor, step: int) -> dict[str, float]:
        D, cases = SyntheticSet(Q, self.V, self.subset, self.reading), sample(self.task.valid, VALIDATION)
        measure, histories = None if self.answers is None else self._measure, []
        # KL may rise before it falls, so trainings that are compared by it take all their steps
        config = self.student if measure is None else replace(self.student, patience=self.student.steps + 1)
        for i in range(self.count):
            own = stream_seed(self.seed, "check", i)
            stage = Stage(SILENT, f"fresh model {i + 1} of {self.count} on D~")
            fit = fit_synthetic(self.task.fresh(own), D, cases, config, own, stage, measure)
            histories.append(fit.history)
            self.told(fit.processor / max(1.0, fit.history[-1]["at"]))
        at = list(zip(*histories, strict=False))  # the validations that every model has seen
        best = max(at, key=lambda rows: sum(value_of(row) for row in rows))
        values = [row["R@10"] for row in best]
        return {
            **({} if measure is None else {"KL": float(np.mean([row["KL"] for row in best]))}),
            "R@10": float(np.mean(values)),
            "N@10": float(np.mean([row["N@10"] for row in best])),
            "sd": float(np.std(values)),
            "student_steps": best[0]["at"],
        }

    def _measure(self, H: Tensor, E: Tensor) -> dict[str, float]:
        assert self.answers is not None
        return {"KL": divergence(self.answers, self.V, H, E)}


@torch.no_grad()
def divergence(answers: Tensor, V: Tensor, H: Tensor, E: Tensor) -> float:
    """The mean over cases of KL(softmax(answers V^T) || softmax(H E^T)) over all items, in nats, for answers (C, w),
    V (n, w), H (C, d) and E (n, d)."""
    parts = zip(answers.split(BLOCK), H.split(BLOCK), strict=True)
    return sum(float(soft_kl(Q, V, h, E).double().sum()) for Q, h in parts) / len(H)


def words(found: dict[str, float]) -> str:
    """What a validation found."""
    kl = f", KL {found['KL']:.4f} from the teacher" if "KL" in found else ""
    return f"validation R@10 {found['R@10']:.4f}{kl}"


class ValidationCache(Protocol):
    """A cache of the results of validations of D~."""

    def __call__(self, check: FreshCheck, spent: Callable[[float], None]) -> Check:
        """`check` with the cache: a known result is read, and `spent` is called with the seconds it once took."""
        ...


def no_cache(check: FreshCheck, spent: Callable[[float], None]) -> Check:
    """A `ValidationCache` that stores nothing."""
    return check
