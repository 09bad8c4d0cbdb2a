"""The rows of the table of one bundle. All rank the same held-out cases, over all items.

In: a `Task` (data, fresh models) and a synthetic set, or real windows. Out: rows by name (`row.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from foster_cli.console import Stage
from foster_cli.data.windows import Windows
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.errors import FosterError
from foster_cli.evaluate.references import REFERENCES, SEEDED, Sources, asked_rows, left_out, refusal, without_text_rows
from foster_cli.evaluate.row import HeldOut, Row, RowCache, Trained, joined, make_now, model_row
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import peak_memory_mb, reset_peak, stream_seed
from foster_cli.settings import Settings, StudentConfig, TrainConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.fit import fit_real
from foster_cli.train.task import Task

#: Maximum number of validations of a model on a few real sequences, 20 steps apart.
FEW_CHECKS = 15
#: How long training on a synthetic set takes if item vectors are not V, and with how many items per step.
LONGER: dict[str, Any] = {"steps": 600, "items_per_step": 2048}
#: The rows of a synthetic set.
SYNTHETIC = ("synthetic", "synthetic_text", "without_factor")
#: All rows in the table's order, and those that are made by default.
ROWS = tuple(x for name in (*SYNTHETIC, *REFERENCES) for x in (("random", name) if name == "untrained" else (name,)))
DEFAULT = asked_rows(None, ROWS)
#: The rows that every set has of its own; the others are the same for all sets of the same data.
OWN = (*SYNTHETIC, "random", "teacher", *SEEDED)


def random_windows(windows: Windows, budget: int, seed: int) -> Windows:
    """`budget` windows drawn uniformly."""
    rng = np.random.default_rng(stream_seed(seed, "random"))
    return windows.take(np.sort(rng.choice(len(windows), budget, replace=False))).alone()


def few_model(task: Task, config: TrainConfig, windows: Windows, seed: int, label: str) -> Trained:
    """A model trained on a few real windows, all in every batch, with the loss that does better on validation."""
    reset_peak()
    best: tuple[float, Recommender, str] | None = None
    began, spent = time.perf_counter(), 0.0
    for loss in ("softmax", "bce"):
        model = task.fresh(seed)
        few = replace(config, loss=loss, batch=len(windows), epochs=FEW_CHECKS)
        fit = fit_real(model, windows, task.valid, few, seed, Stage(task.session.console, f"{label}, {loss}"))
        spent += fit.processor
        if best is None or fit.valid["R@10"] > best[0]:
            best = (fit.valid["R@10"], model, f"{loss}, {fit.best} steps")
    assert best is not None
    seconds = (time.perf_counter() - began) / 2
    return Trained(best[1], seconds, peak_memory_mb(task.device), best[2], best[0], spent / 2)


@dataclass(frozen=True)
class Student:
    """How a fresh model trains on the synthetic set: for all steps of `config`, or to its best `validated` state."""

    config: StudentConfig
    validated: bool = False

    def longer(self, item_start: str) -> Student:
        """The same with item vectors that start as said and are not V, and the steps and items that this needs."""
        return replace(self, config=replace(self.config, item_start=item_start, **LONGER))


def synthetic_model(task: Task, D: SyntheticSet, student: Student, seed: int, label: str) -> Trained:
    """A fresh model trained on the synthetic set."""
    reset_peak()
    model, valid = task.fresh(seed), task.valid if student.validated else None
    fit = fit_synthetic(model, D, valid, student.config, seed, Stage(task.session.console, label))
    peak, chosen = peak_memory_mb(task.device), f"step {fit.best}"
    return Trained(model, fit.seconds, peak, chosen, fit.valid.get("R@10"), fit.processor)


def rows(
    task: Task, test: HeldOut, source: SyntheticSet | Windows, settings: Settings, student: Student,
    names: tuple[str, ...], seeds: list[int], cache: RowCache = make_now,
) -> dict[str, Row]:  # fmt: skip
    """The rows of `names`, in the table's order. `source`: the training data of the row `synthetic`, a synthetic set or
    the real windows of a coreset; on the latter it trains as the row `random` does.

    A row that these data do not have (`left_out`) is left out with a note, and raises FosterError if it was named by
    itself. `cache` returns one seed of a row, stored or made now.
    """
    console, budget = task.session.console, settings.distill.budget
    names = without_text_rows(names, task.data, console)

    def random(seed: int) -> Trained:
        windows = random_windows(task.windows, budget, seed)
        return few_model(task, settings.train, windows, seed, f"random {budget}")

    def synthetic(seed: int) -> Trained:
        label = f"synthetic, seed {seed}"
        if isinstance(source, Windows):
            return few_model(task, settings.train, source, seed, label)
        return synthetic_model(task, source, student, seed, label)

    def longer(on: Task, item_start: str, label: str, seed: int) -> Trained:
        assert not isinstance(source, Windows)
        other = student.longer(item_start)
        subset = make_subset(settings.distill, source.V, settings.seed, other.config)
        return synthetic_model(on, replace(source, subset=subset), other, seed, f"{label}, seed {seed}")

    def without_factor(seed: int) -> Trained:
        return longer(task, "text", "synthetic without its item factor", seed)

    def texts(seed: int) -> Trained:
        return longer(task.known_by("text"), student.config.item_start, "synthetic, texts only", seed)

    def trained(name: str, train: Callable[[int], Trained]) -> Row:
        return joined([cache(name, seed, partial(model_row, test, seed, train)) for seed in seeds])

    def missing(name: str) -> str | None:
        """Why these data have no row `name`."""
        if name in SYNTHETIC[1:] and isinstance(source, Windows):
            return "real sequences bring no item factor"
        if name == "without_factor" and student.config.item_start == "text":
            return "it is the row synthetic"
        return left_out(name, task.model)

    own = {"synthetic": synthetic, "synthetic_text": texts, "without_factor": without_factor, "random": random}
    sources, out = Sources(task, test, settings.train, settings.seed, settings.distill.teacher), dict[str, Row]()
    for name in [n for n in ROWS if n in names]:
        console.note(f"row {name}")
        reason = missing(name)
        if name == "equal_compute":
            measured = out["synthetic"] if "synthetic" in out else trained("synthetic", synthetic)
            sources = replace(sources, seconds=float(np.mean(measured.processor)))
        try:
            if reason is None and name in own:
                out[name] = trained(name, own[name])
            elif reason is None:
                make, used = REFERENCES[name], seeds if name in SEEDED else seeds[:1]
                out[name] = joined([cache(name, seed, partial(make, sources, seed)) for seed in used])
        except FosterError as error:
            reason = left_out(name, task.model, error)
            if reason is None or len(names) == 1:
                raise
        if reason is not None:
            if len(names) == 1:
                raise refusal(name, reason, ROWS)
            console.note(f"row {name} is left out: {reason}")
    return out
