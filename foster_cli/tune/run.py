"""Chooses Algorithm 2's settings on validation: a search, the confirmation of its best trials, the answer.

In: a `SearchPlan`. Out: the JSON of `foster tune`, and in `plan.out`

    settings.json   the answer, for `foster distill --settings`
    tune.json       the given settings, the trials, the confirmation, the machine
    trials.csv      a line per trial
    study.jsonl     Optuna's study
    trials/NNN/     bundles: of the given settings, and of the best trials
    cells/          stored validation results

The test split is never read. The best trials and the given settings train the same fresh students, with seeds that the
search did not use. A trial must score higher there to be the answer, which is thus never worse on validation.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foster_cli import bundle
from foster_cli.data.windows import training_windows
from foster_cli.distill.checks import check_budget, check_settings
from foster_cli.distill.validation import FreshCheck
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate.bundle_rows import training_source
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.remembered import Remembered
from foster_cli.files import sha256_json, writing
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, stream_seed
from foster_cli.settings import Settings
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.train.task import Task, make_task
from foster_cli.tune.space import Parameter, apply, space
from foster_cli.tune.study import Report, Study, Tried, alone
from foster_cli.tune.trial import SearchPlan, Trial

#: Number of best trials that are confirmed.
FINALISTS = 3
#: Means that differ by no more than this are equal up to rounding.
ROUNDING = 1e-12
#: The settings that determine a start and its score.
STARTING = ("student.lr", "distill.gain")


@dataclass(frozen=True)
class Search:
    """A plan, its trials and the parameters that are searched."""

    plan: SearchPlan
    trial: Trial
    parameters: list[Parameter]

    def settings(self, found: dict[str, Any]) -> Settings:
        """The settings at a point."""
        return apply(self.parameters, found, self.plan.settings)

    def changed(self, found: dict[str, Any]) -> dict[str, float]:
        """The settings at a point that differ from the given ones, by name."""
        at = {p.name: (p.setting(found[p.name]), p.base) for p in self.parameters}
        return {name: value for name, (value, base) in at.items() if value != base}

    def folder(self, index: int) -> Path:
        """The bundle of trial `index`."""
        return self.plan.out / "trials" / f"{index:03d}"

    def note(self, text: str) -> None:
        """Print a line for the user."""
        self.plan.session.console.note(text)


def tune(plan: SearchPlan) -> dict[str, Any]:
    """Search, confirm, write. Returns the content of tune.json.

    Raises FosterError for settings out of range, or a folder that cannot be written or holds another study.
    """
    config = plan.settings.distill
    check_settings(plan.settings)
    check_budget(len(training_windows(plan.data, config.length)), config)
    try:
        (plan.out / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {plan.out}: {error.strerror or error}", "give another folder") from error
    parameters = space(config, plan.settings.student)
    trial = Trial(plan, plan.fields, Cells(plan.out / "cells", plan.session.console))
    search = Search(plan, trial, parameters)
    with alone(plan.out):
        key = sha256_json([trial.base, plan.settings.sections()])
        study = Study(plan.out / "study.jsonl", key, parameters, plan.settings.seed, config.steps)
        run_trials(search, study)
        tried = study.tried
        rows = confirm(search, tried)
        found = conclude(search, tried, rows)
        write(plan, found)
    return found


def run_trials(search: Search, study: Study) -> None:
    """Run trials until there are `plan.trials` or time is up, trial 0 in any case. Updates trials.csv after each."""
    plan, began = search.plan, time.monotonic()
    while len(study.tried) < max(1, plan.trials):
        index = len(study.tried)
        if index and plan.timeout is not None and time.monotonic() - began >= plan.timeout:
            search.note(f"time is up after {index} trials")
            break

        def run(point: dict[str, Any], report: Report, index: int = index) -> Any:
            what = ", ".join(f"{name} {value:g}" for name, value in search.changed(point).items())
            search.note(f"trial {index} ({index + 1} of {plan.trials}): {what or 'the settings as given'}")
            return search.trial.run(search.settings(point), search.folder(index), report)

        if index == 0:
            study.given(run)
        else:
            study.next(run)
        tried = study.tried
        last, best = tried[-1], ranked(tried)[0]
        value = "no value" if last.value is None else f"validation R@10 {last.value:.4f}"
        search.note(
            f"trial {index}: {last.state}, {value}, {last.seconds:.0f} s; "
            f"best {best.value:.4f} (trial {best.index}), as given {tried[0].value:.4f}"
        )
        tidy(search, tried)
        write_trials(search, tried)


def ranked(tried: list[Tried]) -> list[Tried]:
    """The complete trials, best first; of equal ones, the earlier first."""
    return sorted((t for t in tried if t.state == "complete"), key=lambda t: -(t.value or 0.0))


def finalists(tried: list[Tried]) -> list[Tried]:
    """The best complete trials that scored above the given settings in the search, each with a different D~.

    Two trials whose best D~ is their start have the same D~ if the settings of the start are equal.
    """
    out: dict[Any, Tried] = {}
    for t in ranked(tried):
        if t.index and (t.value or 0.0) > (tried[0].value or 0.0):
            own = (t.value, *(t.found.get(name) for name in STARTING)) if t.best_step == 0 else t.index
            out.setdefault(own, t)
    return list(out.values())[:FINALISTS]


def tidy(search: Search, tried: list[Tried]) -> None:
    """Remove the bundles that no confirmation will read."""
    kept = {0, *(t.index for t in finalists(tried))}
    for t in tried:
        if t.index not in kept:
            shutil.rmtree(search.folder(t.index), ignore_errors=True)


def confirm(search: Search, tried: list[Tried]) -> list[dict[str, Any]]:
    """Validation R@10 of fresh students, with the same seeds on the D~ of the given settings and of each finalist.

    A row per trial: `trial`, `seeds` (values), `mean`; for a finalist also `minus_given`: mean difference, 95 %
    interval by Student's t over the students. A finalist with a non-finite student is left out. Empty without any.
    """
    chosen = finalists(tried)
    if not chosen:
        return []
    plan, out = search.plan, list[dict[str, Any]]()
    model = plan.settings.model
    with matmul_precision(model.precision, plan.session.device):
        task = make_task(plan.data, model, plan.settings.distill.length, plan.session, plan.settings.ranking)
        for t in [tried[0], *chosen]:
            search.note(f"confirming trial {t.index}: {plan.students} fresh students")
            try:
                values = fresh_values(search, task, t)
            except NotFinite as error:
                if t.index == 0:
                    raise
                search.note(f"trial {t.index} is out: {error.message}")
                continue
            out.append({"trial": t.index, "seeds": values, "mean": float(np.mean(values))})
    for row in out[1:]:
        row["minus_given"] = difference(row["seeds"], out[0]["seeds"])
    return out


def fresh_values(search: Search, task: Task, t: Tried) -> list[float]:
    """R@10 of each fresh student on the trial's D~."""
    plan, settings, folder = search.plan, search.settings(t.found), search.folder(t.index)
    try:
        made = bundle.load(folder)
    except FosterError as error:
        search.note(f"the bundle of trial {t.index} is made again: {error.message}")
        search.trial.run(settings, folder, lambda *_: None)
        made = bundle.load(folder)
    D = training_source(made, settings, task.device)
    assert isinstance(D, SyntheticSet)
    cache = Remembered(search.trial.cells, search.trial.base, settings.distill)
    values = []
    with plan.session.console.progress(f"fresh students on trial {t.index}", plan.students) as bar:
        for i in range(plan.students):
            seed = stream_seed(settings.seed, "confirm", i)
            check = FreshCheck(task, D.V, D.subset, D.reading, settings.student, seed, 1)
            values.append(cache(check)(D.Q, 0)["R@10"])
            bar.at(i + 1, f"R@10 {values[-1]:.4f}")
    return values


def difference(a: list[float], b: list[float]) -> dict[str, float | None]:
    """Mean of the paired differences a - b, and its 95 % interval by Student's t; no interval from one pair."""
    from scipy.stats import t

    delta = np.array(a) - np.array(b)
    mean = float(delta.mean())
    if len(delta) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(t.ppf(0.975, len(delta) - 1)) * float(delta.std(ddof=1)) / math.sqrt(len(delta))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def conclude(search: Search, tried: list[Tried], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of tune.json. The answer is the finalist with the best mean, if that is above the given settings'."""
    plan = search.plan
    best = max(rows[1:], key=lambda row: row["mean"], default=None)
    above = best is not None and best["minus_given"]["mean"] > ROUNDING
    answer = tried[best["trial"]] if best is not None and above else tried[0]
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics},
        "seed": plan.settings.seed, "given": plan.settings.sections(),
        "space": {
            p.name: {"given": p.base, "low": p.setting(p.low), "high": p.setting(p.high)} for p in search.parameters
        },
        "trials": [_line(search, t) for t in tried],
        "confirmed": rows, "students": plan.students,
        "answer": {
            "trial": answer.index, "as_given": answer.index == 0, "best_step": answer.best_step,
            "changed": search.changed(answer.found),
        },
        "settings": search.settings(answer.found).sections(), "machine": machine(),
    }  # fmt: skip


def _line(search: Search, t: Tried) -> dict[str, Any]:
    settings = {p.name: p.setting(t.found[p.name]) for p in search.parameters}
    values = {str(step): value for step, value in t.values.items()}
    return {
        "trial": t.index, "state": t.state, "R@10": t.value, "best_step": t.best_step,
        "last_step": max(t.values, default=None), "by_step": values, "seconds": t.seconds, **settings,
    }  # fmt: skip


def write_trials(search: Search, tried: list[Tried]) -> None:
    """Write trials.csv; `last_step` is the last outer step that was validated."""
    with writing(search.plan.out / "trials.csv") as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        names = ["trial", "state", "R@10", "best_step", "last_step", "seconds", *[p.name for p in search.parameters]]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for t in tried:
            line = _line(search, t)
            del line["by_step"]
            writer.writerow({**line, "seconds": f"{t.seconds:.1f}"})


def write(plan: SearchPlan, found: dict[str, Any]) -> None:
    """Write settings.json and tune.json, each atomically."""
    for name, content in (("settings", found["settings"]), ("tune", found)):
        with writing(plan.out / f"{name}.json") as tmp:
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            tmp.write_text(text + "\n", encoding="utf-8", newline="\n")
