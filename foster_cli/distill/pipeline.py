"""From a dataset to a bundle: teacher, V, starting point, outer loop, manifest.

In: a `Dataset` and the `Settings` of the run. Out: a bundle folder, complete or absent. During the run its state is
stored in `<bundle>.run` (`run_folder.py`), from which an interrupted run continues.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foster_cli import bundle
from foster_cli.checkpoint import Store
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases, repeat_share
from foster_cli.distill.algorithm2 import Problem
from foster_cli.distill.checks import check_budget, check_settings
from foster_cli.distill.follow import WINDOWS, distill
from foster_cli.distill.loop import Distilled, Loop
from foster_cli.distill.run_folder import IF_SAME, Beginning, RunFolder, Start, start_tree, stored_start
from foster_cli.distill.starts import best_start, starting_points
from foster_cli.distill.validation import Check, FreshCheck, ValidationCache, no_cache
from foster_cli.files import sha256_json
from foster_cli.ops.precision import matmul_precision
from foster_cli.ranking.sample import VALIDATION, sample
from foster_cli.runtime import machine, peak_memory_mb, reset_peak
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.synthetic.quantise import restored, rounded, stored
from foster_cli.synthetic.reading import Reading
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.anchors import Teacher, full_teacher
from foster_cli.train.memory import note_memory
from foster_cli.train.micro import Micro
from foster_cli.train.mixture import Mixture, View, mixture_of, quality, recommender_view, trained
from foster_cli.train.task import Task, check_texts, make_task, settled
from foster_cli.train.verdict import verdict


def identity(settings: Settings, task: Task, V: Tensor) -> dict[str, Any]:
    """The manifest's entries on method, data, encoder and settings: everything except metrics and machine."""
    data = task.data
    return {
        "method": settings.method,
        "data": {
            "name": data.name, "path": list(settings.paths), "prepare": dataclasses.asdict(settings.prepare),
            "hash": data.hash, "statistics": data.statistics, "settings": data.settings,
            "repeats": repeat_share(data),
        },
        "encoder": task.encoder_identity(),
        "item_factor": {"shape": list(V.shape), "sha256_of_ids": sha256_json(data.catalogue.ids)},
        **settings.sections(),
        "seed": settings.seed,
    }  # fmt: skip


def real_windows(settings: Settings) -> int:
    """The real windows that an outer step reads."""
    config = settings.distill
    if config.steps == 0:
        return 0
    return WINDOWS if settings.method == "foster" and config.outer == "follow" else config.real_batch


def run(
    settings: Settings, data: Dataset, out: Path, session: Session, loop: Loop = distill,
    cache: ValidationCache = no_cache, beginning: Beginning = IF_SAME,
) -> dict[str, Any]:  # fmt: skip
    """Distil `data` into the bundle `out`; return its manifest.

    `loop`: the method's outer loop. `cache`: reuses validations. `beginning`: whether an interrupted run is
    continued. Raises FosterError for settings, data or a stored run that do not fit.
    """
    check_settings(settings)
    began, config = time.perf_counter(), settings.distill
    check_texts(data, settings.model, settings.distill.teacher)
    settings = settled(settings, data, session.console)
    with matmul_precision(settings.model.precision, session.device):
        task = make_task(data, settings.model, config.length, session, settings.ranking)
        check_budget(len(task.windows), config)
        note_memory(task, settings.train, real_windows(settings), 2 * config.budget)
        with RunFolder.open(out, settings, task, beginning) as folder:
            return _Distillation(settings, task, folder, began).make(out, loop, cache)


@dataclass
class _Distillation:
    """One distillation. Each stage resumes from `folder`. `began`: the `time.perf_counter()` of the command's start;
    `per_step`: processor seconds of a step of each fresh model that this process trained on D~."""

    settings: Settings
    task: Task
    folder: RunFolder
    began: float
    per_step: list[float] = field(default_factory=list)

    def make(self, out: Path, loop: Loop, cache: ValidationCache) -> dict[str, Any]:
        """Make teacher, starting point, D~ and bundle; return the bundle's manifest."""
        s, task, console = self.settings, self.task, self.task.session.console
        teacher, members = self.teacher(), trained(s.distill.teacher, task, s.train, s.seed)
        reset_peak()
        before, store = time.perf_counter() - self.began, self.folder.distilling()
        mixture = self.mixture(members)
        view = recommender_view("own", teacher.model) if mixture is None else mixture.view
        cases = sample(task.valid, VALIDATION)
        answers = view.last(cases)
        factor = self.item_factor(view.V, answers, cases)
        V = restored(factor)
        view = dataclasses.replace(view, V=V)
        students = make_subset(s.distill, V, s.seed, s.student)

        def check_of(reading: Reading, count: int) -> Check:
            told = self.per_step.append
            return cache(FreshCheck(task, V, students, reading, s.student, s.seed, count, told, answers), store.spent)

        chosen = stored_start(store, V)
        if chosen is None:
            starts = starting_points(view.outputs, V, task.windows, s.distill, s.seed, view.inputs)
            chosen = best_start(starts, lambda reading: check_of(reading, 1), s.distill, V, console, store)
            store.write({"start": start_tree(*chosen, V)})
        start, reading = chosen
        problem = Problem(
            teacher, task.fresh, V, task.windows, make_subset(s.distill, V, s.seed), s.distill, s.train, s.seed,
            reading, store, Micro(note=console.note), view, s.student, students,
        )  # fmt: skip
        if start.error:
            console.note(f"the ranks leave out {start.error:.1%} of the squared length of Q")
        result = loop(problem, start.synthetic, check_of(reading, s.distill.check_seeds), console)
        metrics = self.metrics(teacher, start, result, before, store)
        if mixture is not None:
            metrics["teacher"] = {"weights": mixture.weights, "alone": mixture.alone, "valid": mixture.valid}
            others = {name: view.seconds for name, view in members.items() if name != s.model.items}
            metrics["teacher"]["seconds"] = others  # those of the own recommender are the `teacher_seconds`
        manifest = {**identity(s, task, V), "metrics": metrics, "machine": machine()}
        state = None
        if result.last is not None and s.method == "foster" and s.distill.keep_state:
            state = {"outer": result.last, "start": {**start_tree(start, reading, V), "factors": None}}
        contents = bundle.Contents(manifest, V, task.data.catalogue, result.log, result.checks, factor)
        self.folder.check_place(out)
        bundle.save(out, contents, result.factors, reading.items, state, self.folder.folder)
        self.folder.finish()
        return manifest

    def teacher(self) -> Teacher:
        """Train the teacher, or read it from the cache, and print its validation R@10."""
        s, console = self.settings, self.task.session.console
        teacher = full_teacher(self.task, s.train, s.seed, folder=self.folder.folder)
        full, untrained = teacher.best, teacher.untrained["R@10"]
        console.note(f"full data: validation R@10 {full:.4f} (untrained {untrained:.4f})")
        console.event(event="teacher", **{"R@10": full, "untrained": untrained})
        line = verdict(self.task, teacher.model, s.seed)
        if line is not None:
            console.note(line)
        return teacher

    def item_factor(self, V: Tensor, answers: Tensor, cases: Cases) -> dict[str, Tensor]:
        """The tensors that store the item factor V: exact, or rounded as far as `cases` allow. `answers`: the teacher's
        outputs on them."""
        if self.settings.distill.exact:
            return stored(V, 32)
        found = rounded(V, lambda X: quality(answers, X, cases)["R@10"])
        bits = 8 * next(iter(found.values())).element_size()
        self.task.session.console.note(f"the item factor is stored in {bits} bits per number")
        return found

    def mixture(self, members: dict[str, View]) -> Mixture | None:
        """The mixture of `--teacher`, with a note of what was chosen; None if the recommender answers itself.

        `members`: its trained recommenders.
        """
        s, console = self.settings, self.task.session.console
        if s.distill.teacher == "own":
            return None
        found = mixture_of(s.distill.teacher, self.task, s.train, s.seed, members)
        console.note(found.text())
        return found

    def metrics(self, teacher: Teacher, start: Start, result: Distilled, before: float, store: Store) -> dict[str, Any]:
        """The manifest's metrics. `before`: seconds until the teachers were ready."""
        steps, seconds = [row["seconds"] for row in result.log], store.elapsed
        students = int(result.best_check["student_steps"])
        return {
            "best_step": result.best_step, "valid_R@10": result.best_check["R@10"],
            "valid_R@10_step_0": result.checks[0]["R@10"], "full_valid_R@10": teacher.best,
            "untrained_valid_R@10": teacher.untrained["R@10"], "start": start.name, "rank_error": start.error,
            "contexts": start.contexts, "stopped": result.stopped, "seconds_distill": seconds,
            "seconds_total": before + seconds,
            "seconds_per_outer_step": float(np.median(steps)) if steps else None,
            "peak_mb": peak_memory_mb(self.task.device), "teacher_seconds": teacher.seconds,
            "teacher_way": teacher.way, "student_steps": students,
            "student_seconds": students * float(np.median(self.per_step)) if self.per_step else None,
        }  # fmt: skip
