"""Training on real windows: it learns, repeats with its seed, keeps its best state, stops in time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sequences import next_number_cases, next_number_windows
from weights import enlarged

from foster_cli.data.windows import Cases, Windows
from foster_cli.errors import NotFinite
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import score_model
from foster_cli.ranking.offset import OFFSETS
from foster_cli.settings import ModelConfig, TrainConfig
from foster_cli.train import fit as module
from foster_cli.train.fit import (
    LAST_RATE,
    NOWHERE,
    Pool,
    ResumeStore,
    batches,
    candidate_count,
    candidates,
    fit_real,
    rate_at,
    real_batch,
    real_loss,
    real_outputs,
    some_positions,
    trained_items,
)  # fmt: skip

CPU = torch.device("cpu")
#: Thirty items, all in training, of unlike shares.
ALL = Pool(np.arange(30), np.arange(1, 31) / np.arange(1, 31).sum())
QUICK = TrainConfig(batch=32, epochs=3, negatives=20, patience=10, warmup=3, average=5)


class Watched(ResumeStore):
    """Stores nothing; `told` hears of every state that is validated."""

    def __init__(self, told: Callable[[int, Any], object]) -> None:
        self.told = told

    def saw(self, epoch: int, model: Any) -> None:
        self.told(epoch, model)


def _targets(windows: Windows) -> np.ndarray:
    """(B, l): the positions whose next item is a target of this window, not of the one before it."""
    items = windows.items[:, : windows.lengths.max()]
    first = np.zeros(len(windows)) if windows.first is None else windows.first
    return (items[:, 1:] >= 0) & (np.arange(items.shape[1] - 1) >= first[:, None])


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
def test_a_batch_holds_the_windows_and_negatives(task: Any, loss: str) -> None:
    windows = task.windows.take(np.arange(9))
    batch = real_batch(windows, ALL, loss, 12, np.random.default_rng(0), torch.device("cpu"))
    items = windows.items[:, : windows.lengths.max()]
    valid = _targets(windows)
    assert batch.valid.tolist() == valid.tolist() and batch.counts.tolist() == valid.sum(1).tolist()
    assert batch.places.tolist() == np.flatnonzero(valid).tolist()
    assert batch.unique[batch.inputs].numpy()[valid].tolist() == items[:, :-1][valid].tolist()
    assert batch.unique[batch.targets].numpy()[valid].tolist() == items[:, 1:][valid].tolist()
    negatives = batch.unique[batch.negatives]
    assert len(batch.unique) == len(batch.unique.unique())
    if loss == "bce":
        assert len(negatives) == valid.sum() and batch.goals is None and batch.inclusion is None
        return
    targets = items[:, 1:][valid]
    assert len(negatives) == len(negatives.unique()) and set(targets) <= set(negatives.tolist())
    assert 12 <= len(negatives) <= 12 + len(set(targets)) and len(set(negatives.tolist()) - set(targets)) <= 12
    assert negatives[batch.goals].numpy()[valid].tolist() == targets.tolist()
    # an item is left out by the draw of 12 of 30, and by every one of the targets
    missed = (1 - 12 / 30) * (1 - ALL.share[negatives.numpy()]) ** len(targets)
    np.testing.assert_allclose(batch.inclusion, 1 - missed, rtol=1e-6)
    whole = real_batch(windows, ALL, "softmax", 30, np.random.default_rng(0), torch.device("cpu"))
    assert whole.unique[whole.negatives].tolist() == list(range(30)) and whole.inclusion is None


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
    some = real_batch(windows, ALL, loss, 12, np.random.default_rng(0), torch.device("cpu"), 0.2)
    items = windows.items[:, : windows.lengths.max()]
    inside = items[:, :-1] >= 0
    assert some.unique[some.inputs].numpy()[inside].tolist() == items[:, :-1][inside].tolist()
    predicted = int(some.valid.sum())
    assert 9 <= predicted < 0.4 * (items[:, 1:] >= 0).sum()
    targets = items[:, 1:][some.valid.numpy()]
    assert len(targets) == predicted
    if loss == "bce":
        assert len(some.negatives) == predicted
    else:  # targets of positions that are not predicted are candidates by chance alone
        assert 12 <= len(some.negatives) <= 12 + len(set(targets))
        assert some.unique[some.negatives][some.goals[some.valid]].tolist() == targets.tolist()


@pytest.mark.parametrize(("batch", "share"), [(32, 0.2), (10**6, 1.0)])
def test_a_backbones_share_is_predicted_unless_a_step_sees_all_windows(
    task: Any, monkeypatch: pytest.MonkeyPatch, batch: int, share: float
) -> None:
    original, seen = real_batch, list[float]()

    def watched(windows: Windows, *args: Any) -> Any:
        found = original(windows, *args)
        seen.append(float(found.valid.sum()) / float(_targets(windows).sum()))
        return found

    model = task.fresh(0)
    monkeypatch.setattr(module, "real_batch", watched)
    monkeypatch.setattr(type(model.sequence), "predicted", 0.2)
    fit_real(model, task.windows, task.valid, replace(QUICK, batch=batch, epochs=1), 0)
    assert np.mean(seen) == pytest.approx(share, abs=0.08)


def test_the_full_softmax_loss_by_hand(task: Any) -> None:
    """All items of the tiny task occur in training."""
    windows, model = task.windows.take(np.arange(9)), enlarged(task.fresh(0))
    batch = real_batch(windows, Pool.of(model, windows), "softmax", 30, np.random.default_rng(0), torch.device("cpu"))
    found = real_loss(*real_outputs(model, batch), batch, "softmax").item()
    E, terms = model.embed_all().double().numpy(), []
    for row, size, is_target in zip(windows.items, windows.lengths, _targets(windows), strict=True):
        with torch.no_grad():
            H = model(model.embed(torch.from_numpy(row[: size - 1]))[None])[0].double().numpy()
        for t in np.flatnonzero(is_target[: size - 1]):
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
            model.sequence.norm.weight[0] = math.nan

    with pytest.raises(NotFinite):
        _fit(task, store=Watched(spoil))


def test_nan_in_the_last_step_is_said(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(epoch: int, model: Any) -> None:
        if epoch == 1:
            with torch.no_grad():
                model.sequence.norm.weight.fill_(math.nan)

    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    with pytest.raises(NotFinite):
        _fit(task, store=Watched(spoil))


@pytest.mark.parametrize(("k", "count", "targets"), [(12, 4, 3), (12, 1, 1), (6, 5, 8)])
def test_how_likely_a_candidate_is(k: int, count: int, targets: int) -> None:
    """Against many draws of the sample and of targets by their shares, for every item of a pool that is not all."""
    rng = np.random.default_rng(k + targets)
    items = np.sort(rng.choice(20, k, replace=False))
    share = np.zeros(20)
    share[items] = rng.dirichlet(np.ones(k))
    pool, drawn, said = Pool(items, share), np.zeros(20), np.full(20, np.nan)
    for _ in range(6000):
        goals = rng.choice(items, targets, p=share[items])
        found, inclusion = candidates(pool, goals, count, rng)
        assert inclusion is not None and set(goals) <= set(found) <= set(items) and (np.diff(found) > 0).all()
        drawn[found] += 1
        said[found] = inclusion
    assert np.abs(drawn[items] / 6000 - said[items]).max() < 0.03  # 4.6 standard deviations
    assert drawn.sum() == drawn[items].sum()
    assert candidates(pool, goals, k, rng)[1] is None


def test_items_that_do_not_occur_in_training_are_never_negatives(small_model: Callable[..., Any]) -> None:
    known = torch.arange(30) % 4 != 2
    model = small_model(30, 8, 6, known=known)
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 8, 50)
    drawn = rng.choice(np.flatnonzero(known), (50, 7))
    windows = Windows(np.where(np.arange(7) < lengths[:, None], drawn, -1), lengths)
    pool = Pool.of(model, windows)
    assert pool.items.tolist() == trained_items(model).tolist() == np.flatnonzero(known).tolist()
    held = windows.items[:, 1:][windows.items[:, 1:] >= 0].tolist()  # every item but the first is a target
    assert pool.share == pytest.approx([held.count(i) / len(held) for i in range(30)])
    for loss, count in (("bce", 1), ("softmax", 10), ("softmax", 10**6)):
        seen = set[int]()
        for seed in range(20):
            batch = real_batch(windows, pool, loss, count, np.random.default_rng(seed), torch.device("cpu"))
            seen |= set(batch.unique[batch.negatives].tolist())
        assert seen == set(pool.items.tolist())
    everything = Pool.of(small_model(30, 8, 6), windows)
    assert everything.items.tolist() == list(range(30))


def test_the_loss_of_a_sample_is_on_average_near_that_of_all_items(small_model: Callable[..., Any]) -> None:
    """Batches of few windows and 40 of 200 candidates; without the correction the loss would lack log(200 / 50)."""
    model, windows = small_model(200, 8, 6, items="both", bias=True), next_number_windows(600, 200, 7)
    pool, losses = Pool.of(model, windows), np.zeros((3, 80))
    with torch.no_grad():  # scores that differ by about 1, so that no single item decides the sum
        for p in (*model.head.parameters(), model.table.weight):
            p.mul_(0.15)
    for seed in range(80):
        some = windows.take(np.random.default_rng(seed).choice(600, 3, replace=False))
        for i, count in enumerate((200, 40)):
            batch = real_batch(some, pool, "softmax", count, np.random.default_rng(seed), CPU)
            losses[i, seed] = real_loss(*real_outputs(model, batch), batch, "softmax").item()
        plain = replace(batch, inclusion=None)
        losses[2, seed] = real_loss(*real_outputs(model, plain), plain, "softmax").item()
    full, sampled, uncorrected = losses.mean(1)
    assert sampled == pytest.approx(full, abs=0.1) and full - uncorrected > 0.7


def test_how_many_candidates_without_a_number(small_model: Callable[..., Any]) -> None:
    model = small_model()
    assert candidate_count(model, TrainConfig()) == 4096 and candidate_count(model, TrainConfig(negatives=7)) == 7
    model.text.top = torch.nn.Linear(1, 1)  # items are dear where layers of the encoder learn
    assert candidate_count(model, TrainConfig()) == 512 and candidate_count(model, TrainConfig(negatives=7)) == 7


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


def test_the_rate_falls_over_all_epochs(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _rates(monkeypatch)
    _fit(task)
    per_epoch = round(len(task.windows) / 32)
    total = 3 * per_epoch * -(-20 // per_epoch)
    assert seen == pytest.approx([i / total for i in range(total)])


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
    assert fit.valid == module.validate(model, task.valid)
    none = fit_real(task.fresh(0), task.windows, task.valid, config, 0, seconds=0.0)
    assert len(none.history) == 1 and none.best == 0


def test_patience_counts_only_after_the_loss_has_settled(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loss that falls by a tenth at first and then stays, validations without a better one end it later."""
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    _told(monkeypatch, [0.5] * 20)
    epoch: list[int] = []
    monkeypatch.setattr(module._Training, "step", lambda self, batch, loss, done: 0.9 ** min(len(epoch), 5))
    fit, _ = _fit(task, replace(QUICK, epochs=20, patience=3), store=Watched(lambda at, _: epoch.append(at)))
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


def _new_items(cases: int) -> tuple[Callable[[], Recommender], Windows, Cases]:
    """Forty items of which the last ten are new, in a third of the cases too."""
    known = torch.arange(40) < 30

    def fresh() -> Recommender:
        texts = torch.randn(40, 12, generator=torch.Generator().manual_seed(4))
        encoder = TextEncoder(TextCache(texts, None, None, 40, 12), None, "mean", False)
        return Recommender(encoder, ModelConfig(width=8, layers=1), 6, 0, known=known).eval()

    some = next_number_cases(cases, 30, 6)
    rng = np.random.default_rng(1)
    target = np.where(np.arange(cases) % 3 == 0, rng.integers(30, 40, cases), some.target)
    return fresh, next_number_windows(120, 30, 7), replace(some, target=target, new_share=0.5)


def _compared(fit: Any) -> Any:
    return fit.history, fit.best, fit.best_value, fit.untrained, fit.valid, fit.value


@pytest.mark.parametrize("sample", [20, 4096])
def test_a_resumed_training_gives_the_same_numbers_with_new_items(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """From each of its stored states: the same steps of the rate, the same floor of the offset, the same best state."""
    monkeypatch.setattr(module, "SAMPLE", sample)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    fresh, windows, valid = _new_items(60)
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
        assert _is(again.learnables(), model.learnables())
        assert all(tuple(later["state"]["floors"]) in floors for later in resumed.written)


def test_the_kept_state_ranks_new_items_no_worse_than_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    fresh, windows, valid = _new_items(60)
    model, new = fresh(), valid.target >= 30
    before = (score_model(model, valid)[new] <= 10).mean()
    fit = fit_real(model, windows, valid, QUICK, 0)
    hit = score_model(model, valid) <= 10
    assert hit[new].mean() >= before
    best = next(row for row in fit.history if row["at"] == fit.best)
    assert fit.best_value == best["weighted"] == max(row["weighted"] for row in fit.history)
    assert best["weighted"] == pytest.approx(0.5 * hit[new].mean() + 0.5 * hit[~new].mean())
    assert model.offset is not None and model.offset.item() == best["offset"]
    assert (
        model.table is not None and not model.embed_all()[30:, :-1].sub(model.head(model.text.all(CPU))[30:, :-1]).any()
    )


def _recalls(model: Recommender, valid: Cases, o: float) -> tuple[float, float]:
    """Recall at ten of new targets and of the others at the offset o, by ranking all items."""
    with torch.no_grad():
        assert model.offset is not None
        model.offset.fill_(o)
    hit, new = score_model(model, valid) <= 10, valid.target >= 30
    return float(hit[new].mean()), float(hit[~new].mean())


def test_the_last_offset_is_chosen_on_all_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sample would choose another; new targets are ranked no worse than with the offset that all cases
    choose for the untrained recommender."""
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    differs = False
    for count in (12, 20, 200):
        monkeypatch.setattr(module, "SAMPLE", count)
        fresh, windows, valid = _new_items(200)
        valid = replace(valid, new_share=0.3)
        model, plain = fresh(), fresh()
        fit = fit_real(model, windows, valid, QUICK, 0)
        assert model.offset is not None
        chosen = model.offset.item()
        before, after = ({o: _recalls(m, valid, o) for o in OFFSETS} for m in (plain, model))
        own = max(before, key=lambda o: 0.3 * before[o][0] + 0.7 * before[o][1])
        module.Best(plain, valid, module.Fit()).begin()
        assert plain.offset is not None and plain.offset.item() == pytest.approx(own)
        floor = before[own][0]
        allowed = {o: 0.3 * cold + 0.7 * warm for o, (cold, warm) in after.items() if cold >= floor}
        best = max(allowed, key=lambda o: allowed[o])
        assert chosen == pytest.approx(best) and fit.value == pytest.approx(allowed[best])
        differs |= next(row for row in fit.history if row["at"] == fit.best)["offset"] != best
    assert differs


def test_all_cases_choose_among_the_best_states_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the offset that all cases choose for it, against full rankings; the sample's best is not always it."""
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    config, others = replace(QUICK, epochs=6), 0
    for count in (10, 15, 20):
        monkeypatch.setattr(module, "SAMPLE", count)
        fresh, windows, valid = _new_items(200)
        trail: dict[int, dict[str, torch.Tensor]] = {}
        model, plain = fresh(), fresh()
        watched = Watched(lambda at, m, trail=trail: trail.update({at: m.learnables()}))
        fit = fit_real(model, windows, valid, config, 0, store=watched)
        floor = max((_recalls(plain, valid, o) for o in OFFSETS), key=lambda found: found[0] + found[1])[0]
        value = {}
        by_sample = sorted(fit.history, key=lambda row: -row["weighted"])[: module.FINALISTS]
        for row in by_sample:
            plain.restore(trail[int(row["at"])])
            recalls = [_recalls(plain, valid, o) for o in OFFSETS]
            value[int(row["at"])] = max(0.5 * cold + 0.5 * warm for cold, warm in recalls if cold >= floor)
        best = max(value, key=lambda at: value[at])
        assert (fit.best, fit.value) == (best, pytest.approx(value[best]))
        own = model.learnables()
        assert all(torch.equal(own[k], v) for k, v in trail[best].items() if k != "offset")
        assert fit.best_value == next(row["weighted"] for row in by_sample if row["at"] == best)
        others += best != by_sample[0]["at"]
    assert others


@pytest.mark.parametrize("items", ["both", "text"])
def test_more_cases_than_the_sample_are_ranked_at_the_start_and_the_end(
    monkeypatch: pytest.MonkeyPatch, task: Any, items: str
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 20)
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    original, asked = module.validate, list[Cases]()

    def validate(model: Any, cases: Cases) -> dict[str, float]:
        asked.append(cases)
        return original(model, cases)

    monkeypatch.setattr(module, "validate", validate)
    valid = next_number_cases(90, 30, 6)
    windows, model = next_number_windows(120, 30, 7), _small(items)
    untrained = original(model, valid)
    fit = fit_real(model, windows, valid, QUICK, 0)
    assert [len(cases) for cases in asked] == [90, *[20] * 4, *[90] * module.FINALISTS]
    few = [cases for cases in asked if len(cases) == 20]
    assert all(np.array_equal(cases.row, few[0].row) for cases in few) and len(set(few[0].row)) == 20
    assert fit.untrained == untrained and fit.valid == original(model, valid)
    for row in fit.history:
        assert row["R@10"] * 20 == pytest.approx(round(row["R@10"] * 20))
    asked.clear()
    monkeypatch.setattr(module, "SAMPLE", 90)
    whole = fit_real(_small(items), windows, valid, QUICK, 0)
    assert [len(cases) for cases in asked] == [90] * 4  # all of them each time: not ranked again
    best = next(row for row in whole.history if row["at"] == whole.best)
    assert whole.valid == {name: best[name] for name in ("R@10", "N@10")}
    assert whole.untrained == untrained


def _small(items: str) -> Recommender:
    """Thirty items, all in training."""
    texts = torch.randn(30, 12, generator=torch.Generator().manual_seed(4))
    encoder = TextEncoder(TextCache(texts, None, None, 30, 12), None, "mean", False)
    return Recommender(encoder, ModelConfig(width=8, layers=1, items=items), 6, 0).eval()
