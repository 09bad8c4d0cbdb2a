"""The teacher in the cache folder: the same weights, made again where damaged, a key for every setting."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foster_cli.config import ModelConfig, TrainConfig
from foster_cli.errors import FosterError
from foster_cli.runtime import sha256_json
from foster_cli.train import anchors
from foster_cli.train.anchors import Teacher, teacher_key, train_teacher
from foster_cli.train.setting import make_setting

CONFIG = TrainConfig(batch=64, epochs=2, negatives=10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the teacher `k` is kept."""
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    return tmp_path / "teachers" / "k"


def _train(setting: Any, use_cache: bool = True) -> Teacher:
    return train_teacher("k", setting.fresh, setting.windows, setting.valid, CONFIG, 0, use_cache=use_cache)


def _same(a: Teacher, b: Teacher) -> bool:
    pairs = [(a.model.learnables(), b.model.learnables()), *zip(a.anchors, b.anchors, strict=True)]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_the_cache_gives_the_same_teacher(setting: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _train(setting)
    monkeypatch.setattr(anchors, "fit_real", lambda *a, **k: pytest.fail("trained again"))
    read = _train(setting)
    assert (made.cached, read.cached) == (False, True)
    assert _same(made, read)
    assert (read.history, read.seconds, read.peak_mb) == (made.history, made.seconds, made.peak_mb)


def test_the_cache_changes_nothing(setting: Any, folder: Path) -> None:
    assert _same(_train(setting, use_cache=False), _train(setting))
    assert not _train(setting, use_cache=False).cached


def test_anchors_are_the_trajectory_from_the_untrained_model(setting: Any, folder: Path) -> None:
    teacher = _train(setting)
    start = setting.fresh(0).learnables()
    assert all(torch.equal(teacher.anchors[0][k], v) for k, v in start.items())
    best = teacher.model.learnables()
    assert any(all(torch.equal(a[k], best[k]) for k in best) for a in teacher.anchors)
    assert len(teacher.anchors) == len(teacher.history) >= 3
    assert any(not torch.equal(teacher.anchors[0][k], teacher.anchors[-1][k]) for k in best)
    assert [p.name for p in sorted(folder.glob("anchor-*"))] == [
        f"anchor-{i:03d}.safetensors" for i in range(len(teacher.anchors))
    ]
    assert all(torch.equal(load_file(folder / "best.safetensors")[k], v) for k, v in best.items())


@pytest.mark.parametrize("name", ["best.safetensors", "anchor-001.safetensors", "teacher.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_a_damaged_entry_is_made_again(setting: Any, folder: Path, name: str, damage: str) -> None:
    made = _train(setting)
    file = folder / name
    data = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    again = _train(setting)
    assert not again.cached and _same(made, again)
    assert _train(setting).cached


def test_a_flipped_bit_is_seen(setting: Any, folder: Path) -> None:
    made = _train(setting)
    data = bytearray((folder / "best.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "best.safetensors").write_bytes(data)
    assert _same(made, _train(setting))


def test_a_full_disk_leaves_no_half_entry(setting: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", full)  # the last file of an entry
        with pytest.raises(FosterError, match="disk is full"):
            _train(setting)
    assert [p.name for p in folder.parent.iterdir() if p.suffix != ".lock"] == []
    assert not _train(setting).cached


def test_every_setting_changes_the_key(dataset: Any) -> None:
    model, train = ModelConfig(), TrainConfig()

    def key(**changes: Any) -> str:
        given: dict[str, Any] = {
            "data": dataset, "encoder_hash": "e", "model": model, "train": train,
            "length": 20, "seed": 0, "device": "cpu",
        }  # fmt: skip
        return teacher_key(**{**given, **changes})

    others = [
        key(data=replace(dataset, hash="other")), key(encoder_hash="f"), key(length=21), key(seed=1),
        key(device="cuda"),
    ]  # fmt: skip
    numbers: list[tuple[str, Any]] = [
        ("train_layers", "1"), ("width", 8), ("layers", 3), ("heads", 4), ("dropout", 0.5), ("max_tokens", 9),
        ("precision", "bf16"), ("backbone", "gru4rec"), ("items", "id"),
    ]  # fmt: skip
    others += [key(model=replace(model, **{k: v})) for k, v in numbers]
    changes: list[tuple[str, Any]] = [
        ("loss", "bce"), ("negatives", 3), ("batch", 3), ("lr", 0.5), ("encoder_lr", 0.5), ("weight_decay", 0.5),
        ("epochs", 3), ("patience", 1),
    ]  # fmt: skip
    others += [key(train=replace(train, **{k: v})) for k, v in changes]
    assert len({key(), *others}) == 1 + len(others)
    assert key() == key()
    assert key(model=replace(model, encoder="another-name-of-the-same-files")) == key()


def test_a_key_from_before_there_were_backbones_stays_valid(dataset: Any) -> None:
    """The key as it was made then, spelled out: teachers that are already in a cache are found."""
    shape = {"train_layers": "none", "width": None, "layers": 2, "heads": 2, "dropout": 0.2, "max_tokens": 64}
    fields = [anchors.FORMAT, dataset.hash, "e", 20, 3, "cpu", torch.__version__, shape, asdict(TrainConfig())]
    assert teacher_key(dataset, "e", ModelConfig(), TrainConfig(), 20, 3, "cpu") == sha256_json(fields)


def test_a_teacher_of_ids_on_another_backbone_comes_back_from_the_cache(dataset: Any, folder: Path) -> None:
    model = ModelConfig(items="id", width=8, backbone="gru4rec", encoder="not needed")
    setting = make_setting(dataset, model, 8, torch.device("cpu"), use_cache=False)
    made, read = _train(setting), _train(setting)
    assert read.cached and _same(made, read)
    assert made.anchors[0]["table.weight"].shape == (30, 8)
    assert not torch.equal(made.anchors[0]["table.weight"], made.anchors[-1]["table.weight"])
