"""Batches of real windows: which are in an epoch, what a step predicts, among which items, and the loss by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from quick import targets_of
from sequences import next_number_windows
from weights import enlarged

from foster_cli.data.windows import Windows
from foster_cli.settings import TrainConfig
from foster_cli.train.batch import (
    Pool,
    batches,
    candidate_count,
    candidates,
    kept,
    real_batch,
    real_loss,
    real_outputs,
    some_positions,
    trained_items,
)

CPU = torch.device("cpu")
#: Thirty items, all in training, of unlike shares.
ALL = Pool(np.arange(30), np.arange(1, 31) / np.arange(1, 31).sum())


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


def _aged(count: int) -> Windows:
    """Windows of 2 to 11 items, the i-th of age i / count."""
    lengths = np.random.default_rng(0).integers(2, 12, count)
    items = np.where(np.arange(11) < lengths[:, None], 1, -1)
    return Windows(items, lengths, None, np.arange(count) / count)


@pytest.mark.parametrize("recency", [0.1, 0.5, 3.0])
def test_a_window_is_in_an_epoch_the_less_often_the_older_it_is(recency: float) -> None:
    """Every epoch is another sample, of as many batches; the most recent window is in each."""
    windows, rng, epochs, count = _aged(200), np.random.default_rng(0), 4000, np.zeros(200)
    sizes, samples = set[int](), set[tuple[int, ...]]()
    for _ in range(epochs):
        found = batches(windows, 5, rng, recency)
        sizes.add(len(found))
        assert all(len(batch) for batch in found)
        epoch = np.sort(np.concatenate(found))
        assert epoch[0] == 0 and (np.diff(epoch) > 0).all()
        samples.add(tuple(epoch))
        count[epoch] += 1
    expected = np.array([math.exp(-i / 200 / recency) for i in range(200)])
    assert sizes == {round(sum(expected) / 5)} and len(samples) > 0.9 * epochs
    np.testing.assert_allclose(kept(windows, recency), expected, rtol=1e-12)
    error = np.sqrt(expected * (1.0 - expected) / epochs)
    assert (np.abs(count / epochs - expected) <= 4.5 * error).all()


def test_an_epoch_of_recent_windows_is_in_batches_of_like_length_too() -> None:
    windows = _aged(103)
    first, second = (batches(windows, 5, np.random.default_rng(s), 0.5) for s in (0, 1))
    assert [b.tolist() for b in first] == [b.tolist() for b in batches(windows, 5, np.random.default_rng(0), 0.5)]
    assert sorted(np.concatenate(first).tolist()) != sorted(np.concatenate(second).tolist())
    assert max(len(b) for b in first) - min(len(b) for b in first) <= 1
    spans = sorted((int(windows.lengths[b].min()), int(windows.lengths[b].max())) for b in first)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert spans != [(int(windows.lengths[b].min()), int(windows.lengths[b].max())) for b in first]  # in random order


@pytest.mark.parametrize(("recency", "aged"), [(None, True), (0.1, False), (None, False)])
def test_without_a_recency_or_an_age_every_window_is_in_every_epoch(recency: float | None, aged: bool) -> None:
    windows = _aged(103) if aged else _aged(103).alone()
    for seed in range(20):
        found = batches(windows, 10, np.random.default_rng(seed), recency)
        assert sorted(np.concatenate(found).tolist()) == list(range(103)) and len(found) == 10
    assert kept(windows, recency).tolist() == [1.0] * 103


@pytest.mark.parametrize("size", [1, 2])
def test_no_batch_is_empty_even_of_a_window_or_two(size: int) -> None:
    """An epoch may then hold fewer windows than it has steps on average."""
    windows, rng = _aged(12), np.random.default_rng(0)
    most = round(sum(math.exp(-i / 12 / 0.3) for i in range(12)) / size)
    for _ in range(500):
        found = batches(windows, size, rng, 0.3)
        assert all(len(batch) for batch in found) and 1 <= len(found) <= most
        assert 0 in np.concatenate(found)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_batch_holds_the_windows_and_negatives(task: Any, loss: str) -> None:
    windows = task.windows.take(np.arange(9))
    batch = real_batch(windows, ALL, loss, 12, np.random.default_rng(0), CPU)
    items = windows.items[:, : windows.lengths.max()]
    valid = targets_of(windows)
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
    whole = real_batch(windows, ALL, "softmax", 30, np.random.default_rng(0), CPU)
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
    some = real_batch(windows, ALL, loss, 12, np.random.default_rng(0), CPU, 0.2)
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


def test_the_full_softmax_loss_by_hand(task: Any) -> None:
    """All items of the tiny task occur in training."""
    windows, model = task.windows.take(np.arange(9)), enlarged(task.fresh(0))
    batch = real_batch(windows, Pool.of(model, windows), "softmax", 30, np.random.default_rng(0), CPU)
    found = real_loss(*real_outputs(model, batch), batch, "softmax").item()
    E, terms = model.embed_all().double().numpy(), []
    for row, size, is_target in zip(windows.items, windows.lengths, targets_of(windows), strict=True):
        with torch.no_grad():
            H = model(model.embed(torch.from_numpy(row[: size - 1]))[None])[0].double().numpy()
        for t in np.flatnonzero(is_target[: size - 1]):
            scores = E @ H[t]
            terms.append(math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row[t + 1]])
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


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
            batch = real_batch(windows, pool, loss, count, np.random.default_rng(seed), CPU)
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
