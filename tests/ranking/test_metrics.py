"""Metrics against scikit-learn, ranks against scipy and against sorting, coverage against sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from foster_cli.data.windows import Cases
from foster_cli.ranking.full import covered, last_outputs, ranks, score_model
from foster_cli.ranking.metrics import all_metrics, ndcg, per_case, propensity, recall, reciprocal, shown
from foster_cli.train.best import validate


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_metrics_agree_with_sklearn(k: int) -> None:
    rng = np.random.default_rng(0)
    C, n = 60, 25
    scores, target = rng.normal(size=(C, n)), rng.integers(0, n, C)
    truth = np.eye(n)[target]
    E = torch.eye(n, dtype=torch.float64)
    rank = ranks(torch.from_numpy(scores), E, target)
    assert ndcg(rank, k).mean() == pytest.approx(ndcg_score(truth, scores, k=k), rel=1e-12)
    assert reciprocal(rank).mean() == pytest.approx(label_ranking_average_precision_score(truth, scores), rel=1e-12)
    top = np.argsort(-scores, axis=1)[:, :k]
    assert recall(rank, k).tolist() == [float(t in row) for t, row in zip(target, top, strict=True)]


def test_per_case_names_and_values() -> None:
    rank = np.array([[1.0, 2.0, 11.0], [3.5, 10.0, 10.5]])
    found = per_case(rank, (2, 10))
    assert list(found) == ["R@2", "N@2", "R@10", "N@10", "MRR"]
    assert found["R@2"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert found["R@10"].tolist() == [[1, 1, 0], [1, 1, 0]]
    expected = [[1.0, 1 / math.log2(3), 0.0], [1 / math.log2(4.5), 1 / math.log2(11), 0.0]]
    np.testing.assert_allclose(found["N@10"], expected)
    np.testing.assert_allclose(found["MRR"], 1 / rank)


def _plain_propensity(count: int, total: int) -> float:
    """Jain et al. 2016, Eq. 2, in the paper's letters."""
    A, B = 0.55, 1.5
    C = (math.log(total) - 1) * (B + 1) ** A
    return 1 / (1 + C * math.exp(-A * math.log(count + B)))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30), st.integers(3, 10**7))
def test_propensities_of_the_paper(count: list[int], more: int) -> None:
    total = sum(count) + more
    found = propensity(np.array(count), total)
    np.testing.assert_allclose(found, [_plain_propensity(c, total) for c in count], rtol=1e-12)
    assert np.all((found > 0) & (found <= 1))
    order = np.argsort(count, kind="stable")
    assert np.all(np.diff(found[order]) >= 0)  # what occurs more often is seen more surely


def test_propensities_by_hand() -> None:
    """log(e^3) - 1 = 2; 2.5^0.55 = 1.65522; 1.5^-0.55 = 0.80010."""
    total = round(math.exp(3))  # 20: log is 2.99573
    assert propensity(np.array([0]), total)[0] == pytest.approx(1 / (1 + 1.99573 * 1.65522 * 0.80010), rel=1e-4)
    for few in (0, 1, 2):
        assert propensity(np.array([0, 1]), few).tolist() == [1.0, 1.0]


_case = st.tuples(st.integers(1, 30), st.sampled_from([0, 0, 1, 5, 400]))


@given(st.lists(_case, min_size=1, max_size=25), st.sampled_from([(1,), (10, 20), (5, 10)]))
def test_cold_recall_and_psp_in_plain_python(cases: list[tuple[int, int]], ks: tuple[int, ...]) -> None:
    total = 1000
    rank, count = (np.array(x) for x in zip(*cases, strict=True))
    found = all_metrics(rank.astype(np.float64)[None], ks, count, total)
    for k in ks:
        cold = [r <= k for r, c in cases if c == 0]
        metric = found[f"cold R@{k}"]
        assert metric.weight is not None and metric.weight.sum() == len(cold)
        if cold:
            assert metric.means()[0] == pytest.approx(sum(cold) / len(cold))
        rare = [1 / _plain_propensity(c, total) for _, c in cases]
        gained = sum((r <= k) * w for (r, _), w in zip(cases, rare, strict=True)) / len(cases)
        assert found[f"PSP@{k}"].means()[0] == pytest.approx(gained / (sum(rare) / len(cases)))
        assert found[f"R@{k}"].means()[0] == pytest.approx(np.mean(rank <= k))
    perfect = all_metrics(np.ones((1, len(cases))), ks, count, total)
    assert all(perfect[f"PSP@{k}"].means()[0] == pytest.approx(1.0) for k in ks)


def test_what_a_table_shows() -> None:
    assert shown((10, 20)) == ["R@10", "N@10", "R@20", "N@20", "cold R@10", "PSP@10"]
    assert set(shown((20, 5))) <= set(all_metrics(np.ones((1, 2)), (20, 5), np.zeros(2, np.int64), 9))


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5), st.data())
@settings(max_examples=60)
def test_a_tie_counts_half(scores: list[list[int]], data: st.DataObject) -> None:
    """The rank is the mean over all orders that the ties allow."""
    target = np.array([data.draw(st.integers(0, 5)) for _ in scores])
    found = ranks(torch.tensor(scores, dtype=torch.float64), torch.eye(6, dtype=torch.float64), target)
    for row, t, rank in zip(scores, target, found, strict=True):
        best = 1 + sum(x > row[t] for x in row)
        worst = sum(x >= row[t] for x in row)
        assert rank == (best + worst) / 2
        # what scipy calls the average rank
        assert rank == stats.rankdata([-x for x in row], method="average")[t]


def test_seen_items_are_not_ranked() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    seen = (np.array([0, 1]), np.array([0, 2, 2]))
    assert ranks(scores, torch.eye(4), np.array([3, 3]), seen).tolist() == [2.0, 4.0]
    again = (np.array([3, 0]), np.array([0, 2, 2]))  # a user meets an item again: the target stays in the race
    assert ranks(scores, torch.eye(4), np.array([3, 3]), again).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("block", [1, 40, 1 << 26])
@pytest.mark.parametrize("masked", [False, True])
def test_coverage_is_the_union_of_the_top_lists(block: int, masked: bool) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(7, 40))
    lists = [rng.choice(40, size=i, replace=False) for i in range(7)]
    seen = (np.concatenate(lists).astype(np.int64), np.cumsum([0, *map(len, lists)])) if masked else None
    expected = set()
    for c in range(7):
        allowed = [i for i in range(40) if not (masked and i in lists[c])]
        expected |= set(sorted(allowed, key=lambda i: -scores[c, i])[:5])
    assert covered(torch.from_numpy(scores), torch.eye(40, dtype=torch.float64), 5, seen, block) == len(expected)


def test_a_model_ranks_without_what_its_cases_leave_out(small_model: Callable[..., Any]) -> None:
    """In validation and everywhere: the ranks of `score_model` against sorting each case's own scores."""
    model, cases = small_model(), _cases()
    rng = np.random.default_rng(5)
    past = [rng.integers(0, model.n, rng.integers(0, 9)) for _ in range(len(cases))]
    seen = (np.concatenate(past), np.cumsum([0, *map(len, past)]))
    some = replace(cases, seen=seen)
    E = model.embed_all()
    scores = (last_outputs(model, E, cases) @ E.T).detach().numpy()
    expected = []
    for row, target, out in zip(scores, cases.target, past, strict=True):
        rest = [x for i, x in enumerate(row) if i != target and i not in out]
        expected.append(1 + sum(x > row[target] for x in rest) + sum(x == row[target] for x in rest) / 2)
    assert score_model(model, some).tolist() == expected != score_model(model, cases).tolist()
    index = np.array([7, 7, 3, 49])
    assert score_model(model, some.take(index)).tolist() == [expected[i] for i in index]
    found = validate(model, some)
    assert found["R@10"] == pytest.approx(np.mean([rank <= 10 for rank in expected]))


def _cases(count: int = 50, n: int = 12, L: int = 6) -> Cases:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, L + 1, count)
    history = np.where(np.arange(L) < lengths[:, None], rng.integers(0, n, (count, L)), -1)
    return Cases(history, lengths, rng.integers(0, n, count), np.arange(count), np.arange(count))


@pytest.mark.parametrize("batch", [1, 7, 1024])
def test_last_outputs_are_those_of_each_history_alone(small_model: Callable[..., Any], batch: int) -> None:
    model, cases = small_model(double=False), _cases()
    E = model.embed_all()
    found = last_outputs(model, E, cases, batch)
    for c in range(len(cases)):
        alone = torch.from_numpy(cases.history[c, : cases.lengths[c]])
        with torch.no_grad():
            torch.testing.assert_close(found[c], model(E[alone][None])[0, -1], rtol=1e-4, atol=1e-5)


def test_score_model_is_a_sort_of_all_items(small_model: Callable[..., Any]) -> None:
    model, cases = small_model(double=False), _cases()
    found, E = score_model(model, cases), model.embed_all()
    for c in range(len(cases)):
        with torch.no_grad():
            h = model(E[torch.from_numpy(cases.history[c, : cases.lengths[c]])][None])[0, -1]
        order = torch.argsort(E @ h, descending=True).tolist()
        assert found[c] == order.index(cases.target[c]) + 1


def test_scoring_turns_dropout_off(small_model: Callable[..., Any]) -> None:
    model, cases = small_model(double=False), _cases()
    model.train()
    assert np.array_equal(score_model(model, cases), score_model(model, cases))
