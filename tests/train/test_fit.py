"""Training on real windows: it learns, repeats with its seed, keeps its best state, stops in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.data.windows import Windows
from foster_cli.errors import NotFinite
from foster_cli.settings import TrainConfig
from foster_cli.train import fit as module
from foster_cli.train.fit import (
    NOWHERE,
    ResumeStore,
    batches,
    fit_real,
    real_batch,
    real_loss,
    real_outputs,
    some_positions,
)  # fmt: skip

QUICK = TrainConfig(batch=32, epochs=3, negatives=20, patience=10, warmup=3, average=5)


class Watched(ResumeStore):
    """Stores nothing; `told` hears of every state that is validated."""

    def __init__(self, told: Callable[[int, Any], object]) -> None:
        self.told = told

    def saw(self, epoch: int, model: Any) -> None:
        self.told(epoch, model)


def _fit(
    task: Any, config: TrainConfig = QUICK, seed: int = 0, model_seed: int = 0, store: ResumeStore = NOWHERE
) -> tuple[Any, Any]:
    model = task.fresh(model_seed)
    return fit_real(model, task.windows, task.valid, config, seed, store=store), model


def _is(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_loss_falls_and_recall_rises(task: Any, small_model: Callable[..., Any], loss: str) -> None:
    model = small_model(30, 16, 8, double=False, layers=1)
    fit = fit_real(model, task.windows, task.valid, replace(QUICK, loss=loss, lr=1e-2, epochs=6), 0)
    losses = [row["loss"] for row in fit.history[1:]]
    assert losses[-1] < 0.7 * losses[0]
    assert fit.best_value > 0.6 > 0.5 > fit.history[0]["R@10"]  # mostly, the next item is the next number


def test_an_epoch_sees_every_window_once_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(2, 12, 103)
    windows = Windows(np.where(np.arange(11) < lengths[:, None], 1, -1), lengths)
    first, second = (batches(windows, 10, np.random.default_rng(s)) for s in (0, 1))
    assert sorted(np.concatenate(first).tolist()) == list(range(103))
    assert len(first) == 10 and {len(b) for b in first} == {10, 11}
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert [b.tolist() for b in first] == [b.tolist() for b in batches(windows, 10, np.random.default_rng(0))]
    spans = sorted((int(lengths[b].min()), int(lengths[b].max())) for b in first)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_batch_holds_the_windows_and_uniform_negatives(task: Any, loss: str) -> None:
    windows = task.windows.take(np.arange(9))
    batch = real_batch(windows, 30, loss, 12, np.random.default_rng(0), torch.device("cpu"))
    items = windows.items[:, : windows.lengths.max()]
    assert batch.valid.tolist() == (items[:, 1:] >= 0).tolist()
    valid = items[:, 1:] >= 0
    assert batch.unique[batch.inputs].numpy()[valid].tolist() == items[:, :-1][valid].tolist()
    assert batch.unique[batch.targets].numpy()[valid].tolist() == items[:, 1:][valid].tolist()
    negatives = batch.unique[batch.negatives]
    if loss == "bce":
        assert len(negatives) == valid.sum()
    else:
        assert len(negatives) == 12 == len(negatives.unique())
    assert len(batch.unique) == len(batch.unique.unique())
    assert real_batch(windows, 30, "softmax", 512, np.random.default_rng(0), torch.device("cpu")).negatives.shape == (
        30,
    )


def test_some_positions_are_a_share_of_each_window_drawn_evenly() -> None:
    lengths = np.array([1, 2, 3, 8, 13, 20])
    valid = np.arange(20) < lengths[:, None]
    rng, drawn = np.random.default_rng(0), np.zeros(valid.shape)
    for _ in range(2000):
        chosen = some_positions(valid, 0.2, rng)
        assert not (chosen & ~valid).any()
        assert chosen.sum(1).tolist() == [1, 1, 1, 2, 3, 4]
        drawn += chosen
    for row, count, size in zip(drawn, [1, 1, 1, 2, 3, 4], lengths, strict=True):
        assert np.abs(row[:size] / 2000 - count / size).max() < 0.05


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_batch_that_predicts_some_positions_reads_all_items(task: Any, loss: str) -> None:
    windows = task.windows.take(np.arange(9))
    some = real_batch(windows, 30, loss, 12, np.random.default_rng(0), torch.device("cpu"), 0.2)
    items = windows.items[:, : windows.lengths.max()]
    inside = items[:, :-1] >= 0
    assert some.unique[some.inputs].numpy()[inside].tolist() == items[:, :-1][inside].tolist()
    predicted = int(some.valid.sum())
    assert 9 <= predicted < 0.4 * (items[:, 1:] >= 0).sum()
    assert len(some.negatives) == (predicted if loss == "bce" else 12)


@pytest.mark.parametrize(("batch", "share"), [(32, 0.2), (10**6, 1.0)])
def test_a_backbones_share_is_predicted_unless_a_step_sees_all_windows(
    task: Any, monkeypatch: pytest.MonkeyPatch, batch: int, share: float
) -> None:
    original, seen = real_batch, list[float]()

    def watched(windows: Windows, *args: Any) -> Any:
        found = original(windows, *args)
        seen.append(float(found.valid.sum()) / float((windows.items[:, 1:] >= 0).sum()))
        return found

    model = task.fresh(0)
    monkeypatch.setattr(module, "real_batch", watched)
    monkeypatch.setattr(type(model.sequence), "predicted", 0.2)
    fit_real(model, task.windows, task.valid, replace(QUICK, batch=batch, epochs=1), 0)
    assert np.mean(seen) == pytest.approx(share, abs=0.08)


def test_the_full_softmax_loss_by_hand(task: Any) -> None:
    windows, model = task.windows.take(np.arange(5)), task.fresh(0)
    batch = real_batch(windows, 30, "softmax", 30, np.random.default_rng(0), torch.device("cpu"))
    found = real_loss(*real_outputs(model, batch), batch, "softmax").item()
    E, terms = model.embed_all().double().numpy(), []
    for row, size in zip(windows.items, windows.lengths, strict=True):
        with torch.no_grad():
            H = model(model.embed(torch.from_numpy(row[: size - 1]))[None])[0].double().numpy()
        for t in range(size - 1):
            scores = E @ H[t]
            terms.append(math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row[t + 1]])
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_same_seed_gives_the_same_weights(task: Any) -> None:
    states = []
    for seed, model_seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        torch.manual_seed(len(states))  # the global generators have no say
        np.random.seed(len(states))
        trail: list[dict[str, torch.Tensor]] = []
        store = Watched(lambda _, m, t=trail: t.append(m.learnables()))
        _fit(task, replace(QUICK, epochs=1), seed, model_seed, store)
        states.append(trail[-1])
    assert _is(states[0], states[1])
    assert not _is(states[0], states[2]) and not _is(states[0], states[3])


def _told(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    told = iter(values)
    monkeypatch.setattr(module, "validate", lambda model, cases: {"R@10": next(told), "N@10": 0.0})


@pytest.mark.parametrize(
    ("values", "best", "checks"),
    [([0.1, 0.2, 0.5, 0.5, 0.4, 0.9], 2, 5), ([0.5, 0.4, 0.3, 0.9], 0, 3), ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 6, 7)],
)
def test_the_best_state_is_restored_and_patience_ends_it(
    task: Any, monkeypatch: pytest.MonkeyPatch, values: list[float], best: int, checks: int
) -> None:
    _told(monkeypatch, values)
    trail: list[dict[str, torch.Tensor]] = []
    config = replace(QUICK, epochs=6, patience=2)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    fit, model = _fit(task, config, store=Watched(lambda _, m: trail.append(m.learnables())))
    assert len(fit.history) == len(trail) == checks
    assert (fit.best, fit.best_value) == (best, values[best])
    assert _is(model.learnables(), trail[best])
    assert not _is(trail[0], trail[1])
    assert not model.training


def test_the_validation_is_that_of_the_kept_state(task: Any) -> None:
    fit, model = _fit(task)
    assert module.validate(model, task.valid)["R@10"] == fit.best_value == max(r["R@10"] for r in fit.history)


def test_short_epochs_are_validated_every_twenty_steps(task: Any) -> None:
    seen: list[int] = []
    fit, _ = _fit(task, replace(QUICK, batch=10**6, epochs=2), store=Watched(lambda at, _: seen.append(at)))
    assert [row["at"] for row in fit.history] == [0.0, 20.0, 40.0]  # one step per epoch
    assert seen == [0, 20, 40]  # as many anchors as validations: hundreds would fill memory


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_an_absurd_rate_is_said(task: Any, loss: str) -> None:
    with pytest.raises(NotFinite, match="lower learning rate"):
        _fit(task, replace(QUICK, loss=loss, lr=1e30))


def test_nan_weights_are_said_before_they_are_validated(task: Any) -> None:
    def spoil(epoch: int, model: Any) -> None:
        with torch.no_grad():
            model.sequence.position[0, 0] = math.nan

    with pytest.raises(NotFinite):
        _fit(task, store=Watched(spoil))


def test_nan_in_the_last_step_is_said(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(epoch: int, model: Any) -> None:
        if epoch == 1:
            with torch.no_grad():
                model.sequence.position.fill_(math.nan)

    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    with pytest.raises(NotFinite):
        _fit(task, store=Watched(spoil))
