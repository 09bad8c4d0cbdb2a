"""Where a whole step's time goes on a GPU: seconds, kernels, the device's busy share, and every wait for the device.

    python gpu_step.py --out step.json [--device cuda] [--items 17332]

For an inner step, a student's step (also from a CUDA graph) and an outer step, with FOSTER_OPS native and reference in
turns.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from outer_step import make_problem

from foster_cli.distill.algorithm1 import inner_steps
from foster_cli.distill.algorithm2 import outer_step
from foster_cli.distill.graph import step_graph
from foster_cli.runtime import adamw, generator
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.average import Average


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, default=17_332)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out")
    given = parser.parse_args()
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    problem, state, Q = make_problem(given.items, device)
    V, c, reading = problem.V, problem.config, problem.reading
    ahead = state.phi.clone()
    inner = adamw(ahead.groups(c.inner_lr, c.inner_lr), weight_decay=1e-4)
    student = problem.fresh(2)
    student.train()
    average = Average(student, 20)
    optimizer = adamw(student.groups(1e-3, 5e-5), weight_decay=1e-4)
    inner_set = SyntheticSet(Q.detach(), V, problem.subset, reading)
    student_set = SyntheticSet(Q.detach(), V, make_subset(c, V, 0, StudentConfig()), reading)
    rng = generator(0, "student")
    count = iter(range(1, 1 << 30))
    many = 20  # steps of a student that are launched together
    rows = []
    for name in ("inner", "student", "student, graph", "outer"):
        for ops in ("native", "reference"):
            os.environ["FOSTER_OPS"] = ops
            state.ahead = None  # a graph holds the ops with which it was recorded
            graph = step_graph(student, print) if name == "student, graph" else None
            steps: dict[str, Any] = {
                "inner": lambda: inner_steps(ahead, inner_set, 1, inner, state.rng),
                "student": lambda: inner_steps(student, student_set, many, optimizer, rng, average),
                "student, graph": partial(inner_steps, student, student_set, many, optimizer, rng, average, graph),
                "outer": lambda: outer_step(problem, state, next(count)),
            }
            step, share = steps[name], many if name.startswith("student") else 1
            row: dict[str, Any] = {"step": name, "ops": ops}
            try:
                for _ in range(3):
                    step()
                times = []
                for _ in range(given.repeats):
                    if cuda:
                        torch.cuda.synchronize()
                    began = time.perf_counter()
                    step()
                    if cuda:
                        torch.cuda.synchronize()
                    times.append(time.perf_counter() - began)
                row["ms"] = median(times) * 1e3 / share
                if cuda:
                    from torch.profiler import ProfilerActivity, profile

                    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
                        for _ in range(3):
                            step()
                        torch.cuda.synchronize()
                    kernels = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
                    names: collections.Counter[str] = collections.Counter()
                    for e in kernels:
                        names[e.name[:70]] += int(e.time_range.elapsed_us())
                    row["kernels"] = len(kernels) / 3 / share
                    row["device ms"] = sum(names.values()) / 3e3 / share
                    row["busy"] = row["device ms"] / row["ms"]
                    row["largest, us"] = {k: v / 3 / share for k, v in names.most_common(12)}
                    row["waits"] = waits(step)
            except Exception as error:  # noqa: BLE001
                row["error"] = "".join(traceback.format_exception(error))[-1500:]
            rows.append(row)
            print({k: v for k, v in row.items() if k not in ("largest, us", "waits")}, flush=True)
    if given.out:
        found = {"gpu": torch.cuda.get_device_name(0) if cuda else None, "rows": rows}
        Path(given.out).write_text(json.dumps(found, indent=1))


def waits(step: Any) -> dict[str, int]:
    """Lines of foster that waited for the device in one step, by torch's own account."""
    found: collections.Counter[str] = collections.Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        own = [f for f in traceback.extract_stack() if "foster_cli" in f.filename]
        found[f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "backward"] += 1

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = shown
    return dict(found.most_common())


if __name__ == "__main__":
    main()
