"""`foster sweep`: varies one parameter at a time and leaves the others at their defaults (the paper's Figures 4 to 6).

In: `Range`s (`parameters.py`), the settings that they change, data. Out: the JSON of the curves, and the same as CSV. A
point is a variant of a `Comparison` (`plan.py`). Points of several curves with the same settings are one variant.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from foster_cli.evaluate.ablation import outer_steps, valid
from foster_cli.evaluate.compare import measure
from foster_cli.evaluate.formats import csv_text, metrics
from foster_cli.evaluate.parameters import Range, Value
from foster_cli.evaluate.plan import Comparison, Variant
from foster_cli.evaluate.plot import draw
from foster_cli.files import writing
from foster_cli.runtime import machine
from foster_cli.settings import DistillConfig, Settings

#: The reference rows of the plot, and the name of the point at which nothing is changed.
REFERENCES, DEFAULT = ("full", "untrained"), "default"


def written(value: Value) -> str:
    """A value as text."""
    if value is None:
        return "all"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def point_name(range_: Range, value: Value, config: DistillConfig) -> str:
    """The row's name: `default` where nothing is changed, else `budget=10` and the like."""
    parameter = range_.parameter
    default = getattr(config, parameter.field) == value and (config.outer == "bome" or not parameter.bome)
    return DEFAULT if default else f"{parameter.name}={written(value)}"


def variants(ranges: list[Range], settings: Settings) -> tuple[Variant, ...]:
    """A variant for each point, curve by curve; a point that several curves share appears once, at its first place."""
    found: dict[str, Variant] = {}
    for range_ in ranges:
        for value in range_.values:
            change: dict[str, Any] = {range_.parameter.field: value}
            if range_.parameter.bome:
                change["outer"] = "bome"
            name = point_name(range_, value, settings.distill)
            changed = replace(settings, distill=replace(settings.distill, **change))
            found.setdefault(name, Variant(name, changed, "foster"))
    return tuple(found.values())


def pairs(names: list[str]) -> tuple[tuple[str, str], ...]:
    """Each point minus the default point, if that is on a curve, and minus `full`."""
    own = [(name, DEFAULT) for name in names if name != DEFAULT and DEFAULT in names]
    return (*own, *[(name, "full") for name in names])


def sweep(plan: Comparison, ranges: list[Range]) -> dict[str, Any]:
    """The curves as JSON: a row per point and reference, which rows make which curve, paired differences."""
    out, config = measure(plan), plan.settings.distill
    for name, entry in out.summary["rows"].items():
        entry["valid"] = valid(out.rows[name])
        if name in out.made:
            entry |= outer_steps(out.made[name])
            entry["bundle"] = out.made[name].path.relative_to(plan.out).as_posix()
    n = len(plan.data.catalogue)
    curves = [
        {
            "parameter": r.parameter.name, "symbol": r.parameter.symbol, "text": r.parameter.text,
            "default": written(getattr(config, r.parameter.field)),
            "points": [
                {"value": written(v), "x": n if v is None else v, "row": point_name(r, v, config)}
                for v in r.values
            ],
        }
        for r in ranges
    ]  # fmt: skip
    return {
        **plan.head(), "split": plan.split, "budget": config.budget, "rates": list(plan.rates), "k": list(plan.ks),
        "curves": curves, **out.summary,
        "settings": {**plan.shared(), "distill": plan.settings.sections()["distill"]}, "machine": machine(),
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
        cells = [(row[m] or {}).get(part) for m in names for part in ("mean", "low", "high")]
        data = csv_text(found["data"]["name"])
        writer.writerow([data, found["split"], *point, name, *cells, *[row.get(key, "") for key in _COSTS]])
    return out.getvalue()


def write(found: dict[str, Any], text: str, out: Path, plot: bool) -> None:
    """Write sweep.json (`text`), sweep.csv and, with `plot`, sweep.png to `out`, each atomically."""
    for ending, content in {"json": text, "csv": to_csv(found)}.items():
        with writing(out / f"sweep.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
    if plot:
        with writing(out / "sweep.png") as tmp:
            draw(found, tmp)
