"""Table 5: seconds and peak memory of an outer step of TD3 and of FOSTER, over all items or few, one layer or all.

In (`measure`, in its own process): data, settings, one of ROWS. Out: seconds per outer step, memory. `table` measures
all rows. Teacher and learner are untrained: the values of their weights do not change the time.

FOSTER's outer step is that of `foster distill`. TD3's is that of `foster distill --method td3`, with as many real
windows as FOSTER's and the average number of warm-up steps before its window.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foster_cli.baselines.td3 import TD3Config, check_td3, td3_settings, td3_state, td3_step
from foster_cli.bench.rows import RowRequest, measured, measured_on
from foster_cli.console import Console
from foster_cli.data.prepare import load_dataset
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import training_windows
from foster_cli.distill.algorithm2 import Problem, State, outer_step
from foster_cli.distill.checks import check_budget
from foster_cli.distill.starts import starting_points
from foster_cli.evaluate.cells import Cells
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, peak_memory_mb, reset_peak
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, Settings, TrainConfig, choice, from_dict
from foster_cli.synthetic.reading import make_reading
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.anchors import Teacher
from foster_cli.train.task import Task, make_task

#: Method, items (`few`: `items_per_step`), trainable layers of the encoder; in the paper's order.
ROWS = {
    f"{method}-{items}-{layers}": (method, items, layers)
    for items, layers in (("all", "last"), ("few", "last"), ("few", "all"))
    for method in ("td3", "foster")
}


@dataclass(frozen=True)
class StepBench:
    """Settings that the rows share. `steps`: timed, after an untimed one; `limit`: seconds per row, None: no limit."""

    data: Dataset
    settings: Settings
    td3: TD3Config
    steps: int
    rows: tuple[str, ...]
    limit: float | None
    session: Session
    out: Path


def table(plan: StepBench) -> dict[str, Any]:
    """Measure every row of the plan; finished rows are stored in `plan.out`/cells. Returns the JSON."""
    console, s, length = plan.session.console, plan.settings, plan.settings.distill.length
    check_td3(plan.td3, length)
    check_budget(len(training_windows(plan.data, length)), s.distill)
    cells, rows, values = Cells(plan.out / "cells", console), [], s.to_dict()
    shared = {key: values[key] for key in ("prepare", "model", "distill")}
    shared |= {"td3": dataclasses.asdict(plan.td3), "steps": plan.steps, "device": str(plan.session.device)}
    fields = {**shared, "data": plan.data.hash, "encoder": find_encoder(s.model.encoder).hash, **measured_on()}

    @cache
    def texts_read() -> None:
        """Run the frozen layers on the texts, so that a row reads the result from the cache and does not time it."""
        make_task(plan.data, dataclasses.replace(s.model, train_layers="1"), length, plan.session)

    for i, name in enumerate(plan.rows):
        console.note(f"row {name} ({i + 1} of {len(plan.rows)})")
        request = {"bench": "distill", "row": name, "paths": values["paths"], **shared}
        asked = RowRequest(f"distill-{name}", request, {**fields, "row": name}, plan.limit)
        found = measured(cells, asked, texts_read)
        method, items, layers = ROWS[name]
        number = None if items == "all" else s.distill.items_per_step
        rows.append({"row": name, "method": method, "items": number, "layers": layers, **found})
        console.note(f"row {name}: {found['status']}" + _short(found))
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics},
        "rows": rows, "steps": plan.steps, "limit": plan.limit,
        "settings": {"path": values["paths"], **{key: shared[key] for key in ("prepare", "model", "distill", "td3")}},
        "machine": machine(),
    }  # fmt: skip


def _short(row: dict[str, Any]) -> str:
    return f", {row['median_s']:.2f} s per outer step, peak {row['peak_mb']:.0f} MiB" if row["status"] == "done" else ""


def measure(request: dict[str, Any], console: Console) -> dict[str, Any]:
    """Seconds of `steps` outer steps of the row; memory in MiB. Raises FosterError for an invalid request."""
    method, items, layers = ROWS[choice("row", request["row"], ROWS)]
    named = ("paths", "prepare", "model", "distill")
    settings = Settings.from_dict({key: request[key] for key in named})
    data = load_dataset([Path(p) for p in settings.paths], settings.prepare)
    session, config = Session(console, torch.device(request["device"])), settings.distill
    model = dataclasses.replace(settings.model, train_layers={"last": "1", "all": "all"}[layers])
    if items == "all":
        config = dataclasses.replace(config, items_per_step=None)
    with matmul_precision(model.precision, session.device):
        task = make_task(data, model, config.length, session)
        make = td3_stepper if method == "td3" else foster_stepper
        step = make(task, config, from_dict(TD3Config, request["td3"]))
        found = timed(step, int(request["steps"]), session)
    per_epoch = -(-len(task.windows) // config.real_batch)
    return {**found, "epoch_s": found["median_s"] * per_epoch, "steps_per_epoch": per_epoch}


def make_problem(task: Task, config: DistillConfig) -> Problem:
    """The problem with an untrained teacher and an untrained anchor; D~ starts from one draw."""
    teacher = task.fresh(0)
    V = teacher.embed_all()
    record = Teacher(teacher, [task.fresh(1).learnables()], [], {}, {}, 0.0, 0.0, False)
    return Problem(record, task.fresh, V, task.windows, make_subset(config, V, 0), config, TrainConfig(), 0)


def foster_stepper(task: Task, config: DistillConfig, _: TD3Config) -> Callable[[int], object]:
    """k -> outer step k of Algorithm 2."""
    problem = make_problem(task, config)
    start = next(starting_points(problem.teacher.model, problem.V, task.windows, config, 0)).synthetic
    reading = make_reading(config.targets == "own", config.mix, start().detach(), problem.V)
    problem = dataclasses.replace(problem, reading=reading)
    state = State.fresh(problem, start, "bench")
    return lambda k: outer_step(problem, state, k)


def td3_stepper(task: Task, config: DistillConfig, td3: TD3Config) -> Callable[[int], object]:
    """k -> outer step k of TD3, after its mean number of plain inner steps."""
    td3 = dataclasses.replace(td3, real_batch=config.real_batch)
    problem = make_problem(task, td3_settings(config, td3))
    state = td3_state(problem, td3)
    return lambda k: td3_step(problem, td3, state, k, (td3.inner_steps - td3.window) // 2)


def timed(step: Callable[[int], object], steps: int, session: Session) -> dict[str, Any]:
    """Time `steps` calls of `step` after an untimed one: wall-clock and CPU seconds, memory before and at its peak."""
    device = session.device

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    base = resident_mb(device)
    reset_peak()
    wall, cpu = [], []
    with session.console.progress("outer steps, the first not counted", steps + 1) as bar:
        for k in range(steps + 1):
            began, worked = time.perf_counter(), time.process_time()
            step(k)
            wait()
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - worked)
            bar.at(k + 1, f"{wall[-1]:.2f} s")
    low, median, high = (float(x) for x in np.percentile(wall[1:], [0, 50, 100]))
    return {
        "median_s": median, "min_s": low, "max_s": high, "cpu_s": float(np.median(cpu[1:])), "seconds": wall[1:],
        "peak_mb": peak_memory_mb(device), "base_mb": base,
    }  # fmt: skip


def resident_mb(device: torch.device) -> float | None:
    """MiB in use: by the CUDA allocator on a GPU, else resident in the process; None where there is no /proc."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    file = Path("/proc/self/statm")
    if not file.exists():
        return None
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
