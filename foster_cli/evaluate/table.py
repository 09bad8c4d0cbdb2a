"""Ways of shrinking a dataset, side by side: their bundles, their learning rates, models ranked on the test split.

In: a `Plan` (data, settings, methods). Out: the JSON of `foster compare`. First every method's bundle, made with seed
0, then its rate, chosen on validation with one seed, and only then the test cases, once for each method and seed.
Each of these pieces is a cell (`cells.py`): a second call with the same plan makes none again.
"""

from __future__ import annotations

import dataclasses
import filecmp
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from foster_cli import __version__, bundle
from foster_cli.baselines import METHODS, td3
from foster_cli.bundle import Bundle
from foster_cli.config import LATER, DistillConfig, ModelConfig, StudentConfig, TrainConfig, without
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import training_windows
from foster_cli.distill.coreset import run_coreset
from foster_cli.distill.loop import distill, make_subset
from foster_cli.distill.pipeline import Loop, check_windows, run
from foster_cli.errors import FosterError, NotFinite
from foster_cli.evaluate.cells import Cell, Cells, as_cell, as_row
from foster_cli.evaluate.compare import (
    Row,
    Test,
    Trained,
    few_model,
    full_model,
    make_test,
    model_row,
    popularity_row,
    summarise,
    synthetic_model,
    text_row,
    untrained_model,
)
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, writing_dir
from foster_cli.train.setting import Setting, make_setting

#: Rows that belong to no method, and those of them that a seed decides.
COMMON = ("full", "untrained", "popularity", "text_similarity")
SEEDED = ("full", "untrained")
#: Of the bundles and of the choice of rates.
SEED = 0


@dataclass(frozen=True)
class Plan:
    """All that decides a comparison. `paths` and `prepare`: what `data` was read from, for the bundles."""

    data: Dataset
    paths: list[str]
    prepare: PrepareSettings
    model: ModelConfig
    train: TrainConfig
    config: DistillConfig
    student: StudentConfig
    methods: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: int
    ks: tuple[int, ...]
    device: torch.device
    out: Path
    use_cache: bool = True

    @property
    def fields(self) -> dict[str, Any]:
        """What decides every cell: data, encoder, model, training on real data, kind of device, versions."""
        model = without(dataclasses.asdict(self.model), LATER)
        encoder = None
        if self.model.items == "text":  # known by its hash, wherever it lies
            encoder = find_encoder(model.pop("encoder"), self.model.pooling).hash
        return {
            "foster": __version__, "torch": torch.__version__, "device": self.device.type, "data": self.data.hash,
            "encoder": encoder, "model": model, "train": dataclasses.asdict(self.train), "length": self.config.length,
        }  # fmt: skip


@dataclass(frozen=True)
class Shrunk:
    """A method's bundle, the fields of its cell, the rate for training on it and R@10 on validation for each rate."""

    bundle: Bundle
    fields: dict[str, Any]
    rate: float = 0.0
    valid: dict[str, float | None] = dataclasses.field(default_factory=dict)


def compare_methods(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """The table as JSON: rows, paired differences, settings, machine. Bundles are left under `plan.out`.

    Raises FosterError for settings out of range, a folder that cannot be written, or a training that no rate saves.
    """
    base = plan.fields
    check_windows(len(training_windows(plan.data, plan.config.length)), plan.config)
    make_out(plan)
    cells = Cells(plan.out / "cells", console)
    made = {}
    for i, method in enumerate(plan.methods):
        console.note(f"method {method} ({i + 1} of {len(plan.methods)})")
        made[method] = shrink(plan, cells, base, method, console)
        publish(made[method].bundle.path, plan.out / method)
    with matmul_precision(plan.model.precision, plan.device):
        setting = make_setting(plan.data, plan.model, plan.config.length, plan.device, console, plan.use_cache)
        for method in plan.methods:
            made[method] = choose_rate(plan, cells, setting, method, made[method], console)
        test = make_test(setting, False, min(plan.ks))
        found = {m: method_row(plan, cells, setting, test, m, made[m], console) for m in plan.methods}
        found |= common_rows(plan, cells, setting, test, base, console)
    out = summarise(found, test, plan.ks, list(range(plan.seeds)), pairs=pairs(plan.methods))
    for name, entry in out["rows"].items():
        entry |= costs(made[name]) if name in made else {"method": None}
    out["rows"]["full"]["rate"] = plan.train.lr
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics},
        "methods": list(plan.methods), "budget": plan.config.budget, "rates": list(plan.rates), "k": list(plan.ks),
        **out, "settings": settings(plan), "machine": machine(),
    }  # fmt: skip


def make_out(plan: Plan) -> None:
    """Make the folder, before anything slow. FosterError where that fails, or something stands in a bundle's place."""
    for method in plan.methods:
        place = plan.out / method
        if place.exists() and not (place / bundle.SUMS).is_file():
            raise FosterError(f"--out {plan.out}: holds {method}, which is no bundle", "give another folder")
    try:
        (plan.out / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {plan.out}: {error.strerror or error}", "give another folder") from error


def method_settings(
    method: str, config: DistillConfig, student: StudentConfig
) -> tuple[DistillConfig, StudentConfig, Loop]:
    """What `foster distill --method` makes of the settings, and its outer loop: what a method does not read is at its
    default, so that it decides no cell."""
    if METHODS[method].real:
        return DistillConfig(budget=config.budget, length=config.length), StudentConfig(), distill
    if method == "rollout":
        return replace(config, init="rollout", targets="next", mix=False, steps=0), student, distill
    if method == "td3":
        config = replace(config, draws=DistillConfig().draws)
        return td3.td3_settings(config, td3.TD3Config(), True), student, td3.td3_loop(td3.TD3Config())
    return config, student, distill


def shrink(plan: Plan, cells: Cells, base: dict[str, Any], method: str, console: Console) -> Shrunk:
    """The method's bundle, as `foster distill --method` makes it with seed 0."""
    config, student, loop = method_settings(method, plan.config, plan.student)
    fields = {**base, "cell": "bundle", "method": method, "seed": SEED, "distill": dataclasses.asdict(config)}
    fields["student"] = dataclasses.asdict(student)
    if method == "td3":
        fields["td3"] = dataclasses.asdict(td3.TD3Config())
    given = (plan.data, plan.paths, plan.prepare, plan.model, plan.train, config, student, SEED, plan.device)

    def make(path: Path) -> object:
        if METHODS[method].real:
            return run_coreset(method, *given, path, console, plan.use_cache)
        return run(*given, path, console, plan.use_cache, method, loop)

    return Shrunk(cells.bundle(method, fields, make), fields)


def train_on(
    plan: Plan, setting: Setting, shrunk: Shrunk, rate: float, seed: int, console: Console, label: str
) -> Trained:
    """A fresh model trained on the bundle with `rate`, as `foster eval` trains it."""
    b = shrunk.bundle
    if b.windows is not None:
        return few_model(setting, replace(plan.train, lr=rate), b.windows, seed, console, label)
    V, student = b.V.to(plan.device), replace(plan.student, lr=rate)
    subset, reading = make_subset(plan.config, V, SEED, student), b.reading.to(plan.device)
    return synthetic_model(setting, b.Q.to(plan.device), V, subset, reading, student, seed, console, label)


def training_fields(plan: Plan, shrunk: Shrunk, rate: float, seed: int) -> dict[str, Any]:
    """What decides a model trained on the bundle: how the bundle was made, what it holds, rate and seed."""
    sums = (shrunk.bundle.path / bundle.SUMS).read_text(encoding="utf-8").splitlines()
    content = sorted(line for line in sums if line.endswith(".safetensors"))
    return {**shrunk.fields, "content": content, "rate": rate, "seed": seed}


def choose_rate(
    plan: Plan, cells: Cells, setting: Setting, method: str, shrunk: Shrunk, console: Console
) -> Shrunk:  # fmt: skip
    """The rate with which one model (seed 0) does best on validation, the first of equals. One that ends in NaN is out.

    Raises FosterError where all do.
    """
    if len(plan.rates) == 1:
        return replace(shrunk, rate=plan.rates[0])

    def make(rate: float) -> Cell:
        try:
            trained = train_on(plan, setting, shrunk, rate, SEED, console, f"{method}, rate {rate:g}")
        except NotFinite as error:
            console.note(f"{method}: rate {rate:g} is out: {error.message}")
            return Cell({"valid": None, "chosen": None, "why": error.message})
        return Cell({"valid": trained.valid, "chosen": trained.chosen})

    valid: dict[float, float | None] = {}
    for rate in plan.rates:
        fields = {**training_fields(plan, shrunk, rate, SEED), "cell": "rate"}
        valid[rate] = cells.cell(f"{method}-rate", fields, partial(make, rate)).record["valid"]
    usable = {rate: value for rate, value in valid.items() if value is not None}
    if not usable:
        raise FosterError(f"--rates: training on {method}'s result became NaN with each of them", "use lower rates")
    rate = max(usable, key=lambda key: usable[key])
    console.note(f"{method}: rate {rate:g}, validation R@10 {usable[rate]:.4f}")
    return replace(shrunk, rate=rate, valid={f"{rate:g}": value for rate, value in valid.items()})


def method_row(
    plan: Plan, cells: Cells, setting: Setting, test: Test, method: str, shrunk: Shrunk, console: Console
) -> Row:
    """Fresh models of all seeds, trained on the bundle with the chosen rate, on the test cases."""

    def train(seed: int) -> Trained:
        return train_on(plan, setting, shrunk, shrunk.rate, seed, console, f"{method}, seed {seed}")

    def make(seed: int) -> Cell:
        console.note(f"row {method}, seed {seed}")
        return as_cell(model_row(test, [seed], train))

    found = []
    for seed in range(plan.seeds):
        fields = {**training_fields(plan, shrunk, shrunk.rate, seed), "cell": "ranks", "k": test.k}
        found.append(cells.cell(f"{method}-s{seed}", fields, partial(make, seed)))
    return as_row(found)


def common_rows(
    plan: Plan, cells: Cells, setting: Setting, test: Test, base: dict[str, Any], console: Console
) -> dict[str, Row]:
    """The rows that belong to no method. Without a text encoder `text_similarity` is left out with a note."""

    makers: dict[str, Callable[[int], Row]] = {
        "full": lambda seed: model_row(
            test, [seed], lambda s: full_model(setting, plan.train, s, console, plan.use_cache)
        ),
        "untrained": lambda seed: model_row(test, [seed], lambda s: untrained_model(setting, s)),
        "popularity": lambda _: popularity_row(setting, test),
        "text_similarity": lambda _: text_row(setting, test, console, plan.use_cache),
    }

    def make(name: str, seed: int) -> Cell:
        console.note(f"row {name}" + (f", seed {seed}" if name in SEEDED else ""))
        return as_cell(makers[name](seed))

    out = {}
    for name in COMMON:
        seeds = range(plan.seeds if name in SEEDED else 1)
        found = []
        try:
            for seed in seeds:
                fields = {**base, "cell": "ranks", "row": name, "seed": seed, "k": test.k}
                found.append(cells.cell(f"{name}-s{seed}", fields, partial(make, name, seed)))
        except FosterError as error:
            if name != "text_similarity" or setting.source is not None:
                raise
            console.note(f"row {name} is left out: {error.message}")
            continue
        out[name] = as_row(found)
    return out


def pairs(methods: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each method with `full` and with `random`, `foster` with every other one; each pair once."""
    found = [(m, "full") for m in methods]
    found += [(m, "random") for m in methods if m != "random" and "random" in methods]
    found += [("foster", m) for m in methods if m != "foster" and "foster" in methods]
    return tuple(dict.fromkeys(found))


def costs(shrunk: Shrunk) -> dict[str, Any]:
    """What a row says of its method: time and memory to select or distil (without the teacher), rate, validation."""
    m = shrunk.bundle.manifest
    seconds = m["metrics"]["seconds_select" if shrunk.bundle.windows is not None else "seconds_distill"]
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
    """The settings that all methods share; those a method sets itself stand in its row."""
    kept = {name: getattr(plan, name) for name in ("prepare", "model", "train", "student")}
    return {"path": plan.paths, **{name: dataclasses.asdict(value) for name, value in kept.items()}}
