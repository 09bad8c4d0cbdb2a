"""The plan of a table of rows: a `Comparison` of named `Variant`s, each one way of shrinking the same dataset.

In: data and settings. Out: the settings of each row's bundle, and the fields that key its cells (`cells.py`). Two
commands share a cell if their variants agree in these fields and in the cell's name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foster_cli import bundle
from foster_cli.baselines import METHODS, adapted, bilevel
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import training_windows
from foster_cli.distill.checks import check_budget, check_settings
from foster_cli.distill.loop import Loop
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import base_fields
from foster_cli.evaluate.references import NO_TEXT, REFERENCES, TEXT_ROWS, asked_rows, left_out, refusal
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, Settings
from foster_cli.train.task import has_texts

#: The rows beside the variants: what all the data give, and what a user would run instead; those made by default.
ROWS = tuple(REFERENCES)
COMMON = asked_rows(None, ROWS)
#: The seed of the bundles and of the choice of learning rates.
SEED = 0


@dataclass(frozen=True)
class Variant:
    """One way of shrinking the data: a row of the table, made with `settings`.

    `cell`: the beginning of its cells' names. `extra`: fields of its cells beyond the settings. `loop`: its outer loop,
    if that is not the one of its method.
    """

    name: str
    settings: Settings
    cell: str
    extra: dict[str, Any] = field(default_factory=dict)
    loop: Loop | None = None

    @property
    def real(self) -> bool:
        """Whether it chooses real sequences."""
        method = METHODS.get(self.settings.method)
        return method is not None and method.real

    def fields(self, base: dict[str, Any]) -> dict[str, Any]:
        """The fields of its bundle's cell. `base`: the fields of every cell of its model."""
        s = self.settings
        return {
            **base, "cell": "bundle", "method": s.method, "seed": SEED, "distill": dataclasses.asdict(s.distill),
            "student": dataclasses.asdict(s.student), **self.extra,
        }  # fmt: skip


def method_variant(method: str, settings: Settings) -> Variant:
    """The variant that `foster distill --method` makes with `settings`."""
    return Variant(method, adapted(replace(settings, method=method)), method, METHODS[method].own)


def bilevel_variant(name: str, settings: Settings, steps: int, window: int) -> Variant:
    """FOSTER with the bi-level gradient (`baselines.bilevel`) through the last `window` of at most `steps` steps."""
    extra = {"bilevel": {"steps": steps, "window": window}}
    return Variant(name, bilevel.adapt(settings), name, extra, bilevel.bilevel_loop(steps, window))


@dataclass(frozen=True)
class Comparison:
    """The inputs of a table. `settings`: those that variants change.

    `endings`: the recommenders, and the endings of their rows' names. `pairs`: rows whose differences are reported.
    `common`: rows that belong to no variant. `publish`: whether bundles are also copied to folders with the rows'
    names. `full_rates`: learning rates from which validation chooses for the rows on all the data; empty: that of the
    settings.
    """

    data: Dataset
    settings: Settings
    variants: tuple[Variant, ...]
    rates: tuple[float, ...]
    seeds: int
    ks: tuple[int, ...]
    session: Session
    out: Path
    pairs: tuple[tuple[str, str], ...] = ()
    endings: dict[ModelConfig, str] = field(default_factory=dict)
    common: tuple[str, ...] = COMMON
    split: str = "test"
    publish: bool = True
    full_rates: tuple[float, ...] = ()

    @property
    def models(self) -> dict[ModelConfig, str]:
        """`endings`; by default the one recommender of the settings, without an ending."""
        return self.endings or {self.settings.model: ""}

    def base(self, model: ModelConfig) -> dict[str, Any]:
        """The fields of every cell of `model`."""
        return base_fields(replace(self.settings, model=model), self.data, self.session.device)

    def rank_fields(self, fields: dict[str, Any], seed: int) -> dict[str, Any]:
        """The fields of the ranks of a model of `seed`. `fields`: those of its training."""
        split = {} if self.split == "test" else {"split": self.split}
        return {**fields, "cell": "ranks", "seed": seed, "k": min(self.ks), **split}

    def head(self) -> dict[str, Any]:
        """The beginning of every JSON: the data."""
        return {"data": {"name": self.data.name, "hash": self.data.hash, "statistics": self.data.statistics}}

    def shared(self) -> dict[str, Any]:
        """The settings that all variants share; those that a variant changes are in its row."""
        sections = self.settings.sections()
        first = dataclasses.asdict(next(iter(self.models)))
        return {
            "path": list(self.settings.paths), "prepare": dataclasses.asdict(self.settings.prepare), "model": first,
            "train": sections["train"], "student": sections["student"],
        }  # fmt: skip


def check_plan(plan: Comparison) -> None:
    """Raise FosterError for invalid settings, too few windows or items, or a lone row that is left out, before anything
    slow begins."""
    windows, n = len(training_windows(plan.data, plan.settings.distill.length)), len(plan.data.catalogue)
    for variant in plan.variants:
        check_settings(variant.settings)
        config = variant.settings.distill
        check_budget(windows, config)
        size = config.items_per_step
        if config.subset == "kmeans" and (size is None or size >= n):
            raise FosterError(
                f"row {variant.name}: k-means chooses |S| of the {n:,} items, and |S| is {size or 'all'}",
                f"use --items-per-step below {n}, or --rows without {variant.name}",
            )
    reason = left_out(plan.common[0], plan.settings.model) if len(plan.common) == 1 else None
    if reason is None and len(plan.common) == 1 and plan.common[0] in TEXT_ROWS and not has_texts(plan.data):
        reason = NO_TEXT
    if reason is not None:
        raise refusal(plan.common[0], reason, ROWS)


def make_out(plan: Comparison) -> None:
    """Make the output folder, before anything slow begins.

    Raises FosterError if that fails, or if a bundle's path holds something that this command did not write.
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
