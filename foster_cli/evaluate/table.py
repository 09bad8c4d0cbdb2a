"""Ways of shrinking a dataset, side by side: their bundles, their learning rates, models ranked on a held-out split.

In: a `Plan` (data, settings, variants). Out: a `Measured`; the JSON of `foster compare`. First every variant's bundle,
made with seed 0, then its rate, chosen on validation with one seed, and only then the held-out cases, once for each
variant and seed. Each of these pieces is a cell (`cells.py`): a second call with the same plan makes none again.
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

from torch import Tensor

from foster_cli import bundle
from foster_cli.console import SILENT, Console
from foster_cli.distill.coreset import run_coreset
from foster_cli.distill.loop import make_subset
from foster_cli.distill.pipeline import run
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate.cells import Cell, Cells, as_cell, as_row
from foster_cli.evaluate.compare import (
    Row,
    Test,
    Trained,
    few_model,
    full_model,
    joined,
    make_test,
    model_row,
    popularity_row,
    summarise,
    synthetic_model,
    text_row,
    untrained_model,
)
from foster_cli.evaluate.plan import SEED, Plan, Variant, check_plan, make_out
from foster_cli.evaluate.remembered import memory
from foster_cli.models.recommender import Recommender
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, writing_dir
from foster_cli.train.setting import Setting, make_setting

#: Rows that belong to no variant, of which a seed decides the first two; there is one of these for each model.
SEEDED = ("full", "untrained")


class Learned(NamedTuple):
    """What is left of a `Trained`: what learned in it, on the CPU, and what it took. A row's first seed needs no second
    training after the choice of a rate."""

    state: dict[str, Tensor]
    seconds: float
    peak_mb: float
    chosen: Any
    valid: float

    def on(self, fresh: Recommender) -> Trained:
        """The trained model again, in the place of `fresh`."""
        fresh.restore(self.state)
        return Trained(fresh, *self[1:])


@dataclass(frozen=True)
class Shrunk:
    """A variant's bundle: where it lies, its manifest, the fields of its cell; then the rate for training on it and
    R@10 on validation for each rate. The bundle itself is read when it is trained on: it holds V.

    `first`: the model of seed 0 with that rate, if this call trained it.
    """

    variant: Variant
    path: Path
    manifest: dict[str, Any]
    fields: dict[str, Any]
    rate: float = 0.0
    valid: dict[str, float | None] = dataclasses.field(default_factory=dict)
    first: Learned | None = None


@dataclass(frozen=True)
class Measured:
    """Every row's ranks, the variants' bundles by the rows' names, and `summarise`'s JSON of them."""

    rows: dict[str, Row]
    made: dict[str, Shrunk]
    summary: dict[str, Any]


def measure(plan: Plan, console: Console = SILENT) -> Measured:
    """All of the plan. Cells, and bundles under their rows' names, are left under `plan.out`.

    Raises FosterError for settings out of range, a folder that cannot be written, or a training that no rate saves.
    """
    check_plan(plan)
    base = {ending: plan.fields(ending) for ending in plan.models}
    make_out(plan)
    cells = Cells(plan.out / "cells", console)
    made = {}
    for i, variant in enumerate(plan.variants):
        console.note(f"making {variant.name} ({i + 1} of {len(plan.variants)})")
        made[variant.name] = shrink(plan, cells, base[variant.model], variant, console)
        if plan.publish:
            publish(made[variant.name].path, plan.out / variant.name)
    model = next(iter(plan.models.values()))  # endings differ in layers alone, not in precision
    with matmul_precision(model.precision, plan.device):
        shared = {
            ending: make_setting(plan.data, model, plan.config.length, plan.device, console, plan.use_cache)
            for ending, model in plan.models.items()
        }
        for v in plan.variants:
            made[v.name] = choose_rate(plan, cells, shared[v.model], made[v.name], console)
        test = make_test(next(iter(shared.values())), False, min(plan.ks), plan.split)
        found = {v.name: variant_row(plan, cells, shared[v.model], test, made[v.name], console) for v in plan.variants}
        full = {e: full_rate(plan, cells, shared[e], base[e], f"full{e}", console) for e in plan.models}
        found |= common_rows(plan, cells, shared, test, base, full, console)
    summary = summarise(found, test, plan.ks, list(range(plan.seeds)), pairs=plan.pairs)
    for name, entry in summary["rows"].items():
        entry |= costs(made[name]) if name in made else {"method": None}
    for ending, (rate, valid) in full.items() if "full" in plan.common else ():
        summary["rows"][f"full{ending}"] |= {"rate": rate, "valid_by_rate": valid}
    return Measured(found, made, summary)


def compare_methods(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """The table of `foster compare` as JSON: rows, paired differences, settings, machine."""
    out = measure(plan, console).summary
    return {
        **described(plan), "methods": [v.name for v in plan.variants], "budget": plan.config.budget,
        "rates": list(plan.rates), "k": list(plan.ks), **out, "settings": settings(plan), "machine": machine(),
    }  # fmt: skip


def described(plan: Plan) -> dict[str, Any]:
    """The head of every JSON: the data."""
    return {"data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics}}


def shrink(plan: Plan, cells: Cells, base: dict[str, Any], variant: Variant, console: Console) -> Shrunk:
    """The variant's bundle, as `foster distill` makes it with seed 0."""
    fields = plan.bundle_fields(variant, base)
    given = (
        plan.data, plan.paths, plan.prepare, plan.models[variant.model], plan.train, variant.config, variant.student,
        SEED, plan.device,
    )  # fmt: skip

    def make(path: Path) -> object:
        if variant.real:
            return run_coreset(variant.method, *given, path, console, plan.use_cache)
        kept = memory(cells, base, variant.config, variant.student, SEED)
        return run(*given, path, console, plan.use_cache, variant.method, variant.loop, kept)

    made = cells.bundle(variant.cell, fields, make)
    return Shrunk(variant, made.path, made.manifest, fields)


def train_on(
    plan: Plan, setting: Setting, shrunk: Shrunk, rate: float, seed: int, console: Console, label: str
) -> Trained:
    """A fresh model trained on the bundle with `rate`, as `foster eval` trains it."""
    b = bundle.load(shrunk.path)
    if b.windows is not None:
        return few_model(setting, replace(plan.train, lr=rate), b.windows, seed, console, label)
    V, student = b.V.to(plan.device), replace(plan.student, lr=rate)
    subset, reading = make_subset(shrunk.variant.config, V, SEED, student), b.reading.to(plan.device)
    return synthetic_model(setting, b.Q.to(plan.device), V, subset, reading, student, seed, console, label)


def training_fields(shrunk: Shrunk, rate: float, seed: int) -> dict[str, Any]:
    """What decides a model trained on the bundle: how the bundle was made, what it holds, rate and seed."""
    sums = (shrunk.path / bundle.SUMS).read_text(encoding="utf-8").splitlines()
    unread = bundle.STATE_FILES  # where its own making ended: nothing trains on that
    content = sorted(line for line in sums if line.endswith(".safetensors") and not line.endswith(unread))
    return {**shrunk.fields, "content": content, "rate": rate, "seed": seed}


def choose_rate(plan: Plan, cells: Cells, setting: Setting, shrunk: Shrunk, console: Console) -> Shrunk:
    """The rate with which one model (seed 0) does best on validation, the first of equals. One that ends in NaN is out.

    Raises FosterError where all do.
    """
    name = shrunk.variant.name
    if len(plan.rates) == 1:
        return replace(shrunk, rate=plan.rates[0])

    first: dict[float, Learned] = {}

    def train(rate: float) -> Trained:
        found = train_on(plan, setting, shrunk, rate, SEED, console, f"{name}, rate {rate:g}")
        if found.valid is not None and all(found.valid > kept.valid for kept in first.values()):
            first.clear()
            first[rate] = Learned(found.model.learnables(), *found[1:4], found.valid)
        return found

    def fields(rate: float) -> dict[str, Any]:
        return training_fields(shrunk, rate, SEED)

    rate, valid = best_rate(cells, f"{shrunk.variant.cell}-rate", name, "--rates", plan.rates, fields, train, console)
    return replace(shrunk, rate=rate, valid=valid, first=first.get(rate))


def full_rate(
    plan: Plan, cells: Cells, setting: Setting, base: dict[str, Any], name: str, console: Console
) -> tuple[float, dict[str, float | None]]:
    """The rate of `plan.full_rates` with which all the data (seed 0) do best on validation; R@10 there for each."""
    if len(plan.full_rates) <= 1 or "full" not in plan.common:
        return (plan.full_rates or (plan.train.lr,))[0], {}

    def train(rate: float) -> Trained:
        return full_model(setting, replace(plan.train, lr=rate), SEED, console, plan.use_cache)

    def fields(rate: float) -> dict[str, Any]:
        return {**with_rate(base, rate), "row": "full", "seed": SEED}

    return best_rate(cells, "full-rate", name, "--full-rates", plan.full_rates, fields, train, console)


def with_rate(base: dict[str, Any], rate: float) -> dict[str, Any]:
    """The fields `base` with another rate of training on real data."""
    return {**base, "train": {**base["train"], "lr": rate}}


def best_rate(
    cells: Cells, cell: str, name: str, option: str, rates: tuple[float, ...],
    fields: Callable[[float], dict[str, Any]], train: Callable[[float], Trained], console: Console,
) -> tuple[float, dict[str, float | None]]:  # fmt: skip
    """The rate whose model does best on validation, the first of equals, and R@10 there for each (None: NaN)."""

    def make(rate: float) -> Cell:
        try:
            trained = train(rate)
        except NotFinite as error:
            console.note(f"{name}: rate {rate:g} is out: {error.message}")
            return Cell({"valid": None, "chosen": None, "why": error.message})
        return Cell({"valid": trained.valid, "chosen": trained.chosen})

    valid: dict[float, float | None] = {}
    for rate in rates:
        valid[rate] = cells.cell(cell, {**fields(rate), "cell": "rate"}, partial(make, rate)).record["valid"]
    usable = {rate: value for rate, value in valid.items() if value is not None}
    if not usable:
        raise FosterError(f"{option}: training for the row {name} became NaN with each of them", "use lower rates")
    rate = max(usable, key=lambda key: usable[key])
    console.note(f"{name}: rate {rate:g}, validation R@10 {usable[rate]:.4f}")
    return rate, {f"{rate:g}": value for rate, value in valid.items()}


def variant_row(plan: Plan, cells: Cells, setting: Setting, test: Test, shrunk: Shrunk, console: Console) -> Row:
    """Fresh models of all seeds, trained on the bundle with the chosen rate, on the held-out cases."""
    name = shrunk.variant.name

    def train(seed: int) -> Trained:
        if seed == SEED and shrunk.first is not None:
            return shrunk.first.on(setting.fresh(seed))
        return train_on(plan, setting, shrunk, shrunk.rate, seed, console, f"{name}, seed {seed}")

    def make(seed: int) -> Cell:
        console.note(f"row {name}, seed {seed}")
        return as_cell(model_row(test, seed, train))

    found = []
    for seed in range(plan.seeds):
        fields = plan.rank_fields(training_fields(shrunk, shrunk.rate, seed), seed)
        found.append(as_row(cells.cell(f"{shrunk.variant.cell}-s{seed}", fields, partial(make, seed))))
    return joined(found)


def common_rows(
    plan: Plan, cells: Cells, shared: dict[str, Setting], test: Test, base: dict[str, dict[str, Any]],
    full: dict[str, tuple[float, dict[str, float | None]]], console: Console,
) -> dict[str, Row]:  # fmt: skip
    """The rows that belong to no variant: those that a seed decides for each of the models, the others once.

    Without a text encoder `text_similarity` is left out with a note.
    """

    def maker(name: str, ending: str, seed: int) -> Callable[[], Row]:
        setting, train = shared[ending], replace(plan.train, lr=full[ending][0])
        makers: dict[str, Callable[[], Row]] = {
            "full": lambda: model_row(test, seed, lambda s: full_model(setting, train, s, console, plan.use_cache)),
            "untrained": lambda: model_row(test, seed, lambda s: untrained_model(setting, s)),
            "popularity": lambda: popularity_row(setting, test),
            "text_similarity": lambda: text_row(setting, test, console, plan.use_cache),
        }
        return makers[name]

    def make(label: str, maker: Callable[[], Row]) -> Cell:
        console.note(f"row {label}")
        return as_cell(maker())

    out = {}
    for name in plan.common:
        seeded = name in SEEDED
        for ending in plan.models if seeded else list(plan.models)[:1]:
            row = f"{name}{ending}" if seeded else name
            known = with_rate(base[ending], full[ending][0]) if name == "full" else base[ending]
            found = []
            try:
                model = shared[ending].model
                if name == "text_similarity" and model.items == "id":  # this row alone reads the encoder
                    known = {**known, "texts": find_encoder(model.encoder, model.pooling).hash}
                for seed in range(plan.seeds if seeded else 1):
                    fields = plan.rank_fields({**known, "row": name}, seed)
                    label = f"{row}, seed {seed}" if seeded else row
                    cell = cells.cell(f"{name}-s{seed}", fields, partial(make, label, maker(name, ending, seed)))
                    found.append(as_row(cell))
            except FosterError as error:
                if name != "text_similarity" or shared[ending].source is not None:
                    raise
                console.note(f"row {name} is left out: {error.message}")
                continue
            out[row] = joined(found)
    return out


def pairs(methods: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each method with `full` and with `random`, `foster` with every other one; each pair once."""
    found = [(m, "full") for m in methods]
    found += [(m, "random") for m in methods if m != "random" and "random" in methods]
    found += [("foster", m) for m in methods if m != "foster" and "foster" in methods]
    return tuple(dict.fromkeys(found))


def costs(shrunk: Shrunk) -> dict[str, Any]:
    """What a row says of its variant: time and memory to select or distil (without the teacher), rate, validation."""
    m = shrunk.manifest
    seconds = m["metrics"]["seconds_select" if shrunk.variant.real else "seconds_distill"]
    return {
        "method": m["method"], "select_seconds": seconds, "select_peak_mb": m["metrics"]["peak_mb"],
        "rate": shrunk.rate, "valid_by_rate": shrunk.valid, "distill": m["distill"],
    }  # fmt: skip


def publish(source: Path, target: Path) -> None:
    """Copy the bundle to where people look for it, unless it is there."""
    names = sorted(p.name for p in source.iterdir())
    if target.exists() and filecmp.cmpfiles(source, target, names, shallow=False)[0] == names:
        return
    with writing_dir(target) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)


def settings(plan: Plan) -> dict[str, Any]:
    """The settings that all variants share; those a variant sets itself stand in its row."""
    return {
        "path": plan.paths, "prepare": dataclasses.asdict(plan.prepare),
        "model": dataclasses.asdict(next(iter(plan.models.values()))), "train": dataclasses.asdict(plan.train),
        "student": dataclasses.asdict(plan.student),
    }  # fmt: skip
