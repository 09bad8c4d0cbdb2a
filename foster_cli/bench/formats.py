"""The two tables of `foster bench` as cells, CSV and Markdown. In: the JSON of `distill.table` or `train.table`.

Names of data, bundles and encoders are untrusted text: cleaned of control characters and escaped for each format.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from foster_cli.console import clean
from foster_cli.evaluate.economics import ratio
from foster_cli.evaluate.formats import md_escape

DISTILL = ("method", "items", "layers", "s / outer step", "min", "max", "CPU s", "min / epoch", "peak MiB",
           "of it before", "load")  # fmt: skip
TRAIN = ("encoder", "layers", "full R@10", "full N@10", "full time", "set R@10", "set N@10", "set time", "to make it",
         "times faster")  # fmt: skip
#: The columns of the CSV that describe the machine.
_MACHINE = ("cpu", "gpu", "threads", "torch", "foster", "platform")


def _load(row: dict[str, Any]) -> str:
    known = [value for value in row["load"] if value is not None]
    return " to ".join(f"{value:.1f}" for value in known) or "-"


def distill_cells(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per row, under DISTILL; a dash for a missing value, the status for the time of a failed row."""
    out = []
    for row in found["rows"]:
        head = [row["method"].upper(), "all" if row["items"] is None else str(row["items"]), row["layers"]]
        if row["status"] != "done":
            out.append([*head, row["status"], *["-"] * 6, _load(row)])
            continue
        before = "-" if row["base_mb"] is None else f"{row['base_mb']:.0f}"
        out.append([
            *head, f"{row['median_s']:.3g}", f"{row['min_s']:.3g}", f"{row['max_s']:.3g}", f"{row['cpu_s']:.3g}",
            f"{row['epoch_s'] / 60:.2f}", f"{row['peak_mb']:.0f}", before, _load(row),
        ])  # fmt: skip
    return out


def span(seconds: float) -> str:
    """`12.3 s`, `4.1 min`, `2.0 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def train_cells(found: dict[str, Any]) -> list[list[str]]:
    """A list of cells per bundle, under TRAIN."""
    out = []
    for entry in found["bundles"]:
        line = [clean(entry["encoder"]), str(entry["train_layers"])]
        for row in entry["rows"].values():
            if row["status"] == "done":
                line += [f"{row['R@10']['mean']:.4f}", f"{row['N@10']['mean']:.4f}", span(row["train_seconds"])]
            else:
                line += [row["status"], "-", "-"]
        full, own = entry["rows"]["full"], entry["rows"]["synthetic"]
        both = full["status"] == own["status"] == "done"
        line.append("-" if entry["made_seconds"] is None else span(entry["made_seconds"]))
        times = ratio(full["train_seconds"], own["train_seconds"]) if both else None
        line.append("-" if times is None else f"{times:.1f}")
        out.append(line)
    return out


@dataclass(frozen=True)
class Table:
    """A table in its output formats: title, column heads and cells for people, and the CSV."""

    title: str
    head: tuple[str, ...]
    cells: list[list[str]]
    csv: str

    def to_md(self) -> str:
        """The title, and the table in Markdown."""
        body = [[md_escape(cell) for cell in row] for row in self.cells]
        lines = [list(self.head), ["---", *["---:"] * (len(self.head) - 1)], *body]
        return "\n".join([md_escape(self.title), "", *["| " + " | ".join(line) + " |" for line in lines]]) + "\n"


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(["'" + c if isinstance(c, str) and c.startswith(tuple("=+-@＝＋－＠")) else c for c in row])
    return out.getvalue()


def distill_csv(found: dict[str, Any]) -> str:
    """A line per row: numbers in full precision, then the machine. A missing value is empty."""
    keys = ["status", "median_s", "min_s", "max_s", "cpu_s", "epoch_s", "steps_per_epoch", "peak_mb", "base_mb"]
    rows = []
    for row in found["rows"]:
        items = "all" if row["items"] is None else row["items"]
        head = [clean(found["data"]["name"]), row["method"], items, row["layers"], found["steps"]]
        rows.append([*head, *[row.get(key) for key in keys], *row["load"], *[row["machine"][key] for key in _MACHINE]])
    head = ["data", "method", "items", "layers", "steps", *keys, "load_before", "load_after", *_MACHINE]
    return _csv(head, rows)


def train_csv(found: dict[str, Any]) -> str:
    """A line per bundle and row: numbers in full precision, then the machine."""
    rows = []
    for entry in found["bundles"]:
        names = [clean(entry[key]) for key in ("data", "bundle", "method", "encoder", "train_layers", "backbone")]
        for name, row in entry["rows"].items():
            metrics = [row.get(m, {}).get(part) for m in ("R@10", "N@10") for part in ("mean", "low", "high")]
            cost = [row.get("train_seconds"), row.get("peak_mb"), entry["made_seconds"]]
            machine = [row["machine"][key] for key in _MACHINE]
            rows.append([*names, entry["budget"], name, row["status"], *metrics, *cost, *row["load"], *machine])
    head = ["data", "bundle", "method", "encoder", "train_layers", "backbone", "budget", "row", "status"]
    head += [f"{m}{part}" for m in ("R@10", "N@10") for part in ("", "_low", "_high")]
    head += ["train_seconds", "peak_mb", "made_seconds", "load_before", "load_after", *_MACHINE]
    return _csv(head, rows)
