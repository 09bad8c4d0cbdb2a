"""Algorithm 2's settings, chosen on validation: the search, the confirmation of its best, the answer.

In: a `Plan`. Out: the JSON of `foster tune`, and in `plan.out`

    settings.json   the answer, for `foster distill --settings`
    tune.json       what was given, tried and confirmed, and the machine
    trials.csv      a line per trial
    study.jsonl     Optuna's study
    trials/NNN/     bundles: of the given settings, and of the best trials
    cells/          what validations found

The test split is never read. The answer is never worse on validation than what was given: the best trials and the
given settings train the same fresh students, whose seeds the search has not used, and a trial must come out above.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from foster_cli import bundle
from foster_cli.config import DistillConfig, StudentConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import training_windows
from foster_cli.distill.loop import fresh_check, make_subset
from foster_cli.distill.pipeline import check_settings, check_windows
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.remembered import check_fields, remembered
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, sha256_json, stream_seed, writing
from foster_cli.train.setting import Setting, make_setting
from foster_cli.tune.space import Parameter, apply, space
from foster_cli.tune.study import Report, Study, Tried, alone
from foster_cli.tune.trial import Plan, as_file, attempt

#: The best trials that are confirmed.
FINALISTS = 3
#: Two means of the same values are no further apart.
ROUNDING = 1e-12
#: What decides a start and what it is worth.
STARTING = ("student.lr", "distill.gain")


@dataclass(frozen=True)
class Search:
    """What the trials of a plan share. `base`: `plan.fields`."""

    plan: Plan
    base: dict[str, Any]
    parameters: list[Parameter]
    cells: Cells

    def settings(self, found: dict[str, Any]) -> tuple[DistillConfig, StudentConfig]:
        """The configs at a point."""
        return apply(self.parameters, found, self.plan.config, self.plan.student)

    def changed(self, found: dict[str, Any]) -> dict[str, float]:
        """The settings at a point, by name: those that are not the given ones."""
        at = {p.name: (p.setting(found[p.name]), p.base) for p in self.parameters}
        return {name: value for name, (value, base) in at.items() if value != base}


def tune(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """Search, confirm, write. Returns tune.json.

    Raises FosterError for settings out of range, a folder that cannot be written or holds another study.
    """
    check_settings(plan.model, plan.train, plan.config, plan.student)
    check_windows(len(training_windows(plan.data, plan.config.length)), plan.config)
    try:
        (plan.out / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {plan.out}: {error.strerror or error}", "give another folder") from error
    parameters = space(plan.config, plan.student)
    search = Search(plan, plan.fields, parameters, Cells(plan.out / "cells", console))
    with alone(plan.out):
        key = sha256_json([search.base, plan.given])
        study = Study(plan.out / "study.jsonl", key, parameters, plan.seed, plan.config.steps)
        run_trials(search, study, console)
        tried = study.tried
        rows = confirm(search, tried, console)
        found = conclude(search, tried, rows)
        write(plan, found)
    return found


def run_trials(search: Search, study: Study, console: Console) -> None:
    """Trials until there are `plan.trials`, or time is up; trial 0 in any case. trials.csv is kept up to date."""
    plan, began = search.plan, time.monotonic()
    while len(study.tried) < max(1, plan.trials):
        index = len(study.tried)
        if index and plan.timeout is not None and time.monotonic() - began >= plan.timeout:
            console.note(f"time is up after {index} trials")
            break

        def run(point: dict[str, Any], report: Report, index: int = index) -> Any:
            what = ", ".join(f"{name} {value:g}" for name, value in search.changed(point).items())
            console.note(f"trial {index} ({index + 1} of {plan.trials}): {what or 'the settings as given'}")
            config, student = search.settings(point)
            return attempt(plan, search.base, search.cells, config, student, folder(plan, index), report, console)

        if index == 0:
            study.given(run)
        else:
            study.next(run)
        tried = study.tried
        last, best = tried[-1], ranked(tried)[0]
        value = "no value" if last.value is None else f"validation R@10 {last.value:.4f}"
        console.note(
            f"trial {index}: {last.state}, {value}, {last.seconds:.0f} s; "
            f"best {best.value:.4f} (trial {best.index}), as given {tried[0].value:.4f}"
        )
        tidy(search, tried)
        write_trials(search, tried)


def folder(plan: Plan, index: int) -> Any:
    """The bundle of trial `index`."""
    return plan.out / "trials" / f"{index:03d}"


def ranked(tried: list[Tried]) -> list[Tried]:
    """The complete trials, best first; of equals the earlier."""
    return sorted((t for t in tried if t.state == "complete"), key=lambda t: -(t.value or 0.0))


def finalists(tried: list[Tried]) -> list[Tried]:
    """The best complete trials that the search found better than what was given, each with a D~ of its own.

    Trials whose best D~ is their start have the same one where the settings of the start are the same.
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
            shutil.rmtree(folder(search.plan, t.index), ignore_errors=True)


def confirm(search: Search, tried: list[Tried], console: Console) -> list[dict[str, Any]]:
    """R@10 on validation of fresh students on each finalist's D~, and on that of the given settings, the same seeds.

    A row per trial: `trial`, `seeds` (values), `mean`; for a finalist also `minus_given`: mean difference, 95 %
    interval by Student's t over the students. A finalist on which a student is not finite is out. Empty without any.
    """
    chosen = finalists(tried)
    if not chosen:
        return []
    plan = search.plan
    out: list[dict[str, Any]] = []
    with matmul_precision(plan.model.precision, plan.device):
        setting = make_setting(plan.data, plan.model, plan.config.length, plan.device, console)
        for t in [tried[0], *chosen]:
            console.note(f"confirming trial {t.index}: {plan.students} fresh students")
            try:
                values = fresh_values(search, setting, t, console)
            except NotFinite as error:
                if t.index == 0:
                    raise
                console.note(f"trial {t.index} is out: {error.message}")
                continue
            out.append({"trial": t.index, "seeds": values, "mean": float(np.mean(values))})
    for row in out[1:]:
        row["minus_given"] = difference(row["seeds"], out[0]["seeds"])
    return out


def fresh_values(search: Search, setting: Setting, t: Tried, console: Console) -> list[float]:
    """R@10 of each fresh student on the trial's D~."""
    plan = search.plan
    config, student = search.settings(t.found)
    try:
        made = bundle.load(folder(plan, t.index))
    except FosterError as error:
        console.note(f"the bundle of trial {t.index} is made again: {error.message}")
        attempt(plan, search.base, search.cells, config, student, folder(plan, t.index), lambda *_: None, console)
        made = bundle.load(folder(plan, t.index))
    Q, V, reading = made.Q.to(plan.device), made.V.to(plan.device), made.reading.to(plan.device)
    subset = make_subset(config, V, plan.seed, student)
    values = []
    with console.progress(f"fresh students on trial {t.index}", plan.students) as bar:
        for i in range(plan.students):
            seed = stream_seed(plan.seed, "confirm", i)
            quiet = Console(quiet=True)
            check = fresh_check(setting.fresh, V, subset, setting.valid, student, seed, 1, quiet, reading)
            fields = check_fields(search.base, config, student, reading, 1, seed)
            values.append(remembered(check, search.cells, fields)(Q)["R@10"])
            bar.at(i + 1, f"R@10 {values[-1]:.4f}")
    return values


def difference(a: list[float], b: list[float]) -> dict[str, float | None]:
    """Mean of a - b, paired, and its 95 % interval by Student's t; no interval from one pair."""
    from scipy.stats import t

    delta = np.array(a) - np.array(b)
    mean = float(delta.mean())
    if len(delta) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(t.ppf(0.975, len(delta) - 1)) * float(delta.std(ddof=1)) / math.sqrt(len(delta))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def conclude(search: Search, tried: list[Tried], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """tune.json: the answer is the finalist with the best mean, if that is above what was given."""
    plan = search.plan
    best = max(rows[1:], key=lambda row: row["mean"], default=None)
    above = best is not None and best["minus_given"]["mean"] > ROUNDING
    answer = tried[best["trial"]] if best is not None and above else tried[0]
    config, student = search.settings(answer.found)
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics},
        "seed": plan.seed, "given": plan.given,
        "space": {
            p.name: {"given": p.base, "low": p.setting(p.low), "high": p.setting(p.high)} for p in search.parameters
        },
        "trials": [_line(search, t) for t in tried],
        "confirmed": rows, "students": plan.students,
        "answer": {
            "trial": answer.index, "as_given": answer.index == 0, "best_step": answer.best_step,
            "changed": search.changed(answer.found),
        },
        "settings": as_file(plan.model, plan.train, config, student), "machine": machine(),
    }  # fmt: skip


def _line(search: Search, t: Tried) -> dict[str, Any]:
    settings = {p.name: p.setting(t.found[p.name]) for p in search.parameters}
    values = {str(step): value for step, value in t.values.items()}
    return {
        "trial": t.index, "state": t.state, "R@10": t.value, "best_step": t.best_step,
        "last_step": max(t.values, default=None), "by_step": values, "seconds": t.seconds, **settings,
    }  # fmt: skip


def write_trials(search: Search, tried: list[Tried]) -> None:
    """trials.csv; `last_step` is the last outer step that was validated."""
    with writing(search.plan.out / "trials.csv") as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        names = ["trial", "state", "R@10", "best_step", "last_step", "seconds", *[p.name for p in search.parameters]]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for t in tried:
            line = _line(search, t)
            del line["by_step"]
            writer.writerow({**line, "seconds": f"{t.seconds:.1f}"})


def write(plan: Plan, found: dict[str, Any]) -> None:
    """settings.json and tune.json, each whole or not at all."""
    for name, content in (("settings", found["settings"]), ("tune", found)):
        with writing(plan.out / f"{name}.json") as tmp:
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            tmp.write_text(text + "\n", encoding="utf-8", newline="\n")
