"""`foster compare`: ways of shrinking a dataset, compared on held-out cases.

In: a `Comparison` (data, settings, variants). Out: a `Measured`; the JSON of `foster compare`. First every variant's
bundle is made with seed 0. Then its learning rate is chosen on validation with one seed. Only then are the held-out
cases ranked, once per variant and seed. All these results are cells (`cells.py`): a second call only reads them.
"""

from __future__ import annotations

import dataclasses
import filecmp
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from foster_cli import bundle
from foster_cli.baselines import METHODS
from foster_cli.baselines.coreset import run_coreset
from foster_cli.data.windows import Windows
from foster_cli.distill.pipeline import run
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate.bundle_rows import training_source
from foster_cli.evaluate.cells import Cell, Cells, as_cell, as_row
from foster_cli.evaluate.economics import data_bytes, needed
from foster_cli.evaluate.plan import SEED, Comparison, Variant, check_plan, make_out
from foster_cli.evaluate.references import REFERENCES, SEEDED, Sources, full_model, left_out, without_text_rows
from foster_cli.evaluate.remembered import Remembered
from foster_cli.evaluate.row import HeldOut, Row, Trained, held_out, joined, model_row
from foster_cli.evaluate.rows import Student, few_model, synthetic_model
from foster_cli.evaluate.summary import summarise
from foster_cli.files import writing_dir
from foster_cli.models.item_start import every_item
from foster_cli.models.recommender import Recommender
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine
from foster_cli.settings import ModelConfig
from foster_cli.train.task import Task, make_task

#: The rows that belong to no variant and are made for each of the models.
PER_MODEL = ("full", "untrained")
#: The rows that belong to no variant and depend on the learning rate on all the data.
TRAINED = ("full", "text", "id", "teacher", "equal_compute", "item_factor")
#: Those of what was distilled, with the rate it was trained at.
DISTILLED = ("teacher", "item_factor")
#: Validation R@10 for each learning rate, as text; None: training became NaN.
ByRate = dict[str, float | None]


class Learned(NamedTuple):
    """A `Trained` with the state, on the CPU, in place of the model. With it, a row's first seed is not trained again
    after the learning rate is chosen. `every`: each item has a vector of its own (`every_item`)."""

    state: dict[str, Tensor]
    every: bool
    seconds: float
    peak_mb: float
    chosen: Any
    valid: float
    processor: float

    @classmethod
    def of(cls, trained: Trained) -> Learned:
        """`trained`, validated, with what it has learned and what was held meanwhile."""
        model, valid = trained.model, trained.valid
        assert valid is not None
        held = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if not n.startswith("text.")}
        state = {**held, **model.learnables()}
        return cls(state, model.known is None, *trained[1:4], valid, trained.processor)

    def on(self, fresh: Recommender) -> Trained:
        """The trained model again, restored into `fresh`."""
        if self.every:
            every_item(fresh)
        fresh.restore({**fresh.learnables(), **self.state})
        return Trained(fresh, *self[2:])


@dataclass(frozen=True)
class Shrunk:
    """A variant's bundle: its path, its manifest, the fields of its cell; then the learning rate for training on it and
    the validation R@10 of each rate. The bundle itself is loaded only for training, because it holds V.

    `first`: the model of seed 0 with that rate, if this call trained it.
    """

    variant: Variant
    path: Path
    manifest: dict[str, Any]
    fields: dict[str, Any]
    rate: float = 0.0
    valid: ByRate = dataclasses.field(default_factory=dict)
    first: Learned | None = None

    def costs(self) -> dict[str, Any]:
        """The costs in a row: time and memory to select or distil (without the teacher), learning rate, validation."""
        m = self.manifest
        seconds = m["metrics"]["seconds_select" if self.variant.real else "seconds_distill"]
        return {
            "method": m["method"], "select_seconds": seconds, "select_peak_mb": m["metrics"]["peak_mb"],
            "rate": self.rate, "valid_by_rate": self.valid, "distill": m["distill"],
        }  # fmt: skip

    def training_fields(self, rate: float, seed: int) -> dict[str, Any]:
        """The fields of a model trained on the bundle: how the bundle was made, its content, learning rate and seed."""
        sums = (self.path / bundle.SUMS).read_text(encoding="utf-8").splitlines()
        unread = bundle.STATE_FILES  # the state for resuming the distillation: no training reads it
        content = sorted(line for line in sums if line.endswith(".safetensors") and not line.endswith(unread))
        return {**self.fields, "content": content, "rate": rate, "seed": seed}


@dataclass(frozen=True)
class Measured:
    """The ranks of every row, the variants' bundles by row name, and the JSON that `summarise` makes of the ranks."""

    rows: dict[str, Row]
    made: dict[str, Shrunk]
    summary: dict[str, Any]


def measure(plan: Comparison) -> Measured:
    """Compute all rows of the plan. Cells, and bundles under their rows' names, are written to `plan.out`.

    Raises FosterError for settings out of range, a folder that cannot be written, or training that fails at every rate.
    """
    check_plan(plan)
    base = {model: plan.base(model) for model in plan.models}
    make_out(plan)
    work = _Work(plan, Cells(plan.out / "cells", plan.session.console), base)
    made = {}
    for i, variant in enumerate(plan.variants):
        plan.session.console.note(f"making {variant.name} ({i + 1} of {len(plan.variants)})")
        made[variant.name] = work.shrink(variant)
        if plan.publish:
            publish(made[variant.name].path, plan.out / variant.name)
    model = next(iter(plan.models))  # models differ only in layers, not in precision
    with matmul_precision(model.precision, plan.session.device):
        length, ranking = plan.settings.distill.length, plan.settings.ranking
        work.tasks.update({m: make_task(plan.data, m, length, plan.session, ranking) for m in plan.models})
        made = {name: work.choose_rate(shrunk) for name, shrunk in made.items()}
        test = held_out(next(iter(work.tasks.values())), min(plan.ks), plan.split)
        found = {name: work.variant_row(shrunk, test) for name, shrunk in made.items()}
        full = {model: work.full_rate(model) for model in plan.models}
        first = made[next(iter(made))] if made else None
        spent = float(np.mean(found[first.variant.name].processor)) if first is not None else 0.0
        found |= work.common_rows(test, {model: rate for model, (rate, _) in full.items()}, first, spent)
    summary = summarise(found, test, plan.ks, list(range(plan.seeds)), pairs=plan.pairs)
    for name, entry in summary["rows"].items():
        entry |= made[name].costs() if name in made else {"method": None}
    for model, (rate, valid) in full.items() if "full" in plan.common else ():
        summary["rows"][f"full{plan.models[model]}"] |= {"rate": rate, "valid_by_rate": valid}
    return Measured(found, made, summary)


def compare_methods(plan: Comparison) -> dict[str, Any]:
    """The table of `foster compare` as JSON: rows, paired differences, settings, machine."""
    measured = measure(plan)
    made, out, raw = measured.made, measured.summary, data_bytes(plan.settings.paths)
    first = next(iter(made.values()))  # all of them hold the same titles, and an item factor of one teacher
    for name, row in out["rows"].items():
        row["bytes"] = needed("synthetic", made[name].path, raw) if name in made else needed(name, first.path, raw)
    return {
        **plan.head(), "methods": [v.name for v in plan.variants], "budget": plan.settings.distill.budget,
        "rates": list(plan.rates), "k": list(plan.ks), **out, "settings": plan.shared(), "machine": machine(),
    }  # fmt: skip


@dataclass(frozen=True)
class _Work:
    """A plan in progress: its cells, their base fields and a task for each recommender."""

    plan: Comparison
    cells: Cells
    base: dict[ModelConfig, dict[str, Any]]
    tasks: dict[ModelConfig, Task] = dataclasses.field(default_factory=dict)

    def note(self, text: str) -> None:
        self.plan.session.console.note(text)

    def shrink(self, variant: Variant) -> Shrunk:
        """The variant's bundle, as `foster distill` makes it with seed 0."""
        plan, s, base = self.plan, variant.settings, self.base[variant.settings.model]

        def make(path: Path) -> object:
            if variant.real:
                return run_coreset(s, plan.data, path, plan.session)
            loop = variant.loop or METHODS[s.method].loop
            return run(s, plan.data, path, plan.session, loop, Remembered(self.cells, base, s.distill))

        fields = variant.fields(base)
        made = self.cells.bundle(variant.cell, fields, make)
        return Shrunk(variant, made.path, made.manifest, fields)

    def train_on(self, shrunk: Shrunk, rate: float, seed: int, label: str) -> Trained:
        """A fresh model trained on the bundle with learning rate `rate`, as `foster eval --validate` trains it."""
        plan, own, task = self.plan.settings, shrunk.variant.settings, self.tasks[shrunk.variant.settings.model]
        student = replace(plan.student, lr=rate)
        source = training_source(bundle.load(shrunk.path), replace(own, student=student, seed=SEED), task.device)
        if isinstance(source, Windows):
            return few_model(task, replace(plan.train, lr=rate), source, seed, label)
        return synthetic_model(task, source, Student(student, validated=True), seed, label)

    def choose_rate(self, shrunk: Shrunk) -> Shrunk:
        """The learning rate whose model (seed 0) validates best, the first of equal ones. A rate that ends in NaN is
        left out. Raises FosterError if all rates do."""
        name, rates = shrunk.variant.name, self.plan.rates
        if len(rates) == 1:
            return replace(shrunk, rate=rates[0])
        first: dict[float, Learned] = {}

        def train(rate: float) -> Trained:
            found = self.train_on(shrunk, rate, SEED, f"{name}, rate {rate:g}")
            if found.valid is not None and all(found.valid > other.valid for other in first.values()):
                first.clear()
                first[rate] = Learned.of(found)
            return found

        rate, valid = self.best_rate(
            f"{shrunk.variant.cell}-rate", name, "--rates", rates, lambda r: shrunk.training_fields(r, SEED), train
        )
        return replace(shrunk, rate=rate, valid=valid, first=first.get(rate))

    def full_rate(self, model: ModelConfig) -> tuple[float, ByRate]:
        """The rate of `plan.full_rates` whose model on all the data (seed 0) validates best, and R@10 for each rate."""
        plan, task = self.plan, self.tasks[model]
        if len(plan.full_rates) <= 1 or not set(plan.common) & (set(TRAINED) - set(DISTILLED)):
            return (plan.full_rates or (plan.settings.train.lr,))[0], {}

        def train(rate: float) -> Trained:
            return full_model(task, replace(plan.settings.train, lr=rate), SEED)

        def fields(rate: float) -> dict[str, Any]:
            return {**with_rate(self.base[model], rate), "row": "full", "seed": SEED}

        return self.best_rate("full-rate", f"full{plan.models[model]}", "--full-rates", plan.full_rates, fields, train)

    def best_rate(
        self, cell: str, name: str, option: str, rates: tuple[float, ...], fields: Callable[[float], dict[str, Any]],
        train: Callable[[float], Trained],
    ) -> tuple[float, ByRate]:  # fmt: skip
        """The rate whose model validates best, the first of equals, and the validation R@10 of each (None: NaN)."""

        def make(rate: float) -> Cell:
            try:
                trained = train(rate)
            except NotFinite as error:
                self.note(f"{name}: rate {rate:g} is out: {error.message}")
                return Cell({"valid": None, "chosen": None, "why": error.message})
            return Cell({"valid": trained.valid, "chosen": trained.chosen})

        valid: dict[float, float | None] = {}
        for rate in rates:
            cell_of = self.cells.cell(cell, {**fields(rate), "cell": "rate"}, partial(make, rate))
            valid[rate] = cell_of.record["valid"]
        usable = {rate: value for rate, value in valid.items() if value is not None}
        if not usable:
            raise FosterError(f"{option}: training for the row {name} became NaN with each of them", "use lower rates")
        rate = max(usable, key=lambda key: usable[key])
        self.note(f"{name}: rate {rate:g}, validation R@10 {usable[rate]:.4f}")
        return rate, {f"{rate:g}": value for rate, value in valid.items()}

    def variant_row(self, shrunk: Shrunk, test: HeldOut) -> Row:
        """The held-out ranks of fresh models of all seeds, trained on the bundle with the chosen rate."""
        name, task = shrunk.variant.name, self.tasks[shrunk.variant.settings.model]

        def train(seed: int) -> Trained:
            if seed == SEED and shrunk.first is not None:
                return shrunk.first.on(task.fresh(seed))
            return self.train_on(shrunk, shrunk.rate, seed, f"{name}, seed {seed}")

        def make(seed: int) -> Cell:
            self.note(f"row {name}, seed {seed}")
            return as_cell(model_row(test, seed, train))

        found = []
        for seed in range(self.plan.seeds):
            fields = self.plan.rank_fields(shrunk.training_fields(shrunk.rate, seed), seed)
            found.append(as_row(self.cells.cell(f"{shrunk.variant.cell}-s{seed}", fields, partial(make, seed))))
        return joined(found)

    def common_rows(
        self, test: HeldOut, rates: dict[ModelConfig, float], first: Shrunk | None, seconds: float
    ) -> dict[str, Row]:
        """The rows that belong to no variant: those in PER_MODEL for each of the models, the others once. `rates`: the
        learning rates on all the data. `first`: the variant whose training took `seconds` of processor time, for
        `equal_compute`. A row that these data do not have is left out with a note."""
        out = {}
        for name in without_text_rows(self.plan.common, self.plan.data, self.plan.session.console):
            for model in self.plan.models if name in PER_MODEL else list(self.plan.models)[:1]:
                row, reason = f"{name}{self.plan.models[model]}" if name in PER_MODEL else name, None
                rate = self.plan.settings.train.lr if name in DISTILLED else rates[model]
                sources = Sources(
                    self.tasks[model],
                    test,
                    replace(self.plan.settings.train, lr=rate),
                    SEED,
                    self.plan.settings.distill.teacher,
                    seconds,
                )
                reason = left_out(name, model)
                try:
                    if reason is None:
                        out[row] = self.common_row(name, row, model, sources, first)
                except FosterError as error:
                    reason = left_out(name, model, error)
                    if reason is None:
                        raise
                if reason is not None:
                    self.note(f"row {name} is left out: {reason}")
        return out

    def common_row(self, name: str, row: str, model: ModelConfig, sources: Sources, first: Shrunk | None) -> Row:
        """The row `name` of `model`, shown as `row`."""

        def make(seed: int) -> Cell:
            self.note(f"row {row}, seed {seed}" if name in SEEDED else f"row {row}")
            return as_cell(REFERENCES[name](sources, seed))

        known = with_rate(self.base[model], sources.train.lr) if name in TRAINED else self.base[model]
        if name == "text_similarity" and model.items == "id":  # the only row that reads the encoder's vectors
            known = {**known, "texts": find_encoder(model.encoder, model.pooling).hash}
        if name == "teacher" and sources.teacher != "own":
            known = {**known, "teacher": sources.teacher}
        if name == "equal_compute" and first is not None:
            known = {**known, "as_long_as": first.training_fields(first.rate, SEED)}
        found = []
        for seed in range(self.plan.seeds if name in SEEDED else 1):
            fields = self.plan.rank_fields({**known, "row": name}, seed)
            found.append(as_row(self.cells.cell(f"{name}-s{seed}", fields, partial(make, seed))))
        return joined(found)


def with_rate(base: dict[str, Any], rate: float) -> dict[str, Any]:
    """The fields `base` with another learning rate for training on real data."""
    return {**base, "train": {**base["train"], "lr": rate}}


def pairs(methods: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each method with `full` and with `random`, `foster` with every other one; each pair once."""
    found = [(m, "full") for m in methods]
    found += [(m, "random") for m in methods if m != "random" and "random" in methods]
    found += [("foster", m) for m in methods if m != "foster" and "foster" in methods]
    return tuple(dict.fromkeys(found))


def publish(source: Path, target: Path) -> None:
    """Copy the bundle to `target`, under its row's name, unless the same files are already there."""
    names = sorted(p.name for p in source.iterdir())
    if target.exists() and filecmp.cmpfiles(source, target, names, shallow=False)[0] == names:
        return
    with writing_dir(target) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
