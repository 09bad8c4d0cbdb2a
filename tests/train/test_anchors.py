"""The teacher in the cache folder: the same weights, made again where damaged, a key for every setting.

To run it alone: `pytest tests/train/test_anchors.py`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from quick import PATHS, part_way
from safetensors.torch import load_file

from foster_cli import cache
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Protocol
from foster_cli.errors import FosterError
from foster_cli.files import sha256_json
from foster_cli.session import Session
from foster_cli.settings import LATER, ModelConfig, TrainConfig
from foster_cli.train import anchors
from foster_cli.train.anchors import Teacher, full_teacher, teacher_key
from foster_cli.train.task import Task, make_task

CONFIG = TrainConfig(batch=64, epochs=2, negatives=10)


@pytest.fixture
def folder(cached_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the teacher of `cached_task` is stored."""
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    return tmp_path / "teachers" / teacher_key(cached_task, CONFIG, 0)


def _train(task: Task) -> Teacher:
    return full_teacher(task, CONFIG, 0)


def _same(a: Teacher, b: Teacher) -> bool:
    pairs = [(a.model.learnables(), b.model.learnables()), *zip(a.anchors, b.anchors, strict=True)]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_the_cache_gives_the_same_teacher(cached_task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = anchors.fit_real
    monkeypatch.setattr(anchors, "fit_real", lambda *a, **k: replace(original(*a, **k), way=0.75))
    made = _train(cached_task)
    monkeypatch.setattr(anchors, "fit_real", lambda *a, **k: pytest.fail("trained again"))
    read = _train(cached_task)
    assert (made.cached, read.cached) == (False, True)
    assert _same(made, read)
    assert (read.history, read.seconds, read.peak_mb) == (made.history, made.seconds, made.peak_mb)
    assert read.value == made.value and read.way == made.way == 0.75


def test_the_cache_changes_nothing(task: Task, cached_task: Task, folder: Path) -> None:
    assert _same(_train(task), _train(cached_task))
    assert not _train(task).cached


def test_anchors_are_the_trajectory_from_the_untrained_model(cached_task: Task, folder: Path) -> None:
    teacher = _train(cached_task)
    start = cached_task.fresh(0).learnables()
    assert all(torch.equal(teacher.anchors[0][k], v) for k, v in start.items())
    best = teacher.model.learnables()
    kept, row = next(
        (anchor, row)
        for anchor, row in zip(teacher.anchors, teacher.history, strict=True)
        if row["R@10"] == teacher.best
    )
    assert (teacher.way, row["origin"]) in PATHS and teacher.way == row["way"]
    for name, x in part_way(start, kept, teacher.way, row["origin"]).items():
        if not name.startswith("sequence.") or teacher.way == 1.0:
            assert torch.equal(best[name], x)
        torch.testing.assert_close(best[name].double(), x.double(), rtol=1e-6, atol=1e-7)
    assert len(teacher.anchors) == len(teacher.history) >= 3
    assert any(not torch.equal(teacher.anchors[0][k], teacher.anchors[-1][k]) for k in best)
    assert [p.name for p in sorted(folder.glob("anchor-*"))] == [
        f"anchor-{i:03d}.safetensors" for i in range(len(teacher.anchors))
    ]
    assert all(torch.equal(load_file(folder / "best.safetensors")[k], v) for k, v in best.items())


@pytest.mark.parametrize("name", ["best.safetensors", "anchor-001.safetensors", "teacher.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_a_damaged_entry_is_made_again(cached_task: Task, folder: Path, name: str, damage: str) -> None:
    made = _train(cached_task)
    file = folder / name
    data = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    again = _train(cached_task)
    assert not again.cached and _same(made, again)
    assert _train(cached_task).cached


def test_a_flipped_bit_is_seen(cached_task: Task, folder: Path) -> None:
    made = _train(cached_task)
    data = bytearray((folder / "best.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "best.safetensors").write_bytes(data)
    assert _same(made, _train(cached_task))


@pytest.mark.parametrize(("module", "left"), [(cache, []), (anchors, [".about.json", ".run"])])
def test_a_full_disk_leaves_no_half_entry(
    cached_task: Task, folder: Path, module: ModuleType, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "json", SimpleNamespace(dumps=full))  # its first file, and its last one
        with pytest.raises(FosterError, match="disk is full"):
            _train(cached_task)
    names = sorted(p.name for p in folder.parent.iterdir() if p.suffix != ".lock")
    assert names == [folder.name + ending for ending in left]
    assert not _train(cached_task).cached


def test_every_setting_changes_the_key(task: Task, dataset: Dataset) -> None:
    model, train = ModelConfig(), TrainConfig()
    assert task.source is not None

    def key(train: TrainConfig = train, seed: int = 0, **changes: Any) -> str:
        return teacher_key(
            replace(task, **{"model": model, "length": 20, "protocol": Protocol(), **changes}), train, seed
        )

    others = [
        key(data=replace(dataset, hash="other")), key(source=replace(task.source, hash="f")), key(length=21),
        key(seed=1), key(session=replace(task.session, device=torch.device("cuda"))),
        *[key(protocol=protocol) for protocol in (Protocol(True), Protocol(False, "last"), Protocol(True, "first"))],
    ]  # fmt: skip
    numbers: list[tuple[str, Any]] = [
        ("train_layers", "1"), ("width", 8), ("layers", 3), ("heads", 4), ("dropout", 0.5), ("max_tokens", 9),
        ("precision", "bf16"), ("backbone", "gru4rec"), ("items", "id"),
    ]  # fmt: skip
    others += [key(model=replace(model, **{k: v})) for k, v in numbers]
    changes: list[tuple[str, Any]] = [
        ("loss", "bce"), ("negatives", 3), ("batch", 3), ("lr", 0.5), ("encoder_lr", 0.5), ("weight_decay", 0.5),
        ("epochs", 3), ("patience", 1), ("recency", None),
    ]  # fmt: skip
    others += [key(train=replace(train, **{k: v})) for k, v in changes]
    assert len({key(), *others}) == 1 + len(others)
    assert key() == key()
    assert key(model=replace(model, encoder="another-name-of-the-same-files")) == key()


def test_a_key_from_before_there_were_backbones_stays_valid(task: Task, dataset: Dataset) -> None:
    """The key as it was made then, spelled out: teachers that are already in a cache are found."""
    shape = {"train_layers": "none", "width": None, "layers": 2, "heads": 2, "dropout": 0.2, "max_tokens": 64}
    fields = [anchors.FORMAT, dataset.hash, "e", 20, 3, "cpu", torch.__version__]
    fields += [{"mask_seen": True, "cases": "all"}, shape, asdict(TrainConfig())]
    assert task.source is not None
    first = ModelConfig(items="text", **{"backbone": "sasrec", **LATER})
    old = replace(task, source=replace(task.source, hash="e"), model=first, length=20, protocol=Protocol(True))
    assert teacher_key(old, TrainConfig(), 3) == sha256_json(fields)


def test_a_teacher_of_ids_on_another_backbone_comes_back_from_the_cache(dataset: Dataset, folder: Path) -> None:
    model = ModelConfig(items="id", width=8, backbone="gru4rec", encoder="not needed")
    task = make_task(dataset, model, 8, Session())
    made, read = _train(task), _train(task)
    assert read.cached and _same(made, read)
    assert made.anchors[0]["table.weight"].shape == (30, 8)
    assert not torch.equal(made.anchors[0]["table.weight"], made.anchors[-1]["table.weight"])
