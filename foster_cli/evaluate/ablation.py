"""`foster ablate`: a table of variants that each change one part of the method (the paper's Table 3 and Figure 3).

In: rows (`ablation_rows.py`), the settings that they change, data. Out: the JSON of the table. Rows are the variants of
a `Comparison` (`plan.py`). The reference rows are random real sequences and those in `COMMON`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from foster_cli.errors import FosterError
from foster_cli.evaluate.ablation_rows import BOME, KINDS, Kind, Picked
from foster_cli.evaluate.compare import Shrunk, measure
from foster_cli.evaluate.plan import Comparison, Variant, bilevel_variant, method_variant
from foster_cli.evaluate.row import Row
from foster_cli.runtime import machine
from foster_cli.settings import DistillConfig, ModelConfig, Settings, positive

#: The rows that belong to no variant.
COMMON = ("full", "untrained", "item_factor", "item_knn", "knn_tfidf", "popularity", "text_similarity")


def models(picked: list[Picked], model: ModelConfig) -> dict[ModelConfig, str]:
    """The recommenders and the endings of their rows' names: empty for one recommender, such as `@last` for several."""
    labels = {p.label: p.layers for p in picked}
    return {replace(model, train_layers=x): f"@{label}" if len(labels) > 1 else "" for label, x in labels.items()}


def variants(picked: list[Picked], settings: Settings, bilevel: tuple[int, int]) -> tuple[Variant, ...]:
    """The picked rows, then random real sequences for each model. `bilevel`: the number of inner steps, and how many of
    the last ones are differentiated.

    Raises FosterError for a row that would not change `settings`, and for a window out of range.
    """
    endings = models(picked, settings.model)
    found = []
    for p in picked:
        own = replace(settings, model=replace(settings.model, train_layers=p.layers))
        name, changed = f"{p.kind.name}{endings[own.model]}", replace(own.distill, **p.kind.change)
        if p.kind.bilevel:
            steps, window = bilevel
            positive("--bilevel-steps", steps)
            if not 1 <= window <= steps:
                raise FosterError(
                    f"--bilevel-window {window}: out of range", f"use 1 to {steps}, or more --bilevel-steps"
                )
            found.append(bilevel_variant(name, replace(own, distill=changed), steps, window))
        else:
            alike = own.distill if p.kind.change == BOME else replace(own.distill, outer=changed.outer)
            if changed == alike and p.kind.change:
                raise FosterError(f"--rows {p.kind.name}: the settings are so already", "leave the row out")
            found.append(Variant(name, replace(own, distill=changed), name))
    for model, ending in endings.items():
        name = f"random{ending}"
        found.append(replace(method_variant("random", replace(settings, model=model)), name=name, cell=name))
    return tuple(found)


def base(name: str, names: list[str]) -> str | None:
    """The row of `names` that the row `name` is compared with; None if there is none.

    For a row that changes a part of Algorithm 2 that is `bome`, for any other (and without a row `bome`) `foster`: the
    one with the same layers, or else the first. The base of rows of its own kind is the first of them.
    """
    kind, _, layers = name.partition("@")
    if kind not in KINDS:
        return None
    choices = ["bome", "foster"] if KINDS[kind].change.get("outer") == "bome" else ["foster"]
    if kind == "bome":
        choices.reverse()

    def worse(other: str) -> tuple[int, bool]:
        own, _, its = other.partition("@")
        return choices.index(own), own != kind and its != layers

    found = min((x for x in names if x.partition("@")[0] in choices), key=worse, default=name)
    return None if found == name else found


def pairs(names: list[str]) -> tuple[tuple[str, str], ...]:
    """Each row minus its `base`, each minus `full`, each `foster` minus `random`. `names`: the variants' names."""
    endings = {name: "".join(name.partition("@")[1:]) for name in names}
    found = [(name, other) for name in names if (other := base(name, names)) is not None]
    found += [(name, f"full{ending}") for name, ending in endings.items()]
    found += [(name, f"random{x}") for name, x in endings.items() if name.partition("@")[0] == "foster"]
    return tuple(dict.fromkeys(found))


def axes(kind: Kind, layers: str, config: DistillConfig) -> dict[str, Any]:
    """The values that describe a row in Table 3 and Figure 3; None where the row has no outer step."""
    moves, bome = config.steps > 0, config.outer == "bome"
    return {
        "logic": ("bi-level" if kind.bilevel else "first-order" if bome else "followed") if moves else None,
        "items": "KM" if config.subset == "kmeans" else "OTF",
        "layers": layers,
        "dh": ("with" if config.dh_weight > 0 else "without") if moves and bome else None,
        "reset": (config.reset if bome else "student") if moves else None,
    }


def valid(row: Row) -> float | None:
    """Mean validation R@10 over the row's seeds; None if a seed has none."""
    known = [value for value in row.valid if value is not None]
    return float(np.mean(known)) if known and len(known) == len(row.valid) else None


def outer_steps(shrunk: Shrunk) -> dict[str, Any]:
    """Median seconds of an outer step (None without one), and the step with the best validation."""
    metrics = shrunk.manifest["metrics"]
    return {key: metrics[key] for key in ("seconds_per_outer_step", "best_step")}


def ablate(plan: Comparison) -> dict[str, Any]:
    """The table as JSON: rows, paired differences, settings, machine. Bundles are written under `plan.out`."""
    out = measure(plan)
    for name, entry in out.summary["rows"].items():
        entry["valid"] = valid(out.rows[name])
        kind = KINDS.get(name.partition("@")[0])
        if name in out.made and kind is not None:
            variant = out.made[name].variant
            layers = variant.settings.model.train_layers
            shown = axes(kind, "last" if layers == "1" else layers, variant.settings.distill)
            entry |= {"text": kind.text, **shown, **variant.extra}
            entry |= outer_steps(out.made[name])
    return {
        **plan.head(), "split": plan.split, "budget": plan.settings.distill.budget, "rates": list(plan.rates),
        "k": list(plan.ks), **out.summary,
        "settings": {**plan.shared(), "distill": plan.settings.sections()["distill"]}, "machine": machine(),
    }  # fmt: skip
