"""Metrics against scikit-learn, ranks against scipy and against sorting, coverage against sets."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from foster_cli.ranking.metrics import ndcg, per_case, recall, reciprocal


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
