"""The teacher and its trajectory: trained once, kept in the cache folder, reused between runs.

In: data, model and training settings, a seed. Out: a `Teacher` with its best state and one learnable state
per validation, the anchor pool of Algorithm 2. The cache key is a hash of everything that decides the result.

    teachers/<key>/            best.safetensors, anchor-NNN.safetensors, teacher.json with their sha256
    teachers/<key>.run/        while it trains: its state after an epoch, and the anchors so far (`checkpoint.py`)
    teachers/<key>.about.json  what `foster cache list` says of it
    teachers/<key>.lock        held by the one who trains or reads it
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.cache import clear_leftovers, write_about
from foster_cli.checkpoint import Store
from foster_cli.config import LATER, ModelConfig, TrainConfig, without
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases, Windows
from foster_cli.models.recommender import Factory, Recommender
from foster_cli.runtime import (
    cache_dir,
    cache_lock,
    peak_memory_mb,
    reset_peak,
    save_tensors,
    sha256_file,
    sha256_json,
    writing_dir,
)
from foster_cli.train.fit import fit_real

#: Raised whenever training changes what a given key would give.
FORMAT = 4


@dataclass(frozen=True)
class Teacher:
    """A recommender trained on the real data. `anchors`: learnable states, one per validation from 0."""

    model: Recommender
    anchors: list[dict[str, Tensor]]
    history: list[dict[str, float]]
    seconds: float
    peak_mb: float
    cached: bool


def teacher_key(
    data: Dataset,
    encoder_hash: str | None,
    model: ModelConfig,
    train: TrainConfig,
    length: int,
    seed: int,
    device: str,
) -> str:
    """Hash of data, encoder (None: none), settings, seed and kind of device: equal key, equal teacher."""
    fields: list[Any] = [FORMAT, data.hash, encoder_hash, length, seed, device, torch.__version__]
    shape = {k: v for k, v in dataclasses.asdict(model).items() if k != "encoder"}
    shape = without(shape, {"precision": "fp32", "backbone": "sasrec", "items": "text", **LATER})
    return sha256_json([*fields, shape, dataclasses.asdict(train)])


def train_teacher(
    key: str,
    fresh: Factory,
    windows: Windows,
    valid: Cases,
    config: TrainConfig,
    seed: int,
    console: Console = SILENT,
    use_cache: bool = True,
    label: str = "training on the full data",
    about: dict[str, Any] | None = None,
    keep: Path | None = None,
) -> Teacher:
    """The teacher under `key`, read from the cache folder or trained (and written there).

    An interrupted training goes on after the last epoch that was kept, with the same numbers. `about`: what it is, for
    people. `keep`: the folder that takes the place of the cache's where `use_cache` is off; with None it is kept
    nowhere.
    """
    if not use_cache and keep is None:
        return _train(fresh, windows, valid, config, seed, console, label, None)
    folder = cache_dir() / "teachers" / key if use_cache or keep is None else keep / "teacher"
    with cache_lock(folder, lambda: console.note(f"{label}: another process makes the same one; waiting for it")):
        store = Store(folder.with_name(folder.name + ".run"))
        clear_leftovers(folder)
        if (folder / "teacher.json").exists():
            try:
                found = _read(folder, fresh(seed))
                store.clear()  # left by one that was killed just after
                return found
            except (SafetensorError, KeyError, ValueError, OSError) as error:
                console.note(f"a damaged cache entry is made again: {folder} ({type(error).__name__})")
                shutil.rmtree(folder)
        if use_cache:
            write_about(folder, about or {})
        teacher = _train(fresh, windows, valid, config, seed, console, label, _Trail(store))
        with writing_dir(folder) as tmp:
            for i, state in enumerate(teacher.anchors):
                save_tensors(state, tmp / f"anchor-{i:03d}.safetensors")
            save_tensors(teacher.model.learnables(), tmp / "best.safetensors")
            record = {"anchors": len(teacher.anchors), "history": teacher.history}
            record |= {"seconds": teacher.seconds, "peak_mb": teacher.peak_mb}
            record["sha256"] = {p.name: sha256_file(p) for p in sorted(tmp.iterdir())}
            (tmp / "teacher.json").write_text(json.dumps(record))
        store.clear()
        return teacher


@dataclass
class _Trail:
    """A training's `Keeper` that keeps its anchors too, each of them once."""

    store: Store
    anchors: list[dict[str, Tensor]] = field(default_factory=list)
    written: int = 0

    def due(self) -> bool:
        """Whether the time since the last writing allows another."""
        return self.store.due()

    def write(self, tree: dict[str, Any]) -> None:
        """The anchors that are not yet kept, then the state."""
        new = {f"anchor-{i:03d}": self.anchors[i] for i in range(self.written, len(self.anchors))}
        self.store.write({**new, "state": {**tree, "anchors": len(self.anchors)}})
        self.written = len(self.anchors)

    def read(self) -> dict[str, Any] | None:
        """The state, if all its anchors are there."""
        tree = self.store.read("state")
        found = [self.store.read(f"anchor-{i:03d}") for i in range(tree["anchors"])] if tree is not None else []
        if tree is None or any(anchor is None for anchor in found):
            return None
        self.anchors[:], self.written = found, len(found)
        return tree


def _read(folder: Path, model: Recommender) -> Teacher:
    record = json.loads((folder / "teacher.json").read_text())
    for name, digest in record["sha256"].items():
        if sha256_file(folder / name) != digest:
            raise ValueError(f"{name} was changed")
    model.restore(load_file(folder / "best.safetensors"))
    anchors = [load_file(folder / f"anchor-{i:03d}.safetensors") for i in range(record["anchors"])]
    return Teacher(model, anchors, record["history"], record["seconds"], record["peak_mb"], True)


def _train(
    fresh: Factory,
    windows: Windows,
    valid: Cases,
    config: TrainConfig,
    seed: int,
    console: Console,
    label: str,
    trail: _Trail | None,
) -> Teacher:
    reset_peak()
    model = fresh(seed)
    anchors: list[dict[str, Tensor]] = [] if trail is None else trail.anchors
    fit = fit_real(
        model,
        windows,
        valid,
        config,
        seed,
        console,
        label,
        on_check=lambda _, m: anchors.append(m.learnables()),
        keeper=trail,
    )
    return Teacher(model, anchors, fit.history, fit.seconds, peak_memory_mb(model.device), False)
