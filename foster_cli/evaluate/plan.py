"""What decides a table of rows: a `Plan` of named `Variant`s, each one way of shrinking the same dataset.

In: data and settings. Out: what a row's bundle is made with, and the fields that name its cells (`cells.py`). Two
commands whose variants agree in these fields, and in the name of the cell, share the cell.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from foster_cli import bundle
from foster_cli.baselines import METHODS, bilevel, td3
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import training_windows
from foster_cli.distill.loop import distill
from foster_cli.distill.pipeline import Loop, check_settings, check_windows
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import base_fields

#: Of the bundles and of the choice of rates.
SEED = 0


@dataclass(frozen=True)
class Variant:
    """One way of shrinking the data: a row of the table.

    `cell`: how the names of its cells begin. `extra`: what decides them beyond method, `config` and `student`.
    `model`: which of the plan's models it is made with.
    """

    name: str
    method: str
    config: DistillConfig
    student: StudentConfig
    cell: str
    loop: Loop = distill
    extra: dict[str, Any] = field(default_factory=dict)
    model: str = ""

    @property
    def real(self) -> bool:
        """Whether it chooses real sequences."""
        return self.method in METHODS and METHODS[self.method].real


def method_variant(method: str, config: DistillConfig, student: StudentConfig) -> Variant:
    """What `foster distill --method` makes of the settings, and its outer loop: what a method does not read is at its
    default, so that it decides no cell."""
    if METHODS[method].real:
        plain = DistillConfig(budget=config.budget, length=config.length)
        return Variant(method, method, plain, StudentConfig(), method)
    if method == "rollout":
        config = replace(config, init="rollout", targets="next", mix=False, steps=0)
        return Variant(method, method, config, student, method)
    if method == "td3":
        own = td3.TD3Config()
        config = td3.td3_settings(replace(config, draws=DistillConfig().draws), own, True)
        return Variant(method, method, config, student, method, td3.td3_loop(own), {"td3": dataclasses.asdict(own)})
    return Variant(method, method, config, student, method)


def bilevel_variant(name: str, config: DistillConfig, student: StudentConfig, steps: int, window: int) -> Variant:
    """FOSTER with the bi-level gradient (`baselines.bilevel`) through the last `window` of up to `steps` inner steps.

    What that gradient does not read (eta, the form of the barrier, the rate of phi, T) is at its default.
    """
    plain = DistillConfig()
    unread = ("eta", "barrier", "model_lr", "inner_steps")
    config = replace(config, **{key: getattr(plain, key) for key in unread})
    extra = {"bilevel": {"steps": steps, "window": window}}
    return Variant(name, "bilevel", config, student, name, bilevel.bilevel_loop(steps, window), extra)


@dataclass(frozen=True)
class Plan:
    """All that decides a table. `paths` and `prepare`: what `data` was read from, for the bundles.

    `models`: the recommenders by the ending that their rows' names carry; a variant names the one it is made with.
    `config` and `student`: the settings that variants change. `pairs`: rows whose differences are given. `common`:
    rows that belong to no variant. `publish`: whether bundles are also laid out under the rows' names. `full_rates`:
    of which validation chooses one for the rows `full`; empty: that of `train`.
    """

    data: Dataset
    paths: list[str]
    prepare: PrepareSettings
    models: dict[str, ModelConfig]
    train: TrainConfig
    config: DistillConfig
    student: StudentConfig
    variants: tuple[Variant, ...]
    rates: tuple[float, ...]
    seeds: int
    ks: tuple[int, ...]
    device: torch.device
    out: Path
    use_cache: bool = True
    pairs: tuple[tuple[str, str], ...] = ()
    common: tuple[str, ...] = ("full", "untrained", "popularity", "text_similarity")
    split: str = "test"
    publish: bool = True
    full_rates: tuple[float, ...] = ()

    def fields(self, model: str = "") -> dict[str, Any]:
        """What decides every cell of `model` (`cells.base_fields`)."""
        return base_fields(self.data, self.models[model], self.train, self.config.length, self.device)

    def bundle_fields(self, variant: Variant, base: dict[str, Any]) -> dict[str, Any]:
        """What decides the variant's bundle. `base`: `fields` of its model."""
        return {
            **base, "cell": "bundle", "method": variant.method, "seed": SEED,
            "distill": dataclasses.asdict(variant.config), "student": dataclasses.asdict(variant.student),
            **variant.extra,
        }  # fmt: skip

    def rank_fields(self, fields: dict[str, Any], seed: int) -> dict[str, Any]:
        """What decides the ranks of a model of `seed`; `fields`: what it was trained on and how."""
        split = {} if self.split == "test" else {"split": self.split}
        return {**fields, "cell": "ranks", "seed": seed, "k": min(self.ks), **split}


def check_plan(plan: Plan) -> None:
    """FosterError for what cannot work, before anything slow: settings, the number of windows, of items."""
    windows, n = len(training_windows(plan.data, plan.config.length)), len(plan.data.catalogue)
    for variant in plan.variants:
        check_settings(plan.models[variant.model], plan.train, variant.config, variant.student)
        check_windows(windows, variant.config)
        size = variant.config.items_per_step
        if variant.config.subset == "kmeans" and (size is None or size >= n):
            raise FosterError(
                f"row {variant.name}: k-means chooses |S| of the {n:,} items, and |S| is {size or 'all'}",
                f"use --items-per-step below {n}, or --rows without {variant.name}",
            )


def make_out(plan: Plan) -> None:
    """Make the folder, before anything slow.

    FosterError where that fails, or something stands in a bundle's place that this command did not put there.
    """
    made_here = [path.read_bytes() for path in plan.out.glob(f"cells/*/{bundle.SUMS}")]
    for variant in plan.variants if plan.publish else ():
        place = plan.out / variant.name
        if place.exists() and not (place / bundle.SUMS).is_file():
            raise FosterError(f"--out {plan.out}: holds {variant.name}, which is no bundle", "give another folder")
        if place.exists() and (place / bundle.SUMS).read_bytes() not in made_here:
            raise FosterError(
                f"--out {plan.out}: holds {variant.name}, a bundle that was not made there", "give another folder"
            )
    try:
        (plan.out / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {plan.out}: {error.strerror or error}", "give another folder") from error
