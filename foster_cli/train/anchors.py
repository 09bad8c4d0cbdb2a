"""The teacher and its trajectory: trained once, stored in the cache folder and reused by later runs.

In: data, model and training settings, a seed. Out: a `Teacher` with its best state and its anchors: the trainable
parameters at each validation, for Algorithm 2. The cache key is a hash of everything that the result depends on.

    teachers/<key>/            best.safetensors, anchor-NNN.safetensors, teacher.json with their sha256
    teachers/<key>.run/        during training: the state after an epoch, and the anchors so far (`checkpoint.py`)
    teachers/<key>.about.json  what `foster cache list` shows about the teacher
    teachers/<key>.lock        held by the process that trains or reads the teacher
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.cache import cache_dir, read_or_make, write_about
from foster_cli.checkpoint import Store
from foster_cli.console import Stage
from foster_cli.files import save_tensors, sha256_file, sha256_json, writing_dir
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import peak_memory_mb, reset_peak
from foster_cli.settings import LATER, TrainConfig, without
from foster_cli.train.fit import ResumeStore, fit_real
from foster_cli.train.task import Task

#: Increased whenever a change of the code changes the teacher of a given key.
FORMAT = 11


@dataclass(frozen=True)
class Teacher:
    """A recommender trained on the real data. `anchors`: trainable parameters, one set per validation from epoch 0.

    `untrained`, `valid`: R@10 and N@10 over all validation cases, before the training and of the best state; `value`
    and `way`: see `Fit`.
    """

    model: Recommender
    anchors: list[dict[str, Tensor]]
    history: list[dict[str, float]]
    untrained: dict[str, float]
    valid: dict[str, float]
    seconds: float
    peak_mb: float
    cached: bool
    value: float = -1.0
    way: float = 1.0

    @property
    def best(self) -> float:
        """Validation R@10."""
        return self.valid["R@10"]


def teacher_key(task: Task, train: TrainConfig, seed: int) -> str:
    """Hash of data, encoder (None: none), settings, seed, device type and torch: equal keys mean equal teachers."""
    encoder = None if task.source is None else task.source.hash
    fields: list[Any] = [FORMAT, task.data.hash, encoder, task.length, seed, task.device.type, torch.__version__]
    fields.append(dataclasses.asdict(task.protocol))
    shape = {k: v for k, v in dataclasses.asdict(task.model).items() if k != "encoder"}
    shape = without(shape, {"precision": "fp32", "backbone": "sasrec", "items": "text", **LATER})
    return sha256_json([*fields, shape, dataclasses.asdict(train)])


def full_teacher(
    task: Task, train: TrainConfig, seed: int, label: str = "training on the full data", folder: Path | None = None
) -> Teacher:
    """A recommender trained on all real windows with `seed`, and its trajectory: read from the cache, or trained.

    An interrupted training resumes after the last stored epoch, with the same numbers. If the session does not use
    the cache, the teacher is stored in `folder`, or nowhere if that is None.
    """
    session, stage = task.session, Stage(task.session.console, label)
    if session.use_cache:
        place = cache_dir() / "teachers" / teacher_key(task, train, seed)
    elif folder is not None:
        place = folder / "teacher"
    else:
        return _train(task, train, seed, stage, None)
    store = Store(place.with_name(place.name + ".run"))

    def read() -> Teacher:
        found = _read(place, task.fresh(seed))
        store.clear()  # left behind if the process that wrote the entry was killed right after
        return found

    def make() -> Teacher:
        if session.use_cache:
            write_about(place, _about(task, train, seed))
        teacher = _train(task, train, seed, stage, _Trail(store))
        _write(place, teacher)
        store.clear()
        return teacher

    teacher = read_or_make(place, read, make, session.console)
    if teacher.cached and session.use_cache:
        stage.note(f"from the cache ({teacher.seconds:.0f} s when it was trained; --no-cache trains again)")
    return teacher


def _about(task: Task, train: TrainConfig, seed: int) -> dict[str, Any]:
    """What `foster cache list` shows about a teacher."""
    model = task.model
    return {
        "data": task.data.name, "encoder": "ids" if model.items == "id" else model.encoder,
        "backbone": model.backbone, "train_layers": model.train_layers, "length": task.length, "seed": seed,
        "epochs": train.epochs,
    }  # fmt: skip


@dataclass
class _Trail(ResumeStore):
    """Stores the state of a training and its anchors on disk; each anchor is written once."""

    store: Store | None
    anchors: list[dict[str, Tensor]] = field(default_factory=list)
    written: int = 0

    def saw(self, epoch: int, model: Recommender) -> None:
        """Add an anchor."""
        self.anchors.append(model.learnables())

    def due(self) -> bool:
        """Whether enough time has passed since the last write."""
        return self.store is not None and self.store.due()

    def write(self, tree: dict[str, Any]) -> None:
        """Write the new anchors, then the state."""
        assert self.store is not None
        new = {f"anchor-{i:03d}": self.anchors[i] for i in range(self.written, len(self.anchors))}
        self.store.write({**new, "state": {**tree, "anchors": len(self.anchors)}})
        self.written = len(self.anchors)

    def read(self) -> dict[str, Any] | None:
        """The stored state, if all its anchors exist."""
        store = self.store
        tree = None if store is None else store.read("state")
        found = [store.read(f"anchor-{i:03d}") for i in range(tree["anchors"])] if store is not None and tree else []
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
    names = ("history", "untrained", "valid", "value", "seconds", "peak_mb", "way")
    return Teacher(model, anchors, cached=True, **{name: record[name] for name in names})


def _write(folder: Path, teacher: Teacher) -> None:
    """Write the teacher as a cache entry."""
    with writing_dir(folder) as tmp:
        for i, state in enumerate(teacher.anchors):
            save_tensors(state, tmp / f"anchor-{i:03d}.safetensors")
        save_tensors(teacher.model.learnables(), tmp / "best.safetensors")
        record = {"anchors": len(teacher.anchors), "history": teacher.history}
        record |= {"untrained": teacher.untrained, "valid": teacher.valid, "value": teacher.value, "way": teacher.way}
        record |= {"seconds": teacher.seconds, "peak_mb": teacher.peak_mb}
        record["sha256"] = {p.name: sha256_file(p) for p in sorted(tmp.iterdir())}
        (tmp / "teacher.json").write_text(json.dumps(record))


def _train(task: Task, train: TrainConfig, seed: int, stage: Stage, trail: _Trail | None) -> Teacher:
    reset_peak()
    model, trail = task.fresh(seed), trail or _Trail(None)
    fit = fit_real(model, task.windows, task.valid, train, seed, stage, trail)
    peak = peak_memory_mb(model.device)
    return Teacher(
        model, trail.anchors, fit.history, fit.untrained, fit.valid, fit.seconds, peak, False, fit.value, fit.way
    )
