"""`foster ablate`: each part of the method changed by itself, side by side (the paper's Table 3 and Figure 3).

In: rows (`rows.py`), the settings that they change, data. Out: the JSON of the table. Rows are the variants of a
`Plan` (`plan.py`); beside them stand random real sequences, all the data, an untrained model, popularity, nearest
texts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np

from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, positive
from foster_cli.console import SILENT, Console
from foster_cli.errors import FosterError
from foster_cli.evaluate.compare import Row
from foster_cli.evaluate.plan import Plan, Variant, bilevel_variant, method_variant
from foster_cli.evaluate.rows import KINDS, Kind, Picked
from foster_cli.evaluate.table import Shrunk, described, measure, settings
from foster_cli.runtime import machine


def models(picked: list[Picked], model: ModelConfig) -> dict[str, ModelConfig]:
    """The recommenders by the ending of their rows' names: none for one, `@last` and the like for several."""
    labels = {p.label: p.layers for p in picked}
    several = len(labels) > 1
    return {f"@{x}" if several else "": replace(model, train_layers=layers) for x, layers in labels.items()}


def variants(
    picked: list[Picked], config: DistillConfig, student: StudentConfig, bilevel: tuple[int, int]
) -> tuple[Variant, ...]:
    """The rows, then random real sequences for each of the models. `bilevel`: inner steps, and how many at their end
    are differentiated.

    Raises FosterError for a row that changes nothing, as `config` is so already, and for a window out of range.
    """
    endings = {p.label: f"@{p.label}" if len({q.label for q in picked}) > 1 else "" for p in picked}
    found = []
    for p in picked:
        name, changed = f"{p.kind.name}{endings[p.label]}", replace(config, **p.kind.change)
        if p.kind.bilevel:
            steps, window = bilevel
            positive("--bilevel-steps", steps)
            if not 1 <= window <= steps:
                raise FosterError(
                    f"--bilevel-window {window}: out of range", f"use 1 to {steps}, or more --bilevel-steps"
                )
            variant = bilevel_variant(name, changed, student, steps, window)
        else:
            if changed == config and p.kind.change:
                raise FosterError(f"--rows {p.kind.name}: the settings are so already", "leave the row out")
            variant = Variant(name, "foster", changed, student, name)
        found.append(replace(variant, model=endings[p.label]))
    for ending in dict.fromkeys(endings.values()):
        name = f"random{ending}"
        found.append(replace(method_variant("random", config, student), name=name, cell=name, model=ending))
    return tuple(found)


def pairs(names: list[str]) -> tuple[tuple[str, str], ...]:
    """Each row minus `foster` with the same layers (or the first `foster`), each minus `full`; `foster` minus `random`.

    `names`: those of the variants. Rows `foster` with other layers are compared with the first of them.
    """
    ending = {name: name[name.index("@") :] if "@" in name else "" for name in names}
    bases = {ending[name]: name for name in names if name.partition("@")[0] == "foster"}
    found = []
    for name in names:
        kind = name.partition("@")[0]
        if not bases or kind == "random":
            continue
        first = next(iter(bases.values()))
        base = first if kind == "foster" else bases.get(ending[name], first)
        if base != name:
            found.append((name, base))
    found += [(name, f"full{ending[name]}") for name in names]
    found += [(base, f"random{x}") for x, base in bases.items()]
    return tuple(dict.fromkeys(found))


def axes(kind: Kind, layers: str, config: DistillConfig) -> dict[str, Any]:
    """Where a row stands in Table 3 and Figure 3; None where it takes no outer step."""
    moves = config.steps > 0
    return {
        "logic": ("bi-level" if kind.bilevel else "first-order") if moves else None,
        "items": "KM" if config.subset == "kmeans" else "OTF",
        "layers": layers,
        "dh": ("with" if config.dh_weight > 0 else "without") if moves else None,
        "reset": config.reset if moves else None,
    }


def valid(row: Row) -> float | None:
    """Validation R@10, a mean over the row's seeds; None where one has none."""
    known = [value for value in row.valid if value is not None]
    return float(np.mean(known)) if known and len(known) == len(row.valid) else None


def outer_steps(shrunk: Shrunk) -> dict[str, Any]:
    """Median seconds of an outer step (None without one), and after how many of them validation was best."""
    metrics = shrunk.manifest["metrics"]
    return {key: metrics[key] for key in ("seconds_per_outer_step", "best_step")}


def ablate(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """The table as JSON: rows, paired differences, settings, machine. Bundles are left under `plan.out`."""
    out = measure(plan, console)
    layers = {ending: "last" if m.train_layers == "1" else m.train_layers for ending, m in plan.models.items()}
    for name, entry in out.summary["rows"].items():
        entry["valid"] = valid(out.rows[name])
        kind = KINDS.get(name.partition("@")[0])
        if name in out.made and kind is not None:
            variant = out.made[name].variant
            entry |= {"text": kind.text, **axes(kind, layers[variant.model], variant.config), **variant.extra}
            entry |= outer_steps(out.made[name])
    return {
        **described(plan), "split": plan.split, "budget": plan.config.budget, "rates": list(plan.rates),
        "k": list(plan.ks), **out.summary, "settings": {**settings(plan), "distill": dataclasses.asdict(plan.config)},
        "machine": machine(),
    }  # fmt: skip
