"""What training will need in memory, estimated before it starts, beside what is free.

In: a `Setting` and the settings of training. Out: bytes by part. What a backward pass keeps is not guessed: a few
windows and items run forward, what autograd saves of them is counted, and that is scaled up to the batches to come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from foster_cli.config import TrainConfig
from foster_cli.console import Console
from foster_cli.models.recommender import Recommender
from foster_cli.train.micro import rows_at_once
from foster_cli.train.setting import Setting

#: What a step holds at its peak, gradients on their way back included, as a multiple of what the forward pass saved.
#: From peaks measured on a CPU (`benches/memory.py`).
PEAK = 1.6
#: Copies of what learns, while it trains: weights, gradient, Adam's two moments, average, best state.
COPIES = 6


@dataclass(frozen=True)
class Estimate:
    """Bytes beyond what is held already: `weights` (with anchors), `batch` (a step), `catalogue` (item vectors)."""

    weights: int
    batch: int
    catalogue: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.batch + self.catalogue


def saved_bytes(run: Callable[[], Tensor], but: set[int]) -> int:
    """Bytes that autograd keeps of `run()` for its backward pass, each storage once, without the storages in `but`."""
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in but:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()  # held, so that no storage is given to another tensor meanwhile
    del out
    return sum(found.values())


def per_row(run: Callable[[int], Tensor], but: set[int], few: int, more: int) -> float:
    """Bytes that autograd keeps for each row of `run(rows)`."""
    return (saved_bytes(lambda: run(more), but) - saved_bytes(lambda: run(few), but)) / (more - few)


def estimate(setting: Setting, train: TrainConfig, real_batch: int, students: int) -> Estimate:
    """For a teacher, outer steps with `real_batch` windows and students on `students` synthetic sequences."""
    model: Recommender = setting.fresh(0)
    n, width, length, device = model.n, model.width, setting.length, setting.device
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
    rows = max(min(train.batch, len(setting.windows)), 2 * at_once, students)
    embedded = min(n, rows * length + train.negatives)
    vectors = 4 * n * width
    return Estimate(
        COPIES * size + (train.epochs + 1) * size,
        int(PEAK * (rows * window + embedded * item)),
        3 * vectors + 4 * len(setting.valid) * width,
    )


def free_bytes(device: torch.device) -> int:
    """Memory that can be had: of the GPU, else of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def note_memory(setting: Setting, train: TrainConfig, real_batch: int, students: int, console: Console) -> None:
    """Say what will be needed and what is free, and what to change where the one is more than the other."""
    needed, free = estimate(setting, train, real_batch, students).total / 2**30, free_bytes(setting.device) / 2**30
    if needed <= free:
        console.note(f"memory: about {needed:.1f} GiB more will be needed, {free:.1f} GiB are free")
        return
    console.note(
        f"memory: about {needed:.1f} GiB more will be needed and {free:.1f} GiB are free, so it may not fit; a smaller "
        "--width, fewer --train-layers or --length need less"
    )
