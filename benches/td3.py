"""Seconds and peak memory of TD3's outer step in its published setting, and of FOSTER's own beside it.

    OMP_NUM_THREADS=1 python benches/td3.py --items 1683 17000 --steps 5 --out benches/results/td3.json

One core, ID embeddings, SASRec of 2 layers and width 32, 30 synthetic sequences of 50 positions, 4,096 real ones
per outer step, all of full length; 68 warm-up steps (of at most 160), 40 differentiated ones, all items. TD3's own
public code took 21.1 s and 3.9 GiB per outer step there with 1,683 items, 79 s and 5.5 GiB with 17,000 (measured
with it on a machine like this one, not by this script). FOSTER's step: the same model and sequences, T = 5,
|S| = 512, its default outer loss on all positions of 4,096 real sequences (`foster`), or of its default 256
(`foster-256`). Every row runs in a process of its own; `peak_mb` is the resident peak of the process, torch and the
real data included, `base_mb` what it held before the first step; `cpu_s` is processor time, which others on the
machine disturb less than `median_s`; `load` the load average at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from record import record
from torch import Tensor, nn

from foster_cli.baselines import td3
from foster_cli.baselines.td3 import TD3Config, td3_state, td3_step
from foster_cli.data.windows import Windows
from foster_cli.distill.algorithm2 import Problem, State, outer_step
from foster_cli.models.encoder import TextEncoder
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import generator, peak_memory_mb, reset_peak
from foster_cli.settings import DistillConfig, ModelConfig, TrainConfig
from foster_cli.synthetic.factors import random_start
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.anchors import Teacher

#: The recommender of these figures: texts alone, without a bias, and SASRec.
PAPER = ModelConfig(items="text", bias=False, lexical=0, backbone="sasrec")
M, L, D, WINDOWS, WARM_UP = 30, 50, 32, 8192, 68
METHODS = ("td3", "foster", "foster-256")
PUBLISHED = {1683: {"seconds": 21.1, "gib": 3.9}, 17000: {"seconds": 79.0, "gib": 5.5}}


class IdEmbedding(nn.Module):
    """An embedding per item, in the place of the text encoder."""

    top = True  # it learns, so that no head stands behind it

    def __init__(self, n: int, rng: torch.Generator) -> None:
        super().__init__()
        self.cache = SimpleNamespace(n=n, width=D, features=D)
        self.table = nn.Embedding.from_pretrained(torch.empty(n, D).normal_(0, 0.02, generator=rng), freeze=False)

    def shared(self) -> dict[int, Any]:
        """What copies share: nothing that learns."""
        return {id(self.cache): self.cache}

    def forward(self, items: Tensor) -> Tensor:
        """(B,) -> (B, d)."""
        return cast(Tensor, self.table(items))


def make_problem(n: int) -> Problem:
    """Random windows of L + 1 items, random weights: what they are does not change the time."""
    rng = np.random.default_rng(0)

    def fresh(seed: int) -> Recommender:
        text: Any = IdEmbedding(n, generator(seed, "ids"))
        model = Recommender(cast(TextEncoder, text), PAPER, L, seed)
        model.sequence.seed_dropout(seed)
        return model.eval()

    windows = Windows(rng.integers(0, n, (WINDOWS, L + 1)), np.full(WINDOWS, L + 1))
    teacher = fresh(0)
    V = teacher.embed_all()
    config = DistillConfig(budget=M, length=L, items_per_step=None, targets="next", mix=False, real_batch=4096)
    record = Teacher(teacher, [fresh(1).learnables()], [], {}, {}, 0.0, 0.0, False)
    return Problem(record, fresh, V, windows, make_subset(config, V, 0), config, TrainConfig(), 0)


def measure(method: str, n: int, steps: int) -> dict[str, Any]:
    """One row."""
    problem = make_problem(n)
    seconds, cpu = [], []
    if method == "td3":
        settings = TD3Config()
        td3.draw_warm_up = lambda *_: WARM_UP  # type: ignore[assignment]
        state = td3_state(problem, settings)
        run = lambda k: td3_step(problem, settings, state, k)  # noqa: E731
    else:
        batch = 256 if method == "foster-256" else problem.config.real_batch
        config = replace(problem.config, items_per_step=512, real_batch=batch)
        problem = replace(problem, config=config, subset=make_subset(config, problem.V, 0))
        own = State.fresh(problem, random_start(M, L, D, 8, 8, generator(0, "start")), "bench")
        run = lambda k: outer_step(problem, own, k)  # noqa: E731
    base = resident_mb()
    reset_peak()
    for k in range(steps + 1):
        began = time.process_time()
        seconds.append(run(k)["seconds"])
        cpu.append(time.process_time() - began)
    low, median, high = np.percentile(seconds[1:], [0, 50, 100])
    out = {"method": method, "items": n, "median_s": median, "min_s": low, "max_s": high,
           "cpu_s": float(np.median(cpu[1:])), "steps": steps,
           "peak_mb": peak_memory_mb(torch.device("cpu")), "base_mb": base, "load": os.getloadavg()[0]}  # fmt: skip
    published = PUBLISHED.get(n)
    if published:
        out["published_s_over_ours"] = published["seconds"] / median
        out["peak_over_published"] = out["peak_mb"] / 1024 / published["gib"]
    return out


def resident_mb() -> float:
    """Resident memory of this process in MiB."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    """Measure every row in turn and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[1683, 17000])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        print(json.dumps(measure(a.methods[0], a.items[0], a.steps)))
        return
    rows = []
    for method in a.methods:
        for n in a.items:
            command = [sys.executable, __file__, "--child", "--methods", method, "--items", str(n)]
            command += ["--steps", str(a.steps)]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(rows[-1], file=sys.stderr)
    record(rows, a.out)


if __name__ == "__main__":
    main()
