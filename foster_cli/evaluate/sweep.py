"""`foster sweep`: one parameter at a time, all else at its default (the paper's Figures 4 to 6).

In: `Range`s (`parameters.py`), the settings that they change, data. Out: the JSON of the curves, and the same as CSV.
A point is a variant of a `Plan` (`plan.py`). Points with the same settings, on several curves, are one variant.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from foster_cli.config import DistillConfig, StudentConfig
from foster_cli.console import SILENT, Console
from foster_cli.evaluate.ablation import outer_steps, valid
from foster_cli.evaluate.formats import csv_text, metrics
from foster_cli.evaluate.parameters import Range, Value
from foster_cli.evaluate.plan import Plan, Variant
from foster_cli.evaluate.plot import draw
from foster_cli.evaluate.table import described, measure, settings
from foster_cli.runtime import machine, writing

#: Rows that the curves are drawn beside, and the point at which nothing is changed.
REFERENCES, DEFAULT = ("full", "untrained"), "default"


def written(value: Value) -> str:
    """A value as a person writes it."""
    if value is None:
        return "all"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def point_name(range_: Range, value: Value, config: DistillConfig) -> str:
    """The row's name: `default` where nothing is changed, else `budget=10` and the like."""
    parameter = range_.parameter
    return DEFAULT if getattr(config, parameter.field) == value else f"{parameter.name}={written(value)}"


def variants(ranges: list[Range], config: DistillConfig, student: StudentConfig) -> tuple[Variant, ...]:
    """A variant for each point, curve by curve; one that several curves share stands where it comes first."""
    found: dict[str, Variant] = {}
    for range_ in ranges:
        for value in range_.values:
            change: dict[str, Any] = {range_.parameter.field: value}
            name, changed = point_name(range_, value, config), replace(config, **change)
            found.setdefault(name, Variant(name, "foster", changed, student, "foster"))
    return tuple(found.values())


def pairs(names: list[str]) -> tuple[tuple[str, str], ...]:
    """Each point minus the default one, where it stands on a curve, and minus `full`."""
    own = [(name, DEFAULT) for name in names if name != DEFAULT and DEFAULT in names]
    return (*own, *[(name, "full") for name in names])


def sweep(plan: Plan, ranges: list[Range], console: Console = SILENT) -> dict[str, Any]:
    """The curves as JSON: a row per point and reference, which rows make which curve, paired differences."""
    out = measure(plan, console)
    for name, entry in out.summary["rows"].items():
        entry["valid"] = valid(out.rows[name])
        if name in out.made:
            entry |= outer_steps(out.made[name])
            entry["bundle"] = out.made[name].path.relative_to(plan.out).as_posix()
    n = len(plan.data.catalogue)
    curves = [
        {
            "parameter": r.parameter.name, "symbol": r.parameter.symbol, "text": r.parameter.text,
            "default": written(getattr(plan.config, r.parameter.field)),
            "points": [
                {"value": written(v), "x": n if v is None else v, "row": point_name(r, v, plan.config)}
                for v in r.values
            ],
        }
        for r in ranges
    ]  # fmt: skip
    return {
        **described(plan), "split": plan.split, "budget": plan.config.budget, "rates": list(plan.rates),
        "k": list(plan.ks), "curves": curves, **out.summary,
        "settings": {**settings(plan), "distill": dataclasses.asdict(plan.config)}, "machine": machine(),
    }  # fmt: skip


_COSTS = (
    "valid", "coverage", "best_step", "seconds_per_outer_step", "select_seconds", "select_peak_mb", "train_seconds",
    "rate", "bundle",
)  # fmt: skip


def to_csv(found: dict[str, Any]) -> str:
    """A line per point of every curve, then one per reference; metrics with 95 % intervals."""
    names = metrics(found)
    lines = [(c["parameter"], p["value"], p["x"], p["row"]) for c in found["curves"] for p in c["points"]]
    lines += [("", "", "", name) for name in REFERENCES if name in found["rows"]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{m}{part}" for m in names for part in ("", "_low", "_high")]
    writer.writerow(["data", "split", "parameter", "value", "x", "row", *heads, *_COSTS])
    for *point, name in lines:
        row = found["rows"][name]
        cells = [row[m][part] for m in names for part in ("mean", "low", "high")]
        data = csv_text(found["data"]["name"])
        writer.writerow([data, found["split"], *point, name, *cells, *[row.get(key, "") for key in _COSTS]])
    return out.getvalue()


def write(found: dict[str, Any], text: str, out: Path, plot: bool) -> None:
    """sweep.json (`text`), sweep.csv and, with `plot`, sweep.png in `out`, each whole or not at all."""
    for ending, content in {"json": text, "csv": to_csv(found)}.items():
        with writing(out / f"sweep.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
    if plot:
        with writing(out / "sweep.png") as tmp:
            draw(found, tmp)
