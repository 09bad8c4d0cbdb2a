"""Table 6: how long a recommender trains on all the data and on the synthetic set, and its metrics after that.

In (`measure`, in its own process): a bundle, one of ROWS. Out: the row of `foster eval` (ranks on the test split,
intervals), with models trained now and none read from the cache. `table` measures both rows of every bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foster_cli import bundle
from foster_cli.bench.rows import RowRequest, measured, measured_on
from foster_cli.bundle import Bundle
from foster_cli.console import Console
from foster_cli.evaluate.bundle_rows import Evaluation, evaluate_bundles
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.data_of import read_again
from foster_cli.files import sha256_file
from foster_cli.runtime import machine
from foster_cli.session import Session

ROWS = ("full", "synthetic")


@dataclass(frozen=True)
class TrainingBench:
    """The bundles, the `paths` of their data (None: those in the manifest), the number of models per row (`seeds`), the
    time `limit` of a row in seconds (None: no limit)."""

    bundles: list[Bundle]
    paths: tuple[str, ...] | None
    seeds: int
    limit: float | None
    session: Session
    out: Path


def table(plan: TrainingBench) -> dict[str, Any]:
    """Measure both rows of each bundle; finished rows are stored in `plan.out`/cells. Returns the JSON."""
    console, device = plan.session.console, str(plan.session.device)
    cells, entries = Cells(plan.out / "cells", console), []
    for b in plan.bundles:
        m, rows = b.manifest, {}
        for row in ROWS:
            name = f"{b.path.name}, {row}"
            console.note(f"row {name}")
            request = {"bench": "train", "row": row, "bundle": str(b.path.resolve()), "paths": plan.paths,
                       "seeds": plan.seeds, "device": device}  # fmt: skip
            fields = {"row": row, "seeds": plan.seeds, "device": device, **measured_on(),
                      "sums": sha256_file(b.path / bundle.SUMS)}  # fmt: skip
            rows[row] = measured(cells, RowRequest(f"train-{row}", request, fields, plan.limit))
            console.note(f"row {name}: {rows[row]['status']}")
        metrics = m["metrics"]
        entries.append({
            "bundle": str(b.path), "data": m["data"]["name"], "method": m["method"], "budget": m["distill"]["budget"],
            "encoder": "ids" if m["model"]["items"] == "id" else m["model"]["encoder"],
            "train_layers": m["model"]["train_layers"], "backbone": m["model"]["backbone"],
            "made_seconds": metrics.get("seconds_distill", metrics.get("seconds_select")), "rows": rows,
        })  # fmt: skip
    return {"bundles": entries, "seeds": plan.seeds, "limit": plan.limit, "machine": machine()}


def measure(request: dict[str, Any], console: Console) -> dict[str, Any]:
    """The row of `foster eval` for a bundle, its models trained now: R@10 and N@10 with intervals, `train_seconds`."""
    loaded = bundle.load(request["bundle"])
    made = loaded.made
    data = read_again([Path(p) for p in request["paths"] or made.paths], made.prepare)
    asked = Evaluation((request["row"],), request["seeds"], (10,), resumable=False)
    found = evaluate_bundles([loaded], data, asked, Session(console, torch.device(request["device"]), use_cache=False))
    row = found["rows"][request["row"]]
    return {"cases": found["cases"], **{k: row[k] for k in ("R@10", "N@10", "train_seconds", "peak_mb", "chosen")}}
