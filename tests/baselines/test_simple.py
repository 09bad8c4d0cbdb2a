"""Random, k-center, herding and the greedy cover, against enumeration and plain loops.

To run it alone: `pytest tests/baselines/test_simple.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.baselines import METHODS
from foster_cli.baselines.cover import euclidean, greedy_cover
from foster_cli.baselines.herding import herd
from foster_cli.baselines.kcenter import farthest_points
from foster_cli.baselines.random import random_users
from foster_cli.baselines.surrogate import histories, subsample
from foster_cli.console import SILENT, Console

CORESETS = [m.name for m in METHODS.values() if m.real]


def test_random_takes_users_uniformly_and_then_their_windows() -> None:
    users = np.array([0, 0, 0, 0, 0, 0, 1, 2, 2])
    count = np.zeros(9)
    for seed in range(3000):
        count[random_users(users, 1, np.random.default_rng(seed))] += 1
    expected = np.r_[np.full(6, 1 / 18), 1 / 3, np.full(2, 1 / 6)] * 3000
    assert ((count - expected) ** 2 / expected).sum() < 26.1  # chi squared, 8 degrees of freedom, 0.1 %
    for seed in range(20):
        chosen = random_users(users, 9, np.random.default_rng(seed))
        assert sorted(chosen) == list(range(9))
        assert sorted(users[chosen[:3]]) == [0, 1, 2] and sorted(users[chosen[3:5]]) == [0, 2]


def radius(X: np.ndarray, chosen: tuple[int, ...]) -> float:
    return float(np.sqrt(((X[:, None] - X[None, list(chosen)]) ** 2).sum(-1)).min(1).max())


@pytest.mark.parametrize("seed", range(5))
def test_kcenter_is_the_greedy_choice_within_twice_the_best_radius(seed: int) -> None:
    X = np.random.default_rng(seed).normal(size=(10, 2))
    chosen, found = farthest_points(torch.from_numpy(X), 3, seed)
    direct = [seed]
    while len(direct) < 3:
        apart = [min(np.linalg.norm(x - X[c]) for c in direct) for x in X]
        direct.append(int(np.argmax(apart)))
    assert chosen.tolist() == direct
    assert found == pytest.approx(radius(X, tuple(direct)))
    assert found <= 2 * min(radius(X, s) for s in combinations(range(10), 3))


def test_kcenter_never_takes_a_row_twice() -> None:
    chosen, found = farthest_points(torch.ones(5, 3), 5, 2)
    assert sorted(chosen) == list(range(5)) and found == 0


@pytest.mark.parametrize("seed", range(3))
def test_herding_against_a_direct_loop(seed: int) -> None:
    X = np.random.default_rng(seed).normal(size=(15, 4))
    mean, chosen = X.mean(0), []
    for t in range(1, 9):
        # w_{t-1} = t mu - sum of what was chosen (Welling's recursion unrolled)
        w = t * mean - sum((X[i] for i in chosen), np.zeros(4))
        chosen.append(max((i for i in range(15) if i not in chosen), key=lambda i: float(w @ X[i])))
    assert herd(torch.from_numpy(X), 8).tolist() == chosen


@pytest.mark.parametrize("seed", range(5))
def test_cover_is_greedy_and_keeps_its_guarantee(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.random((9, 7))
    chosen = greedy_cover(torch.from_numpy(cost), 3).tolist()
    direct: list[int] = []
    for _ in range(3):
        left = [i for i in range(9) if i not in direct]
        direct.append(min(left, key=lambda i: cost[[*direct, i]].min(0).sum()))
    assert chosen == direct

    def gain(s: tuple[int, ...]) -> float:
        return float((1.0 - cost[list(s)].min(0)).sum())  # facility location with an empty set at cost 1

    assert gain(tuple(chosen)) >= (1 - 1 / np.e) * max(gain(s) for s in combinations(range(9), 3))


def test_distances_of_both_ways() -> None:
    rng = torch.Generator().manual_seed(0)
    X, Y = torch.randn(1100, 3, generator=rng), torch.randn(1000, 3, generator=rng)
    direct = (X[:, None] - Y[None]).double().norm(dim=-1)
    torch.testing.assert_close(euclidean(X, Y).double(), direct, atol=3e-3, rtol=1e-4)
    torch.testing.assert_close(euclidean(X[:9], Y[:9]).double(), direct[:9, :9], atol=1e-6, rtol=1e-5)


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert subsample(5, 5, np.random.default_rng(0), SILENT, "x").tolist() == list(range(5))
    some = subsample(100, 7, np.random.default_rng(0), Console(), "windows")
    assert len(set(some.tolist())) == 7 and (np.diff(some) > 0).all()
    assert "windows: 7 of 100" in capsys.readouterr().err


def test_outputs_are_those_after_the_history(surrogate_of: Callable[..., Any]) -> None:
    surrogate = surrogate_of()
    model, E = surrogate.model, surrogate.model.embed_all()
    H = surrogate.outputs()
    cases = histories(surrogate.windows)
    for w in range(12):
        items = [i for i in surrogate.windows.items[w].tolist() if i >= 0]
        assert cases.target[w] == items[-1]
        torch.testing.assert_close(H[w], model(E[items[:-1]][None])[0, -1])
    torch.testing.assert_close(surrogate.outputs(np.array([4, 2])), H[[4, 2]])


@pytest.mark.parametrize("more", [{}, {"items": "both", "bias": True, "known": torch.arange(14) > 1}])
@pytest.mark.parametrize("name", CORESETS)
def test_a_generator_fixes_the_choice(surrogate_of: Callable[..., Any], name: str, more: dict[str, Any]) -> None:
    surrogate = surrogate_of(windows=16, **more)
    select = METHODS[name].select

    def chosen(seed: int) -> list[int]:
        found = select(surrogate, 4, np.random.default_rng(seed), SILENT)
        assert found.shape == (4,) and found.dtype == np.int64
        return list(found.tolist())

    torch.manual_seed(1)
    first = chosen(0)
    torch.manual_seed(2)
    assert chosen(0) == first and len(set(first)) == 4 and set(first) <= set(range(16))
    assert sorted(select(surrogate, 16, np.random.default_rng(0), SILENT)) == list(range(16))
    assert len(select(surrogate, 1, np.random.default_rng(0), SILENT)) == 1
    if name in ("random", "kcenter"):
        assert any(chosen(seed) != first for seed in range(1, 6))
