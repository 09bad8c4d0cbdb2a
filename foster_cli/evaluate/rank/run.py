"""`foster rank`: trains every configuration on a bundle's set, and on request on all the data, and ranks them.

In: a `RankPlan`. Out: the JSON of the ranking. Only validation cases are ranked: the test split is for the model that
is chosen. Every trained model is a cell (`evaluate/cells.py`), so that none is trained twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foster_cli.bundle import SUMS, Bundle
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases, Windows, evaluation_cases, protocol_of
from foster_cli.errors import NotFinite
from foster_cli.evaluate.bundle_rows import bundle_task, training_source
from foster_cli.evaluate.cells import Cell, Cells, base_fields
from foster_cli.evaluate.economics import make_seconds
from foster_cli.evaluate.rank.configs import Config, naming
from foster_cli.evaluate.rank.figures import Measured, Scored, figures
from foster_cli.evaluate.row import Float, Trained
from foster_cli.evaluate.rows import Student, few_model, synthetic_model
from foster_cli.files import check_writable
from foster_cli.models.recommender import Recommender
from foster_cli.ops.precision import matmul_precision
from foster_cli.ranking.full import score_model
from foster_cli.ranking.metrics import at_ten
from foster_cli.ranking.sample import SAMPLE, VALIDATION, sample
from foster_cli.runtime import machine
from foster_cli.session import Session
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.train.anchors import full_teacher
from foster_cli.train.task import Task, check_texts


@dataclass(frozen=True)
class RankPlan:
    """What is ranked. `seeds`: fresh models for each configuration, from the bundle's seed on; `full`: each is also
    trained on all the data, with the bundle's seed; `out`: the folder of the finished models in cells/."""

    bundle: Bundle
    data: Dataset
    configs: tuple[Config, ...]
    seeds: int
    full: bool
    session: Session
    out: Path

    @property
    def real(self) -> bool:
        """Whether the bundle holds real sequences."""
        return self.bundle.windows is not None


def rank(plan: RankPlan) -> dict[str, Any]:
    """Train what is not stored yet; return the JSON of the ranking.

    Raises FosterError, naming the configuration, for one that cannot be trained, and for a folder that cannot be
    written. A training that does not stay finite is no error: its model finds nothing.
    """
    made, console = plan.bundle.made, plan.session.console
    protocol = protocol_of(plan.data, made.ranking)
    every = evaluation_cases(plan.data, "valid", made.distill.length, protocol)
    cases = sample(every, VALIDATION)
    seeds = [made.seed + i for i in range(plan.seeds)]
    for config in plan.configs:  # a wrong name is said before anything is trained
        _Trainer(plan, config, cases).find_encoder()
    check_writable(plan.out / "rank.json")
    found = []
    for i, config in enumerate(plan.configs):
        found.append(_Trainer(plan, config, cases).measured(seeds))
        value = at_ten(found[i].own.ranks)["R@10"]
        console.note(f"{config.name} ({i + 1} of {len(plan.configs)}): validation R@10 {value:.4f}")
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash}, "bundle": str(plan.bundle.path),
        "method": made.method, "budget": made.distill.budget, "split": "valid", "cases": len(cases),
        "all_cases": len(every), "ranking": asdict(protocol), "seeds": seeds, **figures(found, cases.user),
        "make_seconds": make_seconds(plan.bundle), "settings": made.sections(), "machine": machine(),
    }  # fmt: skip


@dataclass
class _Trainer:
    """Trains one configuration and ranks `cases` with its models."""

    plan: RankPlan
    config: Config
    cases: Cases

    @cached_property
    def cells(self) -> Cells:
        return Cells(self.plan.out / "cells", self.plan.session.console)

    @cached_property
    def task(self) -> Task:
        """The task of this configuration, made when its first model is."""
        plan, own = self.plan, self.config.own.get("model", {})
        return bundle_task(plan.bundle, plan.data, self.config.settings, plan.session, "encoder" in own)

    @cached_property
    def source(self) -> SyntheticSet | Windows:
        return training_source(self.plan.bundle, self.config.settings, self.plan.session.device)

    def find_encoder(self) -> None:
        """Raise FosterError if the text encoder cannot be found."""
        with naming(self.config.name):
            check_texts(self.plan.data, self.config.settings.model)
            self.fields(self.plan.bundle.made.seed, True)

    def measured(self, seeds: list[int]) -> Measured:
        """The ranks by the models trained on the set, and by the one trained on all the data if it is asked for."""
        with naming(self.config.name), matmul_precision(self.config.settings.model.precision, self.plan.session.device):
            own = [self.cell("set", seed, self.on_set) for seed in seeds]
            full = [self.cell("full", seeds[0], self.on_all)] if self.plan.full else None
        return Measured(self.config.name, self.config.own, scored(own), None if full is None else scored(full))

    def cell(self, kind: str, seed: int, train: Callable[[int], Trained]) -> Cell:
        """The stored model of `seed`, or a new one. `kind`: `set`, or `full` for one of all the data."""
        fields = self.fields(seed, kind == "full")
        return self.cells.cell(f"{kind}-s{seed}", fields, lambda: self.ranked(lambda: train(seed)))

    def fields(self, seed: int, full: bool) -> dict[str, Any]:
        """What a model of `seed` and its ranks depend on."""
        plan, settings = self.plan, self.config.settings if full else self.config.on_set(self.plan.real)
        fields = {
            **base_fields(settings, plan.data, plan.session.device), "threads": torch.get_num_threads(),
            "seed": seed, "sample": [VALIDATION, SAMPLE],
        }  # fmt: skip
        if full:
            return fields
        sums = (plan.bundle.path / SUMS).read_text(encoding="utf-8")
        return {**fields, "bundle": sums, "student": asdict(settings.student)}

    def on_set(self, seed: int) -> Trained:
        """A fresh model trained on the set, as for the row `synthetic` of `foster eval`."""
        settings, label = self.config.settings, f"{self.config.name}, seed {seed}"
        if isinstance(self.source, Windows):
            return few_model(self.task, settings.train, self.source, seed, label)
        return synthetic_model(self.task, self.source, Student(settings.student), seed, label)

    def on_all(self, seed: int) -> Trained:
        """A model trained on all the data, or read from the cache."""
        label = f"{self.config.name}, all the data"
        teacher = full_teacher(self.task, self.config.settings.train, seed, label)
        return Trained(teacher.model, teacher.seconds, teacher.peak_mb, None)

    def ranked(self, train: Callable[[], Trained]) -> Cell:
        """The ranks (C,) of the cases by a model, and its seconds; infinite ranks if it does not stay finite."""
        began = time.perf_counter()
        try:
            trained = train()
            return Cell({"train_seconds": trained.seconds, "finite": True}, finite_ranks(trained.model, self.cases))
        except NotFinite as error:
            self.plan.session.console.note(f"{self.config.name}: its model finds nothing: {error.message}")
            seconds, nothing = time.perf_counter() - began, np.full(len(self.cases), np.inf)
            return Cell({"train_seconds": seconds, "finite": False}, nothing)


def finite_ranks(model: Recommender, cases: Cases) -> Float:
    """The ranks (C,) of the cases. Raises NotFinite if a score is NaN or infinite."""
    try:
        return score_model(model, cases)
    except ValueError as error:  # of `rank_counts`
        raise NotFinite(str(error), "use a lower learning rate") from error


def scored(cells: list[Cell]) -> Scored:
    """The cells of the seeds of one configuration as one."""
    ranks = np.stack([cell.ranks for cell in cells if cell.ranks is not None])
    seconds = [float(cell.record["train_seconds"]) for cell in cells]
    return Scored(ranks, seconds, sum(not cell.record["finite"] for cell in cells))
