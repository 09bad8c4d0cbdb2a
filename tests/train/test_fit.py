"""Training on real windows: it learns, repeats with its seed, keeps its best state, stops in time, resumes."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from quick import PATHS, QUICK, Watched, new_items, same, small, targets_of, trained
from sequences import next_number_cases, next_number_windows
from spying import spy

from foster_cli.data.windows import Cases, Windows
from foster_cli.errors import NotFinite
from foster_cli.models.recommender import Recommender
from foster_cli.train import best as best_module
from foster_cli.train import fit as module
from foster_cli.train.batch import real_batch
from foster_cli.train.fit import LAST_RATE, ResumeStore, fit_real, rate_at


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_loss_falls_and_recall_rises(task: Any, small_model: Callable[..., Any], loss: str) -> None:
    model = small_model(30, 16, 8, double=False, layers=1)
    fit = fit_real(model, task.windows, task.valid, replace(QUICK, loss=loss, lr=1e-2, epochs=6), 0)
    losses = [row["loss"] for row in fit.history[1:]]
    assert losses[-1] < 0.7 * losses[0]
    assert fit.best_value > 0.6 > 0.5 > fit.history[0]["R@10"]  # mostly, the next item is the next number


@pytest.mark.parametrize(("batch", "share"), [(32, 0.2), (10**6, 1.0)])
def test_a_backbones_share_is_predicted_unless_a_step_sees_all_windows(
    task: Any, monkeypatch: pytest.MonkeyPatch, batch: int, share: float
) -> None:
    original, seen = real_batch, list[float]()

    def watched(windows: Windows, *args: Any) -> Any:
        found = original(windows, *args)
        seen.append(float(found.valid.sum()) / float(targets_of(windows).sum()))
        return found

    model = task.fresh(0)
    monkeypatch.setattr(module, "real_batch", watched)
    monkeypatch.setattr(type(model.sequence), "predicted", 0.2)
    fit_real(model, task.windows, task.valid, replace(QUICK, batch=batch, epochs=1), 0)
    assert np.mean(seen) == pytest.approx(share, abs=0.08)


def test_the_same_seed_gives_the_same_weights(task: Any) -> None:
    states = []
    for seed, model_seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        torch.manual_seed(len(states))  # the global generators have no say
        np.random.seed(len(states))
        trail: list[dict[str, torch.Tensor]] = []
        store = Watched(lambda _, m, t=trail: t.append(m.learnables()))
        trained(task, replace(QUICK, epochs=1), seed, model_seed, store)
        states.append(trail[-1])
    assert same(states[0], states[1])
    assert not same(states[0], states[2]) and not same(states[0], states[3])


def _told(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """From now on the validations, one at each check, say `values`."""
    told = iter(values)
    monkeypatch.setattr(best_module, "validate", lambda model, cases, measure: {"R@10": next(told), "N@10": 0.0})
    monkeypatch.setattr(module, "WAYS", (1.0,))


@pytest.mark.parametrize(
    ("values", "best", "checks"),
    [
        ([0.1, 0.2, 0.5, 0.5, 0.4, 0.9], 2, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.9], 0, 4),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 6, 7),
    ],
)
def test_the_best_state_is_restored_and_patience_ends_it(
    task: Any, monkeypatch: pytest.MonkeyPatch, values: list[float], best: int, checks: int
) -> None:
    _told(monkeypatch, values)
    monkeypatch.setattr(module, "SETTLED", 2.0)  # every epoch counts but the first, which has none before it
    trail: list[dict[str, torch.Tensor]] = []
    config = replace(QUICK, epochs=6, patience=2)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    fit, model = trained(task, config, store=Watched(lambda _, m: trail.append(m.learnables())))
    assert len(fit.history) == len(trail) == checks
    assert (fit.best, fit.best_value) == (best, values[best])
    assert same(model.learnables(), trail[best])
    assert not same(trail[0], trail[1])
    assert not model.training


def test_short_epochs_are_validated_every_twenty_steps(task: Any) -> None:
    seen: list[int] = []
    fit, _ = trained(task, replace(QUICK, batch=10**6, epochs=2), store=Watched(lambda at, _: seen.append(at)))
    assert [row["at"] for row in fit.history] == [0.0, 20.0, 40.0]  # one step per epoch
    assert seen == [0, 20, 40]  # as many anchors as validations: hundreds would fill memory


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_an_absurd_rate_is_said(task: Any, loss: str) -> None:
    with pytest.raises(NotFinite, match="lower learning rate"):
        trained(task, replace(QUICK, loss=loss, lr=1e30))


def test_nan_weights_are_said_before_they_are_validated(task: Any) -> None:
    def spoil(epoch: int, model: Any) -> None:
        with torch.no_grad():
            model.sequence.norm.weight[0] = math.nan

    with pytest.raises(NotFinite):
        trained(task, store=Watched(spoil))


def test_nan_in_the_last_step_is_said(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(epoch: int, model: Any) -> None:
        if epoch == 1:
            with torch.no_grad():
                model.sequence.norm.weight.fill_(math.nan)

    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    with pytest.raises(NotFinite):
        trained(task, store=Watched(spoil))


def test_the_rate_rises_and_falls_by_hand() -> None:
    assert [rate_at(step, 4, 0.0) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert rate_at(0, 0, 0.0) == 1.0
    late = [rate_at(100, 4, done) for done in (0.0, 0.5, 2 / 3, 1.0, 7.0)]
    assert late == pytest.approx([1.0, 0.525, 0.05 + 0.95 / 4, LAST_RATE, LAST_RATE]) and LAST_RATE == 0.05
    assert rate_at(1, 4, 0.5) == pytest.approx(0.5 * 0.525)


def _rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The share of the training that is done, at each step from now on."""
    seen: list[float] = []

    def rate(step: int, warmup: int, done: float) -> float:
        assert step == len(seen)
        seen.append(done)
        return rate_at(step, warmup, done)

    monkeypatch.setattr(module, "rate_at", rate)
    return seen


@pytest.mark.parametrize(("batch", "recency", "steps"), [(32, 0.5, 1), (4, None, 13), (4, 0.5, 6)])
def test_the_rate_falls_over_all_epochs(
    task: Any, monkeypatch: pytest.MonkeyPatch, batch: int, recency: float | None, steps: int
) -> None:
    """An epoch holds a part of the windows, and has as many steps as that part has batches on average."""
    seen, asked = _rates(monkeypatch), list[Any]()
    spy(monkeypatch, module, "batches", lambda given: asked.append(given["recency"]))
    trained(task, replace(QUICK, batch=batch, recency=recency))
    held = len(task.windows) if recency is None else sum(math.exp(-age / recency) for age in task.windows.age)
    per_epoch = round(held / batch)
    assert per_epoch == steps
    total = 3 * per_epoch * -(-20 // per_epoch)
    assert seen == pytest.approx([i / total for i in range(total)])
    assert asked == [recency] * (total // per_epoch)


def test_a_training_ends_after_its_seconds_and_its_rate_falls_until_then(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a tenth of a second whenever it is read, validations left out."""
    clock = iter(np.arange(0, 10_000, 0.1))
    monkeypatch.setattr(module.time, "process_time", lambda: float(next(clock)))
    seen, model = _rates(monkeypatch), task.fresh(0)
    config = replace(QUICK, epochs=10**4, patience=10**4)
    fit = fit_real(model, task.windows, task.valid, config, 0, seconds=3.0)
    assert seen == sorted(seen) and 0.9 < seen[-1] < 1.1 and 15 <= len(seen) <= 30
    assert np.diff(seen).max() < 0.1
    assert fit.history[-1]["at"] > 0 and "loss" in fit.history[-1]  # the last state is validated too
    assert fit.valid == best_module.validate(model, task.valid)
    none = fit_real(task.fresh(0), task.windows, task.valid, config, 0, seconds=0.0)
    assert len(none.history) == 1 and none.best == 0


def test_patience_counts_only_after_the_loss_has_settled(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loss that falls by a tenth at first and then stays, validations without a better one end it later."""
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    _told(monkeypatch, [0.5] * 20)
    epoch: list[int] = []
    monkeypatch.setattr(module._Training, "step", lambda self, batch, loss, done: 0.9 ** min(len(epoch), 5))
    fit, _ = trained(task, replace(QUICK, epochs=20, patience=3), store=Watched(lambda at, _: epoch.append(at)))
    losses = [row["loss"] for row in fit.history[1:]]
    settled = [i for i in range(1, len(losses)) if losses[i] > 0.99 * losses[i - 1]]
    assert len(settled) == 3 and settled[-1] == len(losses) - 1 and len(losses) > 6


class Kept(ResumeStore):
    """Holds all that was written; `tree` is what a resumed training reads."""

    def __init__(self, tree: dict[str, Any] | None = None) -> None:
        self.tree, self.written = tree, list[dict[str, Any]]()

    def due(self) -> bool:
        return True

    def write(self, tree: dict[str, Any]) -> None:
        self.written.append(copy.deepcopy(tree))

    def read(self) -> dict[str, Any] | None:
        return self.tree


def _compared(fit: Any) -> Any:
    return fit.history, fit.best, fit.best_value, fit.untrained, fit.valid, fit.value, fit.way


@pytest.mark.parametrize("sample", [20, 4096])
def test_a_resumed_training_gives_the_same_numbers_with_new_items(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """From each of its stored states: the same steps of the rate, the same floor of the offset, the same best state."""
    monkeypatch.setattr(best_module, "SAMPLE", sample)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    fresh, windows, valid = new_items(60)
    seen = _rates(monkeypatch)
    whole, model, store = None, fresh(), Kept()
    whole = fit_real(model, windows, valid, QUICK, 0, store=store)
    assert len(store.written) == 3 and all("weighted" in row and "offset" in row for row in whole.history)
    floors = {tuple(tree["state"]["floors"]) for tree in store.written}
    assert len(floors) == 1 and None not in next(iter(floors))
    for tree in store.written:
        seen[:] = [0.0] * tree["state"]["steps"]
        again, resumed = fresh(), Kept(copy.deepcopy(tree))
        found = fit_real(again, windows, valid, QUICK, 0, store=resumed)
        assert _compared(found) == _compared(whole)
        assert same(again.learnables(), model.learnables())
        assert all(tuple(later["state"]["floors"]) in floors for later in resumed.written)


@pytest.mark.parametrize("sample", [20, 4096])
def test_a_resumed_training_chooses_the_same_ways(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """With a validation that depends on every bit of the state, so that any way from any origin may be the best."""

    def validate(model: Recommender, cases: Cases, measure: Any) -> dict[str, float]:
        digest = hashlib.sha256(str(len(cases)).encode())
        for x in model.learnables().values():
            digest.update(x.numpy().tobytes())
        return {"R@10": int.from_bytes(digest.digest()[:4], "big") / 2**32, "N@10": 0.0}

    monkeypatch.setattr(best_module, "SAMPLE", sample)
    monkeypatch.setattr(best_module, "validate", validate)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    windows, valid = next_number_windows(120, 30, 7), next_number_cases(60, 30, 6)
    config = replace(QUICK, epochs=25, patience=25)
    model, store = small("both"), Kept()
    whole = fit_real(model, windows, valid, config, 0, store=store)
    assert {(row["way"], row["origin"]) for row in whole.history} == set(PATHS)
    assert len(store.written) == 25
    for tree in store.written[::4]:
        again = small("both")
        found = fit_real(again, windows, valid, config, 0, store=Kept(copy.deepcopy(tree)))
        assert _compared(found) == _compared(whole)
        assert same(again.learnables(), model.learnables())
