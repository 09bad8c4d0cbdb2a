"""Seconds and peak memory of one outer step against the size of the catalogue.

    python benches/outer_step.py --items 2000 17000 200000 --steps 10 --out benches/results/outer_step.json

Generated data: n unit text vectors of width 384 (frozen), 20,000 random windows of 21 items, default settings
(M = L = 20, T = 5, |S| = 512, real batch 256). Each size runs in a process of its own, so that a peak is its own;
`peak_mb` is the process's resident peak, `base_mb` what it held before the first step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from record import record
from torch import Tensor

from foster_cli.data.windows import Windows
from foster_cli.distill.algorithm2 import Problem, State, outer_step
from foster_cli.distill.starts import probe_items, probe_tensor
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import generator, peak_memory_mb, reset_peak
from foster_cli.settings import DistillConfig, ModelConfig, TrainConfig
from foster_cli.synthetic.factors import from_tensor
from foster_cli.synthetic.reading import make_reading
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.anchors import Teacher

#: The recommender of these figures: texts alone, without a bias, and SASRec.
PAPER = ModelConfig(items="text", bias=False, lexical=0, backbone="sasrec")


def make_problem(n: int, device: torch.device) -> tuple[Problem, State, Tensor]:
    """What an outer step needs, on generated data with n items; and Q (M, rows, d) of the starting point."""
    rng = np.random.default_rng(0)
    pooled = torch.nn.functional.normalize(torch.randn(n, 384, generator=generator(0, "texts")), dim=-1).to(device)
    config = DistillConfig()

    def fresh(seed: int) -> Recommender:
        text = TextEncoder(TextCache(pooled, None, None, n, 384), None, "mean", True)
        model = Recommender(text, PAPER, config.length, seed).to(device)
        model.sequence.seed_dropout(seed)
        return model.eval()

    windows = Windows(rng.integers(0, n, (20_000, 21)), np.full(20_000, 21))
    teacher = fresh(0)
    V = teacher.embed_all()
    record = Teacher(teacher, [teacher.learnables()], [], {}, {}, 0.0, 0.0, False)
    Q = probe_tensor(teacher, V, probe_items(windows, n, 20, 20, rng), config.gain)
    synthetic = from_tensor(Q, None, None)[0].to(device)
    reading = make_reading(config.targets == "own", config.mix, Q, V)
    problem = Problem(record, fresh, V, windows, make_subset(config, V, 0), config, TrainConfig(), 0, reading)
    return problem, State.fresh(problem, synthetic, "bench"), Q


def measure(n: int, steps: int) -> dict[str, float]:
    """One size."""
    cpu = torch.device("cpu")
    problem, state, _ = make_problem(n, cpu)
    outer_step(problem, state, 0)
    base = resident_mb()
    reset_peak()
    seconds = []
    for k in range(1, steps + 1):
        began = time.perf_counter()
        outer_step(problem, state, k)
        seconds.append(time.perf_counter() - began)
    low, median, high = np.percentile(seconds, [0, 50, 100])
    peak = peak_memory_mb(cpu)
    return {"items": n, "median_s": median, "min_s": low, "max_s": high, "peak_mb": peak, "base_mb": base}


def resident_mb() -> float:
    """Resident memory of this process in MiB."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    """Measure every size in turn and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[2_000, 17_000, 200_000])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        print(json.dumps(measure(a.items[0], a.steps)))
        return
    rows = []
    for n in a.items:
        command = [sys.executable, __file__, "--child", "--items", str(n), "--steps", str(a.steps)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], file=sys.stderr)
    for row in rows:
        row["time_ratio_to_first"] = row["median_s"] / rows[0]["median_s"]
    record(rows, a.out)


if __name__ == "__main__":
    main()
