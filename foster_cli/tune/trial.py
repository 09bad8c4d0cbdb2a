"""One trial: a distillation with the trial's settings that reports every validation of D~.

In: the `SearchPlan`, the settings at a point of the search. Out: a bundle, as `foster distill` makes it with the same
settings and seed, and an `Outcome`. Validation results are stored by the content of D~ (`remembered.py`). Not repeated
are: a start that another trial validated with the same students, the first validation of the outer loop, all those of
an interrupted trial.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.distill.algorithm2 import Problem
from foster_cli.distill.follow import distill
from foster_cli.distill.loop import Distilled, Loop
from foster_cli.distill.pipeline import run
from foster_cli.distill.run_folder import run_folder
from foster_cli.distill.validation import Check
from foster_cli.errors import NotFinite
from foster_cli.evaluate.cells import Cells, base_fields
from foster_cli.evaluate.remembered import Remembered
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.synthetic.factors import Synthetic
from foster_cli.tune.study import Outcome, Pruned, Report

#: To be incremented when a study with the same fields would have other results.
FORMAT = 2


@dataclass(frozen=True)
class SearchPlan:
    """The inputs of a search: the given settings, the number of `trials`, the seconds after which no new trial starts
    (`timeout`; None: no limit), the number of fresh `students` that confirm the answer."""

    data: Dataset
    settings: Settings
    session: Session
    out: Path
    trials: int
    timeout: float | None
    students: int

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that a validation depends on besides D~ and students: data, encoder, teacher, device, versions."""
        base = base_fields(self.settings, self.data, self.session.device)
        return {"format": FORMAT, "seed": self.settings.seed, **base}


@dataclass(frozen=True)
class Trial:
    """Runs the trials of a plan. `base`: `plan.fields`."""

    plan: SearchPlan
    base: dict[str, Any]
    cells: Cells

    def run(self, settings: Settings, out: Path, report: Report) -> Outcome:
        """Distil with these settings into the bundle `out`; a trial that is pruned or not finite makes no bundle."""
        began, plan = time.perf_counter(), self.plan

        def outcome(state: str, value: float = 0.0) -> Outcome:
            return Outcome(state, value, time.perf_counter() - began)

        # a trial does not resume, so that it reports every validation; `cells` has the stored results
        shutil.rmtree(run_folder(out), ignore_errors=True)
        cache = Remembered(self.cells, self.base, settings.distill)
        try:
            manifest = run(settings, plan.data, out, plan.session, reporting(report), cache)
        except Pruned:
            shutil.rmtree(run_folder(out))
            return outcome("pruned")
        except NotFinite as error:
            plan.session.console.note(f"not finite: {error.message}")
            return outcome("not finite")
        return outcome("complete", manifest["metrics"]["valid_R@10"])


def reporting(report: Report) -> Loop:
    """Algorithm 2 that calls `report` with the outer step and R@10 of every validation."""

    def loop(problem: Problem, synthetic: Synthetic, check: Check, console: Console) -> Distilled:
        def reported(Q: Tensor, step: int) -> dict[str, float]:
            found = check(Q, step)
            report(step, found["R@10"])
            return found

        return distill(problem, synthetic, reported, console)

    return loop
