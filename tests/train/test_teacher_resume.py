"""A teacher whose training is killed continues after its last stored epoch, and is the same one, byte for byte.

To run it alone: `pytest tests/train/test_teacher_resume.py`.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, killed_at

from foster_cli.cache import cache_lock
from foster_cli.checkpoint import Store
from foster_cli.settings import TrainConfig
from foster_cli.train import anchors, best, fit
from foster_cli.train.anchors import Teacher, full_teacher, teacher_key
from foster_cli.train.task import Task

CONFIG = TrainConfig(batch=64, epochs=3, negatives=10, patience=2)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validated epoch is stored, whatever it costs."""
    monkeypatch.setattr(anchors, "Store", lambda folder: Store(folder, share=1e9))


def _train(task: Task, cache: Path, patch: pytest.MonkeyPatch, folder: Path | None = None) -> Teacher:
    patch.setenv("FOSTER_CACHE", str(cache))
    return full_teacher(task, CONFIG, 0, folder=folder)


def _bytes(cache: Path) -> dict[str, str]:
    files = sorted((cache / "teachers").glob("*/*.safetensors"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_killed_at_many_moments(cached_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, whole = teacher_key(cached_task, CONFIG, 0), _train(cached_task, tmp_path / "whole", monkeypatch)
    expected, number, trained = _bytes(tmp_path / "whole"), 0, []
    assert len(expected) == len(whole.anchors) + 1 > 3
    original = fit.batches
    monkeypatch.setattr(fit, "batches", lambda *a: trained.append(1) or original(*a))
    while True:
        cache = tmp_path / str(number)
        trained.clear()
        try:
            with killed_at(monkeypatch, number):
                found = _train(cached_task, cache, monkeypatch)
        except Killed:
            first = len(trained)
            found = _train(cached_task, cache, monkeypatch)
            if number >= 40:
                assert len(trained) == first  # it was killed while the entry was written: nothing is trained again
        else:
            break
        assert _bytes(cache) == expected, number
        assert found.history == whole.history
        assert {p.name for p in (cache / "teachers").iterdir()} == {key, f"{key}.lock", f"{key}.about.json"}
        number += 2
    assert number > 50


def test_an_interrupted_epoch_is_begun_again(
    cached_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in step 31; short epochs are validated, and stored, every twenty steps."""
    original, calls, stop = fit.real_loss, [], [0]

    def real_loss(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == stop[0]:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(fit, "real_loss", real_loss)
    whole = _train(cached_task, tmp_path / "whole", monkeypatch)
    steps, stop[0] = len(calls), 31
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        _train(cached_task, tmp_path / "cut", monkeypatch)
    found = _train(cached_task, tmp_path / "cut", monkeypatch)
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole") and found.history == whole.history
    assert len(calls) == 31 + steps - 20  # the first twenty are not done again
    assert not found.cached


def test_patience_is_counted_over_an_interruption(
    cached_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [0.5, 0.4, 0.3, 0.2]  # the first epoch does not count: there is no loss before its own
    monkeypatch.setattr(fit, "SETTLED", 2.0)
    monkeypatch.setattr(fit, "WAYS", (1.0,))
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", replace(CONFIG, epochs=9))

    def run(cache: Path, stop: int | None) -> Teacher:
        values = iter(told)
        done = []

        def validate(model: Any, cases: Any, measure: Any) -> dict[str, float]:
            done.append(1)
            if len(done) - 1 == stop:
                raise Killed
            return {"R@10": next(values), "N@10": 0.0}

        monkeypatch.setattr(best, "validate", validate)
        try:
            return _train(cached_task, cache, monkeypatch)
        except Killed:
            told_left = told[len(done) - 1 :]
            rest = iter(told_left)
            monkeypatch.setattr(best, "validate", lambda *a: {"R@10": next(rest), "N@10": 0.0})
            return _train(cached_task, cache, monkeypatch)

    whole, cut = run(tmp_path / "a", None), run(tmp_path / "b", 2)
    assert len(whole.history) == 4 and cut.history == whole.history
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_without_the_cache_it_is_kept_with_the_run(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "b.run"
    made = _train(task, tmp_path / "cache", monkeypatch, run)
    monkeypatch.setattr(anchors, "fit_real", lambda *a, **k: pytest.fail("trained again"))
    found = _train(task, tmp_path / "cache", monkeypatch, run)
    assert found.history == made.history and not (tmp_path / "cache").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with cache_lock(tmp_path / "k"):
            inside.set()
            go.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)

    def waiting() -> None:
        order.append("waiting")
        go.set()

    with cache_lock(tmp_path / "k", waiting):
        order.append("second")
    thread.join()
    assert order == ["waiting", "first", "second"]
