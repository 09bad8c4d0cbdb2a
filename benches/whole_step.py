"""What the compiled ops give to a whole training step: seconds of an inner and of an outer step with
`FOSTER_OPS=native` over those with `FOSTER_OPS=reference`, in turns in one process.

    python benches/whole_step.py --out benches/results/whole-step.json

Generated data: 17,332 unit text vectors of width 384 (frozen), 20,000 random windows of 21 items, default settings.
`student` is one step of training on the finished set (2,048 items), `outer` one step of Algorithm 2 (T = 5 inner steps
on 512 items, one outer step on 256 real windows), `ranking` 1,000 cases among all items.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from outer_step import make_problem

from foster_cli.distill.algorithm1 import inner_steps
from foster_cli.distill.algorithm2 import outer_step
from foster_cli.ops import rank_counts
from foster_cli.runtime import adamw, generator, machine
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import make_subset


def steps(n: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Name -> one step of it."""
    problem, state, Q = make_problem(n, device)
    V, config, reading = problem.V, problem.config, problem.reading
    student = problem.fresh(2)
    optimizer = adamw(student.parameters())
    drawn = SyntheticSet(Q, V, make_subset(config, V, 0, StudentConfig()), reading)
    H = torch.randn(1000, 384, generator=generator(0, "cases")).to(device)
    target = torch.arange(1000, device=device)
    rng_student = generator(0, "student")
    return {
        "student": lambda: inner_steps(student, drawn, 1, optimizer, rng_student),
        "outer": lambda: outer_step(problem, state, 1),
        "ranking": lambda: rank_counts(H, V, target),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=17_332)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    out = []
    for name, step in steps(given.items, device).items():
        timed: dict[str, list[float]] = {"native": [], "reference": []}
        for _ in range(given.repeats + 1):  # the first is not counted
            for ops in timed:
                os.environ["FOSTER_OPS"] = ops
                began = time.perf_counter()
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                timed[ops].append(time.perf_counter() - began)
        own, plain = timed["native"][1:], timed["reference"][1:]
        ratio = median(a / b for a, b in zip(own, plain, strict=True))
        out.append({"step": name, "native_s": median(own), "reference_s": median(plain), "ratio": ratio})
        print(
            f"{name:8} {median(own):.4f} s against {median(plain):.4f} s of plain PyTorch, ratio {ratio:.2f}",
            flush=True,
        )
    if given.out:
        given.out.write_text(json.dumps({"machine": machine(), "items": given.items, "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
