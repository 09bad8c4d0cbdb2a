"""The estimate of memory beside the measured peak: a short training and an outer step's worth, in a process of its own.

    OMP_NUM_THREADS=1 python benches/memory.py shop.parquet ml.parquet --out benches/results/memory.json

Each row: one epoch on at most 1,200 training windows (batch 256, the default), and one validation. `estimated_mb` is
what `foster distill` would announce for that (`foster_cli.train.memory`), `measured_mb` the resident peak beyond what
the process held before. The estimate is for batches of full length, so that short histories need less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from record import record

from foster_cli.data.prepare import load_dataset
from foster_cli.runtime import peak_memory_mb, reset_peak
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, TrainConfig
from foster_cli.train.fit import fit_real
from foster_cli.train.memory import estimate
from foster_cli.train.task import make_task

#: Layers that learn, width, backbone.
CASES = (("none", None, "sasrec"), ("none", 128, "sasrec"), ("none", None, "gru4rec"), ("1", None, "sasrec"))


def measure(path: str, layers: str, width: int | None, backbone: str) -> dict[str, Any]:
    """One row."""
    device, train = torch.device("cpu"), TrainConfig(epochs=1)
    data = load_dataset([Path(path)])
    model = ModelConfig(train_layers=layers, width=width, backbone=backbone)
    task = make_task(data, model, 20, Session(device=device))
    held = psutil.Process().memory_info().rss / 2**20
    expected = estimate(task, train, 256, 40).total / 2**20
    windows = task.windows.take(np.arange(min(len(task.windows), 1200)))
    reset_peak()
    fit_real(task.fresh(0), windows, task.valid, train, 0)
    measured = peak_memory_mb(device) - held
    return {
        "data": data.name, "items": len(data.catalogue), "layers": layers, "width": width, "backbone": backbone,
        "estimated_mb": expected, "measured_mb": measured, "ratio": expected / measured,
    }  # fmt: skip


def main() -> None:
    """Measure every row in turn and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.case is not None:
        print(json.dumps(measure(a.data[0], *CASES[a.case])))
        return
    rows = []
    for path in a.data:
        for case in range(len(CASES)):
            command = [sys.executable, __file__, path, "--case", str(case)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], file=sys.stderr)
    record(rows, a.out)


if __name__ == "__main__":
    main()
