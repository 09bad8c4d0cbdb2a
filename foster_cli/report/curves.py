"""The curves of a run, from log.csv (a row per outer step) and checks.csv (a row per validation) of a bundle.

A chart is drawn if its columns exist: Algorithm 2's log has all of them, TD3's has no q and no lambda.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foster_cli.errors import FosterError
from foster_cli.report.content import Chart, Float, Series

#: Larger values are faulty and are not drawn.
LARGEST = 1e30
#: The most steps to draw. Of a longer run, this many evenly spaced steps are drawn.
MOST_STEPS = 1000
#: key, title, y label, columns with their label and role, log y?, note
_CURVES: tuple[tuple[str, str, str, tuple[tuple[str, str, str], ...], bool, str], ...] = (
    ("inner", "Inner loss", "nats",
     (("inner_before", "before the inner steps", "real"), ("inner_after", "after them", "synthetic")), False,
     "L_in on one subset of items, of the recommender before and after its T steps on the synthetic set."),
    ("q", "q", "nats", (("q", "q", "synthetic"),), False,
     "Inner loss before less after. Below 0 the inner steps did harm, and the constraint is left out."),
    ("lambda", "λ", "multiplier", (("lambda", "λ", "synthetic"),), False, "How strongly the constraint pulls."),
    ("outer", "Outer loss, its parts", "loss",
     (("outer_real", "on real data", "real"), ("outer_feature", "feature matching", "synthetic"),
      ("outer_dh", "distributional hypothesis", "goal")), True, "Before their weights."),
    ("entropy", "Entropy of what is predicted", "nats", (("entropy", "entropy", "synthetic"),), False,
     "Mean over positions, over the items of the step. The even distribution has the most."),
)  # fmt: skip


def _table(path: Path) -> pd.DataFrame:
    """Read a CSV file of numbers. An empty file gives no columns; anything else raises FosterError."""
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, OSError) as error:
        raise FosterError(f"{path}: cannot be read ({error})", "copy the bundle again, or distill again") from error
    wrong = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if wrong:
        raise FosterError(f"{path}: {', '.join(wrong)} holds more than numbers", "copy the bundle again")
    return table.where(table.abs() < LARGEST)


def _column(table: pd.DataFrame, name: str) -> Float | None:
    """The column `name`; None if it is missing, without finite values, or 0 throughout."""
    if name not in table.columns:
        return None
    values = table[name].to_numpy(dtype=np.float64)
    return values if np.isfinite(values).any() and np.nanmax(np.abs(values)) > 0 else None


def curves(folder: Path, manifest: dict[str, Any]) -> list[Chart]:
    """The charts of the bundle in `folder`, validation first; none if nothing was learned (a coreset)."""
    log, checks = _table(folder / "log.csv"), _table(folder / "checks.csv")
    log, checks = (t.dropna(subset="step") if "step" in t.columns else t for t in (log, checks))
    found = [chart for chart in (_validation(checks, manifest),) if chart is not None]
    if "step" not in log.columns or len(log) < 2:
        return found
    part = ""
    if len(log) > MOST_STEPS:
        part = f" {MOST_STEPS:,} of {len(log):,} steps are drawn."
        log = log.iloc[np.linspace(0, len(log) - 1, MOST_STEPS).round().astype(int)]
    x = log["step"].to_numpy(dtype=np.float64)
    for key, title, y_label, columns, log_y, note in _CURVES:
        present = [(label, role, _column(log, name)) for name, label, role in columns]
        lines = [Series(label, values, role) for label, role, values in present if values is not None]
        if lines:
            log_y = log_y and all(np.nanmin(line.y) > 0 for line in lines)
            levels = _levels(key, manifest)
            found.append(Chart(key, title, "outer step", y_label, x, lines, note + part, log_y=log_y, levels=levels))
    return found


def _levels(key: str, manifest: dict[str, Any]) -> list[tuple[str, float]]:
    if key == "q":
        return [("", 0.0)]
    size = manifest.get("distill", {}).get("items_per_step")
    n = manifest.get("item_factor", {}).get("shape", [0])[0]
    drawn = n if size is None else min(size, n)
    return [(f"even over {drawn:,} items", math.log(drawn))] if key == "entropy" and drawn else []


def _validation(checks: pd.DataFrame, manifest: dict[str, Any]) -> Chart | None:
    """Validation R@10 of fresh models trained on D~, compared with full data and with no training."""
    if not {"step", "R@10"} <= set(checks.columns) or not np.isfinite(checks["R@10"]).any():
        return None
    metrics = manifest.get("metrics", {})
    levels = [
        (label, float(metrics[name]))
        for name, label in (("full_valid_R@10", "full data"), ("untrained_valid_R@10", "untrained"))
        if name in metrics and abs(float(metrics[name])) < LARGEST
    ]
    seeds = manifest.get("distill", {}).get("check_seeds")
    line = Series("synthetic", checks["R@10"].to_numpy(dtype=np.float64), "synthetic")
    return Chart(
        "validation", "Validation R@10", "outer step", "R@10", checks["step"].to_numpy(dtype=np.float64), [line],
        f"Fresh models trained on the synthetic set as it was after each step; a mean of {seeds}."
        if seeds else "Fresh models trained on the synthetic set as it was after each step.",
        levels=levels, marks=True,
    )  # fmt: skip
