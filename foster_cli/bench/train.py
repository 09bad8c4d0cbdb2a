"""Table 6: how long a recommender trains on all the data and on the synthetic set, and what it is then worth.

In (`measure`, in a process of its own): a bundle, one of ROWS. Out: the row of `foster eval` (ranks on the test split,
intervals), trained here and now: none of them comes from the cache. `table` asks for
both rows of every bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foster_cli import bundle
from foster_cli.bench.rows import kept, measured_on, read_prepare
from foster_cli.bundle import Bundle
from foster_cli.console import SILENT, Console
from foster_cli.data.prepare import load_dataset
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.run import evaluate_bundle
from foster_cli.runtime import machine, sha256_file

ROWS = ("full", "synthetic")


@dataclass(frozen=True)
class Plan:
    """The bundles, where their data are (`paths`; None: where they were), the number of models of each row, seconds of
    a row (`limit`; None: no limit)."""

    bundles: list[Bundle]
    paths: list[str] | None
    seeds: int
    limit: float | None
    device: torch.device
    out: Path


def table(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """Both rows of each bundle; those that are finished are kept in `plan.out`/cells. Returns the JSON."""
    cells, entries = Cells(plan.out / "cells", console), []
    for b in plan.bundles:
        m, rows = b.manifest, {}
        for row in ROWS:
            name = f"{b.path.name}, {row}"
            console.note(f"row {name}")
            request = {"bench": "train", "row": row, "bundle": str(b.path.resolve()), "paths": plan.paths,
                       "seeds": plan.seeds, "device": str(plan.device)}  # fmt: skip
            fields = {"row": row, "seeds": plan.seeds, "device": str(plan.device), **measured_on(),
                      "sums": sha256_file(b.path / bundle.SUMS)}  # fmt: skip
            rows[row] = kept(cells, f"train-{row}", request, fields, plan.limit, console)
            console.note(f"row {name}: {rows[row]['status']}")
        metrics = m["metrics"]
        entries.append({
            "bundle": str(b.path), "data": m["data"]["name"], "method": m["method"], "budget": m["distill"]["budget"],
            "encoder": m["model"]["encoder"] if m["model"]["items"] == "text" else "ids",
            "train_layers": m["model"]["train_layers"], "backbone": m["model"]["backbone"],
            "made_seconds": metrics.get("seconds_distill", metrics.get("seconds_select")), "rows": rows,
        })  # fmt: skip
    return {"bundles": entries, "seeds": plan.seeds, "limit": plan.limit, "machine": machine()}


def measure(request: dict[str, Any], console: Console) -> dict[str, Any]:
    """The row of `foster eval` for a bundle, its models trained now: R@10 and N@10 with intervals, `train_seconds`."""
    loaded = bundle.load(request["bundle"])
    recorded = loaded.manifest["data"]
    data = load_dataset([Path(p) for p in request["paths"] or recorded["path"]], read_prepare(recorded["prepare"]))
    found = evaluate_bundle(
        loaded, data, (request["row"],), request["seeds"], (10,), False, torch.device(request["device"]), console,
        False, keep=False,
    )  # fmt: skip
    row = found["rows"][request["row"]]
    return {"cases": found["cases"], **{k: row[k] for k in ("R@10", "N@10", "train_seconds", "peak_mb", "chosen")}}
