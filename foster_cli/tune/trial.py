"""One trial: a distillation with the trial's settings, watched at every validation of D~.

In: the `Plan`, a point of the search. Out: a bundle, as `foster distill` makes it with the same settings and seed, and
an `Outcome`. What a validation of a D~ found is kept by content (`remembered.py`): a start that another trial has tried
with the same students, the first validation of the outer loop, and all of an interrupted trial's are not made again.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.console import Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.distill.keep import run_folder
from foster_cli.distill.loop import Check, Distilled, Problem, distill
from foster_cli.distill.pipeline import Loop, run
from foster_cli.distill.synthetic import Synthetic
from foster_cli.errors import NotFinite
from foster_cli.evaluate.cells import Cells, base_fields
from foster_cli.evaluate.remembered import memory
from foster_cli.tune.study import Outcome, Pruned, Report

#: Raised whenever a study with the same fields would go another way.
FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """All that decides a search: the settings it starts from, how many `trials`, after how many seconds no new one
    starts (`timeout`; None: never), how many fresh students (`students`) confirm the answer."""

    data: Dataset
    paths: list[str]
    prepare: PrepareSettings
    model: ModelConfig
    train: TrainConfig
    config: DistillConfig
    student: StudentConfig
    seed: int
    device: torch.device
    out: Path
    trials: int
    timeout: float | None
    students: int

    @property
    def fields(self) -> dict[str, Any]:
        """What decides every validation beside D~ and the students: data, encoder, teacher, device, versions."""
        base = base_fields(self.data, self.model, self.train, self.config.length, self.device)
        return {"format": FORMAT, "seed": self.seed, **base}

    @property
    def given(self) -> dict[str, Any]:
        """The settings that the search starts from, as a settings file holds them."""
        return as_file(self.model, self.train, self.config, self.student)


def as_file(model: ModelConfig, train: TrainConfig, config: DistillConfig, student: StudentConfig) -> dict[str, Any]:
    """What `foster distill --settings` reads: the four sections, every field."""
    return {
        "model": dataclasses.asdict(model), "train": dataclasses.asdict(train), "distill": dataclasses.asdict(config),
        "student": dataclasses.asdict(student),
    }  # fmt: skip


def watched(check: Check, steps: int, every: int, report: Report) -> Check:
    """`check`, reporting every R@10 with the outer step it stands at: 0, every, 2 every, …, steps."""
    calls = 0

    def told(Q: Tensor) -> dict[str, float]:
        nonlocal calls
        found = check(Q)
        step, calls = min(calls * every, steps), calls + 1
        report(step, found["R@10"])
        return found

    return told


def attempt(
    plan: Plan, base: dict[str, Any], cells: Cells, config: DistillConfig, student: StudentConfig, out: Path,
    report: Report, console: Console,
) -> Outcome:  # fmt: skip
    """Distil with these settings into the bundle `out`; none is made where the trial is pruned or not finite.

    `base`: `plan.fields`.
    """
    began = time.perf_counter()

    def outcome(state: str, value: float = 0.0) -> Outcome:
        return Outcome(state, value, time.perf_counter() - began)

    # a trial begins anew, so that it reports every validation; what these found is in `cells`
    shutil.rmtree(run_folder(out), ignore_errors=True)
    try:
        manifest = run(
            plan.data, plan.paths, plan.prepare, plan.model, plan.train, config, student, plan.seed, plan.device, out,
            console, loop=_watching(report), memory=memory(cells, base, config, student, plan.seed),
        )  # fmt: skip
    except Pruned:
        shutil.rmtree(run_folder(out))
        return outcome("pruned")
    except NotFinite as error:
        console.note(f"not finite: {error.message}")
        return outcome("not finite")
    return outcome("complete", manifest["metrics"]["valid_R@10"])


def _watching(report: Report) -> Loop:
    """Algorithm 2, telling `report` of every validation."""

    def loop(problem: Problem, synthetic: Synthetic, check: Check, console: Console) -> Distilled:
        c = problem.config
        return distill(problem, synthetic, watched(check, c.steps, c.check_every, report), console)

    return loop
