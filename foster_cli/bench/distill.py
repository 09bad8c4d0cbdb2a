"""Table 5: seconds and peak memory of an outer step of TD3 and of FOSTER, over all items or few, one layer or all.

In (`measure`, in a process of its own): data, settings, one of ROWS. Out: seconds per outer step, memory. `table`
asks for all rows. Teacher and learner are untrained: what their weights are does not change the time.

An outer step of FOSTER is `foster distill`'s; one of TD3 is `foster distill --method td3`'s, with as many real
windows as FOSTER's, and as many steps before its window as it draws on average.
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
from foster_cli.bench.rows import kept, measured_on, read_prepare
from foster_cli.config import DistillConfig, ModelConfig, TrainConfig, choice, from_dict
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.prepare import load_dataset
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import training_windows
from foster_cli.distill.loop import Problem, State, make_subset, outer_step
from foster_cli.distill.pipeline import check_windows, starting_points
from foster_cli.evaluate.cells import Cells
from foster_cli.models.source import find_encoder
from foster_cli.ops.precision import matmul_precision
from foster_cli.ops.reading import make_reading
from foster_cli.runtime import adamw, generator, machine, peak_memory_mb, reset_peak
from foster_cli.train.anchors import Teacher
from foster_cli.train.setting import Setting, make_setting

#: Method, items (`few`: `items_per_step`), layers of the encoder that learn: the paper's order.
ROWS = {
    f"{method}-{items}-{layers}": (method, items, layers)
    for items, layers in (("all", "last"), ("few", "last"), ("few", "all"))
    for method in ("td3", "foster")
}


@dataclass(frozen=True)
class Plan:
    """What the rows share. `steps` are counted, after one that is not; `limit`: seconds of a row, None: no limit."""

    data: Dataset
    paths: list[str]
    prepare: PrepareSettings
    model: ModelConfig
    config: DistillConfig
    td3: TD3Config
    steps: int
    rows: tuple[str, ...]
    limit: float | None
    device: torch.device
    out: Path


def table(plan: Plan, console: Console = SILENT) -> dict[str, Any]:
    """Every row of the plan in turn; those that are finished are kept in `plan.out`/cells. Returns the JSON."""
    check_td3(plan.td3, plan.config.length)
    check_windows(len(training_windows(plan.data, plan.config.length)), plan.config)
    cells, rows = Cells(plan.out / "cells", console), []
    shared = {
        "prepare": dataclasses.asdict(plan.prepare), "model": dataclasses.asdict(plan.model),
        "distill": dataclasses.asdict(plan.config), "td3": dataclasses.asdict(plan.td3), "steps": plan.steps,
        "device": str(plan.device),
    }  # fmt: skip
    fields = {
        **shared, "data": plan.data.hash, "encoder": find_encoder(plan.model.encoder).hash, **measured_on(),
    }  # fmt: skip

    @cache
    def texts_read() -> None:
        """The frozen layers have read the texts: a row finds that in the cache, and spends none of its time on it."""
        model = dataclasses.replace(plan.model, train_layers="1")
        make_setting(plan.data, model, plan.config.length, plan.device, console)

    for i, name in enumerate(plan.rows):
        console.note(f"row {name} ({i + 1} of {len(plan.rows)})")
        request = {"bench": "distill", "row": name, "paths": plan.paths, **shared}
        found = kept(cells, f"distill-{name}", request, {**fields, "row": name}, plan.limit, console, texts_read)
        method, items, layers = ROWS[name]
        number = None if items == "all" else plan.config.items_per_step
        rows.append({"row": name, "method": method, "items": number, "layers": layers, **found})
        console.note(f"row {name}: {found['status']}" + _short(found))
    return {
        "data": {"name": plan.data.name, "hash": plan.data.hash, "statistics": plan.data.statistics},
        "rows": rows, "steps": plan.steps, "limit": plan.limit,
        "settings": {"path": plan.paths, **{key: shared[key] for key in ("prepare", "model", "distill", "td3")}},
        "machine": machine(),
    }  # fmt: skip


def _short(row: dict[str, Any]) -> str:
    return f", {row['median_s']:.2f} s per outer step, peak {row['peak_mb']:.0f} MiB" if row["status"] == "done" else ""


def measure(request: dict[str, Any], console: Console) -> dict[str, Any]:
    """Seconds of `steps` outer steps of the row; memory in MiB. FosterError for what does not fit."""
    method, items, layers = ROWS[choice("row", request["row"], tuple(ROWS))]
    data = load_dataset([Path(p) for p in request["paths"]], read_prepare(request["prepare"]))
    device, config = torch.device(request["device"]), from_dict(DistillConfig, request["distill"])
    model = dataclasses.replace(
        from_dict(ModelConfig, request["model"]), train_layers={"last": "1", "all": "all"}[layers]
    )
    if items == "all":
        config = dataclasses.replace(config, items_per_step=None)
    with matmul_precision(model.precision, device):
        setting = make_setting(data, model, config.length, device, console)
        make = td3_stepper if method == "td3" else foster_stepper
        step = make(setting, config, from_dict(TD3Config, request["td3"]))
        found = timed(step, int(request["steps"]), device, console)
    per_epoch = -(-len(setting.windows) // config.real_batch)
    return {**found, "epoch_s": found["median_s"] * per_epoch, "steps_per_epoch": per_epoch}


def make_problem(setting: Setting, config: DistillConfig) -> Problem:
    """The problem with an untrained teacher and an untrained anchor; D~ starts from one draw."""
    teacher = setting.fresh(0)
    V = teacher.embed_all()
    record = Teacher(teacher, [setting.fresh(1).learnables()], [], 0.0, 0.0, False)
    return Problem(record, setting.fresh, V, setting.windows, make_subset(config, V, 0), config, TrainConfig(), 0)


def foster_stepper(setting: Setting, config: DistillConfig, _: TD3Config) -> Callable[[int], object]:
    """k -> outer step k of Algorithm 2."""
    problem = make_problem(setting, config)
    start = next(starting_points(setting, problem.teacher.model, problem.V, config, 0)).synthetic
    reading = make_reading(config.targets == "own", config.mix, start().detach(), problem.V)
    problem, phi = dataclasses.replace(problem, reading=reading), setting.fresh(2)
    state = State(
        phi, adamw(phi.parameters()), start, adamw(start.parameters(), lr=config.synthetic_lr),
        generator(0, "bench"), np.random.default_rng(0),
    )  # fmt: skip
    return lambda k: outer_step(problem, state, k)


def td3_stepper(setting: Setting, config: DistillConfig, td3: TD3Config) -> Callable[[int], object]:
    """k -> outer step k of TD3, after its mean number of plain inner steps."""
    td3 = dataclasses.replace(td3, real_batch=config.real_batch)
    problem = make_problem(setting, td3_settings(config, td3, config.items_per_step is None))
    state = td3_state(problem, td3)
    return lambda k: td3_step(problem, td3, state, k, (td3.inner_steps - td3.window) // 2)


def timed(step: Callable[[int], object], steps: int, device: torch.device, console: Console) -> dict[str, Any]:
    """`steps` calls of `step`, after one that is not counted: seconds, processor seconds, memory before and at most."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    base = resident_mb(device)
    reset_peak()
    wall, cpu = [], []
    with console.progress("outer steps, the first not counted", steps + 1) as bar:
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
    """MiB held now: by the CUDA allocator on a GPU, else resident in the process; None where Linux does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    file = Path("/proc/self/statm")
    if not file.exists():
        return None
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
