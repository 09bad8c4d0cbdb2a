"""Teachers behind one interface: outputs and scores against the members' own, and what validation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from weights import enlarged

from foster_cli.data.windows import Cases
from foster_cli.neighbours import ease, item_knn, tfidf
from foster_cli.neighbours.base import Factors, Neighbours
from foster_cli.neighbours.item_knn import ItemKnn
from foster_cli.settings import TrainConfig
from foster_cli.train import mixture
from foster_cli.train.anchors import full_teacher
from foster_cli.train.mixture import (
    SCALES,
    WEIGHTS,
    View,
    choose,
    counting_view,
    member,
    mixed,
    mixture_of,
    recommender_view,
)
from foster_cli.train.task import Task

CPU = torch.device("cpu")
N = 30
TRAIN = TrainConfig(batch=32, epochs=6, negatives=30, patience=6, lr=2e-2)  # it learns the order of the tiny dataset


def _histories(seed: int, count: int = 5, length: int = 8) -> Tensor:
    """(count, length) items, some twice in a history."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, N, (count, length)))


def _dense(model: Neighbours) -> np.ndarray:
    if isinstance(model.weights, Factors):
        return np.asarray((model.weights.A @ model.weights.B.T).todense(), dtype=np.float64)
    return (model.weights.toarray() if sp.issparse(model.weights) else model.weights).astype(np.float64)


def _counted(W: np.ndarray, history: Sequence[int], decay: float, last: int) -> np.ndarray:
    out = np.zeros(len(W))
    for age, item in enumerate(reversed(history)):
        if age < last:
            out += decay**age * W[item]
    return out


def _models(task: Task) -> dict[str, Neighbours]:
    return {
        "item_knn": replace(item_knn.fit(task.data, ItemKnn(decay=0.7)), last=3),
        "ease": ease.fit(task.data),
        "tfidf": tfidf.fit(task.data),
    }


@pytest.mark.parametrize("name", ["item_knn", "ease", "tfidf"])
def test_a_counting_view_of_full_rank_has_the_models_scores(task: Task, name: str) -> None:
    """After every position, of any history, and at the cases that the model ranks itself."""
    model = _models(task)[name]
    view, items, W = counting_view(name, model, CPU, 0), _histories(1), _dense(model)
    assert view.inputs.shape[0] == view.V.shape[0] == N and view.error < 1e-6
    scores = (view.hard(items) @ view.V.T).numpy()
    for history, found in zip(items.tolist(), scores, strict=True):
        for t in range(len(history)):
            expected = _counted(W, history[: t + 1], model.decay, model.last)
            np.testing.assert_allclose(found[t], expected, atol=2e-5 * max(1.0, np.abs(W).max()))
    cases = task.cases("test")
    own = model.scores(cases, np.arange(len(cases)))
    np.testing.assert_allclose((view.last(cases) @ view.V.T).numpy(), own, atol=2e-5 * max(1.0, np.abs(own).max()))


@pytest.mark.parametrize("name", ["item_knn", "ease", "tfidf"])
def test_a_soft_history_counts_in_parts(task: Task, name: str) -> None:
    model = _models(task)[name]
    view = counting_view(name, model, CPU, 0)
    P = torch.rand(4, 6, N, generator=torch.Generator().manual_seed(0)).pow(8)
    P /= P.sum(-1, keepdim=True)
    found = (view.soft(P)[:, -1] @ view.V.T).numpy()
    np.testing.assert_allclose(found, model.soft_scores(P), atol=2e-5 * max(1.0, np.abs(found).max()))


def test_what_a_narrow_factorisation_leaves_out(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "RANK", 7)
    model = _models(task)["item_knn"]
    view, W = counting_view("item_knn", model, CPU, 0), _dense(model)
    assert view.V.shape == (N, 7)
    singular = np.linalg.svd(W, compute_uv=False)
    missed = np.square(W - (view.inputs @ view.V.T).numpy()).sum() / np.square(W).sum()
    assert view.error == pytest.approx(missed, rel=1e-3)
    assert missed == pytest.approx(np.square(singular[7:]).sum() / np.square(singular).sum(), rel=0.02)
    other = recommender_view("own", task.fresh(0))
    assert mixed([other, view], [1.0, 1.0]).error == view.error > 0


def _views(task: Task) -> list[View]:
    counted = [counting_view(name, model, CPU, 0) for name, model in _models(task).items()]
    return [recommender_view("own", enlarged(task.fresh(0))), *counted]


def test_hard_and_one_hot_histories_agree(task: Task) -> None:
    items = _histories(2)
    P = torch.nn.functional.one_hot(items, N).float()
    with torch.no_grad():
        for view in [*_views(task), mixed(_views(task), [0.5, 2.0, -1.0, 3.0])]:
            hard, soft = view.hard(items), view.soft(P)
            assert hard.shape == (5, 8, view.V.shape[1])
            torch.testing.assert_close(hard, soft)
            earlier = view.hard(items[:, :3])  # no later item has a say
            torch.testing.assert_close(hard[:, :3], earlier)


def test_a_recommenders_view_reads_and_scores_as_it_does(task: Task) -> None:
    model = enlarged(task.fresh(0))
    view, items = recommender_view("own", model.train()), _histories(3)
    assert not model.training
    with torch.no_grad():
        expected = model(model.embed(items.flatten()).view(5, 8, -1)) @ model.embed_all().T
        torch.testing.assert_close(view.hard(items) @ view.V.T, expected)


def test_the_scores_of_a_mixture_are_the_weighted_sum(task: Task) -> None:
    views, weights, items = _views(task), [0.3, 2.0, -1.5, 0.0], _histories(4)
    both = mixed(views, weights)
    with torch.no_grad():
        expected = sum(w * (view.hard(items) @ view.V.T).double() for view, w in zip(views, weights, strict=True))
        found = (both.hard(items) @ both.V.T).double()
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=1e-4 * float(found.abs().max()))
    assert both.V.shape == (N, sum(view.V.shape[1] for view in views)) and both.name == "own+item_knn+ease+tfidf"


def test_the_last_column_of_a_mixture_is_its_bias(task: Task) -> None:
    """The sum of the members' own times their weights; 0 if none has any. A recommender's items can then start at V."""
    views, items = _views(task), _histories(4)
    own = next(view for view in views if view.bias)
    with torch.no_grad():
        both = mixed(views, [0.3, 2.0, -1.5, 0.5])
        torch.testing.assert_close(both.V[:, -1], 0.3 * own.V[:, -1])
        counted = mixed([view for view in views if not view.bias], [2.0, -1.5, 0.5])
        assert own.V[:, -1].abs().max() > 0 and not counted.V[:, -1].any()
        for view in (both, counted):
            assert view.bias and torch.equal(view.hard(items)[..., -1], torch.ones(items.shape))


def test_the_outputs_after_the_last_items(task: Task) -> None:
    """Whatever the length of a history, in whatever batch it is."""
    cases, view = task.cases("test"), mixed(_views(task)[:2], [1.0, 0.5])
    assert len(set(cases.lengths.tolist())) > 3
    for batch in (1, 7, 1000):
        found = view.last(cases, batch)
        for c in range(len(cases)):
            history = torch.from_numpy(cases.history[c, : cases.lengths[c]])
            with torch.no_grad():
                torch.testing.assert_close(found[c], view.hard(history[None])[0, -1])


# the choice


def _scored(name: str, S: np.ndarray) -> View:
    """A teacher that scores the items by row `a` of S after a history that ends with item a."""
    return View(name, torch.eye(len(S)), torch.from_numpy(S.T.copy()).float(), lambda X: X)


def _ranks(scores: np.ndarray, cases: Cases) -> np.ndarray:
    """Ranks in plain Python; what a case leaves out is not ranked."""
    out = np.empty(len(cases))
    for c, line in enumerate(scores):
        hidden = set() if cases.seen is None else set(cases.seen[0][cases.seen[1][c] : cases.seen[1][c + 1]].tolist())
        target = cases.target[c]
        rest = np.array([s for i, s in enumerate(line) if i != target and i not in hidden])
        out[c] = 1 + (rest > line[target]).sum() + (rest == line[target]).sum() / 2
    return out


def _quality(scores: np.ndarray, cases: Cases) -> dict[str, float]:
    rank = _ranks(scores, cases)
    gain = np.where(rank <= 10, 1 / np.log2(1 + rank), 0.0)
    return {"R@10": float((rank <= 10).mean()), "N@10": float(gain.mean())}


def _random_views(task: Task, seed: int) -> tuple[list[View], list[np.ndarray]]:
    """Three teachers that know something of the targets, of different sizes; and their scores of the cases (C, n)."""
    rng, cases = np.random.default_rng(seed), task.valid
    last = cases.history[np.arange(len(cases)), cases.lengths - 1]
    tables = []
    for share, size in ((0.8, 1.0), (0.5, 30.0), (0.4, 0.02)):
        S = rng.normal(size=(N, N))
        known = rng.random(len(cases)) < share
        S[last[known], cases.target[known]] += 2.0
        tables.append(size * S)
    views = [_scored(name, S) for name, S in zip("abc", tables, strict=True)]
    return views, [S.astype(np.float32).astype(np.float64)[last] for S in tables]


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_by_hand(task: Task, seed: int) -> None:
    """Members by their own quality, each with the best of the weights or left out; then the fittest distribution."""
    views, scores = _random_views(task, seed)
    found, cases = choose(views, task.valid), task.valid
    alone = {view.name: _quality(S, cases) for view, S in zip(views, scores, strict=True)}
    assert {k: pytest.approx(v) for k, v in alone.items()} == found.alone
    order = sorted(range(3), key=lambda i: -sum(alone[views[i].name].values()))
    total, weights = scores[order[0]], {views[order[0]].name: 1.0}
    for i in order[1:]:
        unit = total.std(1, ddof=1).mean() / scores[i].std(1, ddof=1).mean()
        tried = {w: sum(_quality(total + w * unit * scores[i], cases).values()) for w in WEIGHTS}
        top = max(tried, key=lambda w: tried[w])
        if tried[top] > sum(_quality(total, cases).values()):
            total, weights[views[i].name] = total + top * unit * scores[i], top * unit
    loss = {}
    for scale in SCALES:
        x = scale * total
        log_sum = np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) + x.max(1)
        loss[scale] = float((log_sum - x[np.arange(len(cases)), cases.target]).mean())
    scale = min(loss, key=lambda s: loss[s])
    assert found.weights == pytest.approx({name: scale * w for name, w in weights.items()}, rel=1e-4)
    assert list(found.weights) == list(weights) and found.view.name == "+".join(weights)
    assert found.valid == pytest.approx(_quality(total, cases))
    assert scale > SCALES[0]
    assert f"validation R@10 {found.valid['R@10']:.4f}" in found.text()


@pytest.mark.parametrize("seed", range(10, 22))
def test_a_mixture_is_never_worse_than_its_best_member(task: Task, seed: int) -> None:
    views, _ = _random_views(task, seed)
    found = choose(views, task.valid)
    best = max(sum(values.values()) for values in found.alone.values())
    assert sum(found.valid.values()) >= best - 1e-9
    if len(found.weights) > 1:
        assert sum(found.valid.values()) > best


def test_a_member_that_adds_nothing_is_left_out(task: Task) -> None:
    views, scores = _random_views(task, 0)
    twice = replace(views[0], name="again")
    assert list(choose([views[0], twice], task.valid).weights) in (["a"], ["again"])
    flat = _scored("flat", np.zeros((N, N)))
    found = choose([views[0], flat], task.valid)
    assert list(found.weights) == ["a"] and np.isfinite(found.weights["a"])
    np.testing.assert_allclose(
        (found.view.last(task.valid) @ found.view.V.T).numpy(), found.weights["a"] * scores[0], rtol=1e-4, atol=1e-4
    )


def test_a_choice_of_many_cases_reads_a_sample_and_reports_all(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "SAMPLE", 10)
    views, scores = _random_views(task, 1)
    seen: list[int] = []
    original = mixture.cross_entropy
    monkeypatch.setattr(mixture, "cross_entropy", lambda H, *rest: seen.append(len(H)) or original(H, *rest))
    found = choose(views, task.valid)
    assert set(seen) == {10} and len(task.valid) > 10
    assert found.alone["a"] == pytest.approx(_quality(scores[0], task.valid))
    again = choose(views, task.valid)
    assert again.weights == found.weights


# members


def test_members_are_those_that_the_rows_have(task: Task) -> None:
    """A recommender trained with the same settings, and models with the settings that validation chooses."""
    own = member("both", task, TRAIN, 0)
    teacher = full_teacher(task, TRAIN, 0).model
    torch.testing.assert_close(own.V, teacher.embed_all())
    for name, module in (("item_knn", item_knn), ("ease", ease), ("tfidf", tfidf)):
        chosen: Any = module.choose(task.data, task.valid)
        view = member(name, task, TRAIN, 0)
        scores = (view.last(task.valid) @ view.V.T).numpy()
        expected = chosen.model.scores(task.valid, np.arange(len(task.valid)))
        np.testing.assert_allclose(scores, expected, atol=2e-5 * max(1.0, np.abs(expected).max()))
    ids = member("id", task, TRAIN, 0)
    known = full_teacher(task.known_by("id"), TRAIN, 0).model
    torch.testing.assert_close(ids.V, known.embed_all())


def test_a_mixture_by_name(task: Task) -> None:
    found = mixture_of("both,item_knn,both", task, TRAIN, 0)
    assert set(found.alone) == {"both", "item_knn"} and set(found.weights) <= {"both", "item_knn"}
    alone = choose([member("both", task, TRAIN, 0)], task.valid)
    assert list(alone.weights) == ["both"] and alone.valid == found.alone["both"]
    assert sum(found.valid.values()) >= sum(alone.valid.values())
