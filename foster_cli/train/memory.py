"""An estimate of the memory that training will need, made before it starts and compared with the free memory.

In: a `Task` and the training settings. Out: bytes by part. The memory of a backward pass is measured, not guessed: a
few windows and items run forward, and the bytes that autograd saves for them are scaled up to whole batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from foster_cli.models.recommender import Recommender
from foster_cli.settings import TrainConfig
from foster_cli.train.batch import Pool, batch_count, candidate_count, real_batch, real_loss, real_outputs
from foster_cli.train.best import FINALISTS
from foster_cli.train.micro import rows_at_once
from foster_cli.train.task import Task

#: The peak memory of a step, gradients of activations included, as a multiple of what the forward pass saves.
#: From peaks measured on a CPU (`benches/memory.py`).
PEAK = 1.6
#: Copies of the trainable parameters during training: weights, gradient, Adam's two moments, average, best states.
COPIES = 5 + FINALISTS


@dataclass(frozen=True)
class Estimate:
    """Bytes beyond those in use already: `weights` (with anchors), `batch` (a step), `catalogue` (item vectors)."""

    weights: int
    batch: int
    catalogue: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.weights + self.batch + self.catalogue


def saved_bytes(run: Callable[[], Tensor], but: set[int]) -> int:
    """Bytes that autograd saves in `run()` for the backward pass: each storage once, without the storages in `but`."""
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in but:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()  # a reference, so that no storage is reused for another tensor
    del out
    return sum(found.values())


def per_row(run: Callable[[int], Tensor], but: set[int], few: int, more: int) -> float:
    """Bytes that autograd saves for each row of `run(rows)`."""
    return (saved_bytes(lambda: run(more), but) - saved_bytes(lambda: run(few), but)) / (more - few)


def estimate(task: Task, train: TrainConfig, real_batch: int, students: int) -> Estimate:
    """The memory of a teacher, of outer steps on `real_batch` windows, and of students on `students` sequences."""
    model: Recommender = task.fresh(0)
    n, width, length, device = model.n, model.width, task.length, task.device
    size = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    but = {p.untyped_storage().data_ptr() for p in model.parameters()}
    model.train()

    def windows(rows: int) -> Tensor:
        return model(torch.zeros(rows, length, width, device=device, requires_grad=True))

    some = np.linspace(0, n - 1, min(n, 16)).astype(np.int64)

    def items(rows: int) -> Tensor:
        return model.embed(torch.from_numpy(np.resize(some, rows)).to(device))

    window = per_row(windows, but, 2, 6)
    item = max(per_row(items, but, 4, 12), 4.0 * width)
    at_once = min(real_batch, rows_at_once(length, width, device))
    rows = max(min(train.batch, len(task.windows)), 2 * at_once, students)
    embedded = min(n, rows * length + candidate_count(model, train))
    vectors = 4 * n * width
    return Estimate(
        COPIES * size + (train.epochs + 1) * size,
        int(PEAK * (rows * window + embedded * item)),
        3 * vectors + 4 * len(task.valid) * width,
    )


def training_seconds(task: Task, train: TrainConfig, steps: int = 3) -> float:
    """The seconds of a training on all windows that takes all its epochs, by the fastest of a few steps here.

    Validations are left out; most trainings stop earlier.
    """
    model, rng = task.fresh(0).train(), np.random.default_rng(0)
    pool, count = Pool.of(model, task.windows), candidate_count(model, train)
    best = np.inf
    for _ in range(steps):
        some = task.windows.take(rng.choice(len(task.windows), min(train.batch, len(task.windows)), replace=False))
        began = time.perf_counter()
        batch = real_batch(some, pool, train.loss, count, rng, model.device, model.sequence.predicted)
        real_loss(*real_outputs(model, batch), batch, train.loss).backward()
        best = min(best, time.perf_counter() - began)
    return best * train.epochs * batch_count(task.windows, train.batch, train.recency)


def free_bytes(device: torch.device) -> int:
    """The free memory of the GPU `device`, else of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def note_memory(task: Task, train: TrainConfig, real_batch: int, students: int) -> None:
    """Print the needed and the free memory and, if too little is free, which settings to change."""
    console = task.session.console
    needed, free = estimate(task, train, real_batch, students).total / 2**30, free_bytes(task.device) / 2**30
    if needed <= free:
        console.note(f"memory: about {needed:.1f} GiB more will be needed, {free:.1f} GiB are free")
        return
    console.note(
        f"memory: about {needed:.1f} GiB more will be needed and {free:.1f} GiB are free, so it may not fit; a smaller "
        "--width, fewer --train-layers or --length need less"
    )
