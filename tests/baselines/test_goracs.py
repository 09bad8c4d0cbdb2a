"""GORACS against POT and enumeration; NaCS against its formulas."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog

from foster_cli.baselines.cover import euclidean, greedy_cover
from foster_cli.baselines.goracs import GORACSConfig, cost_matrix, estimates, exchange, transport
from foster_cli.baselines.nacs import Stage, certain, checkpoints, corrected_gradients
from foster_cli.baselines.surrogate import histories


def value_of(cost: np.ndarray, rows: list[int]) -> float:
    n = cost.shape[1]
    return float(ot.emd2(np.full(len(rows), 1 / len(rows)), np.full(n, 1 / n), np.ascontiguousarray(cost[rows])))


def test_transport_against_pot_and_a_linear_programme() -> None:
    cost = np.random.default_rng(0).random((3, 5))
    value, duals = transport(torch.from_numpy(cost))
    assert value == pytest.approx(value_of(cost, [0, 1, 2]))
    A = [np.kron(np.eye(3)[i], np.ones(5)) for i in range(3)] + [np.kron(np.ones(3), np.eye(5)[j]) for j in range(5)]
    plain = linprog(cost.ravel(), A_eq=np.array(A), b_eq=np.r_[np.full(3, 1 / 3), np.full(5, 1 / 5)])
    assert value == pytest.approx(plain.fun)
    # duality: the rows' duals alone give the value back
    other = (cost - duals[:, None]).min(0)
    assert duals.mean() + other.mean() == pytest.approx(value)


def test_cost_by_hand() -> None:
    X, Y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    # distances [[0, 10], [5, 5]] / 10 - 0.5 [1, 0.5] = [[-0.5, 0.5], [0.25, 0.25]]
    expected = torch.tensor([[0.0, 1.0], [0.75, 0.75]])
    torch.testing.assert_close(cost_matrix(X, Y, torch.tensor([2.0, 1.0]), 0.5), expected)


@pytest.mark.parametrize("order", ["largest", "smallest"])
@pytest.mark.parametrize("M", [1, 2, 4])
def test_estimates_by_their_formula(order: str, M: int) -> None:
    rng = np.random.default_rng(M)
    cost = rng.random((8, 6))
    S = np.array([5, 1, 7, 2][:M])
    _, duals = transport(torch.from_numpy(cost[S]))
    found = estimates(torch.from_numpy(cost), S, duals, order).numpy()
    R = -(-6 // M)
    for i in range(8):
        others = [m for m in range(M) if S[m] != i]
        if not others:
            continue  # nothing would be left of S
        f = np.min([cost[S[m]] - duals[m] for m in others], axis=0)
        gain = np.sort(cost[i] - f)
        y = gain[-R] if order == "largest" else gain[R - 1]
        assert found[i] == pytest.approx(np.minimum(cost[i] - f - y, 0).mean() + y / M)
        if order == "smallest":  # the best bound, and a bound it is
            assert found[i] >= max(np.minimum(gain - t, 0).mean() + t / M for t in gain) - 1e-12
            bound = f.mean() + found[i] + sum(duals[m] for m in others) / M
            if len(others) == M - 1:
                assert bound <= value_of(cost, [int(S[m]) for m in others] + [i]) + 1e-9


@pytest.mark.parametrize("order", ["largest", "smallest"])
@pytest.mark.parametrize("seed", range(6))
def test_exchange_falls_with_every_swap_and_lies_between_greedy_and_the_best(seed: int, order: str) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(10, 2)), rng.normal(size=(7, 2)) + 0.5
    cost = cost_matrix(*(torch.from_numpy(x) for x in (X, Y, rng.random(10))), 0.2)
    start = greedy_cover(cost, 3)
    chosen, values = exchange(cost, start, GORACSConfig(order=order))
    every = {s: value_of(cost.numpy(), list(s)) for s in combinations(range(10), 3)}
    assert values[0] == pytest.approx(every[tuple(sorted(start.tolist()))])
    assert values[-1] == pytest.approx(every[tuple(sorted(chosen.tolist()))])
    assert (np.diff(values) < 0).all()
    assert min(every.values()) - 1e-9 <= values[-1] <= values[0] + 1e-12
    # all rows are tried here, so it ends where no single swap helps
    for m in range(3):
        for i in set(range(10)) - set(chosen.tolist()):
            other = chosen.copy()
            other[m] = i
            assert every[tuple(sorted(other.tolist()))] >= values[-1] - 1e-8
    few = exchange(cost, start, GORACSConfig(order=order, exchanges=1))[1]
    assert few == values[: len(few)] and len(few) <= 2


def test_corrected_labels_by_their_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    stages = [Stage(torch.randn(5, 3, generator=rng).double(), torch.randn(7, 3, generator=rng).double()) for _ in "ab"]
    target = torch.tensor([0, 6, 2, 2, 5])
    G, uncertainty = corrected_gradients(stages, target, 0.5, block=2)
    for c in range(5):
        p = [np.exp(s.E.numpy() @ s.H[c].numpy()) for s in stages]
        p = [x / x.sum() for x in p]
        label = np.eye(7)[int(target[c])]
        label = 0.75 * label + 0.25 * p[0]
        label = 0.5 * label + 0.5 * p[1]
        np.testing.assert_allclose(G[c].numpy(), (p[1] - label) @ stages[1].E.numpy(), atol=1e-12)
        mean = (p[0] + p[1]) / 2
        assert float(uncertainty[c]) == pytest.approx(-(mean * np.log(mean)).sum())
    plain, _ = corrected_gradients(stages[1:], target, 0.0)
    H = stages[1].H.clone().requires_grad_()
    torch.nn.functional.cross_entropy(H @ stages[1].E.T, target, reduction="sum").backward()
    torch.testing.assert_close(plain, H.grad)  # without correction: the loss's own gradient


def test_the_most_uncertain_are_left_out() -> None:
    u = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert certain(u, 0.4, 1).tolist() == [1, 3, 4]
    assert certain(u, 0.4, 4).tolist() == [1, 2, 3, 4]  # never fewer than the budget
    assert certain(u, 0.0, 1).tolist() == [0, 1, 2, 3, 4]


def test_checkpoints_follow_the_trajectory(surrogate_of: Callable[..., Any]) -> None:
    surrogate = surrogate_of()
    cases = histories(surrogate.windows)
    before = surrogate.model.learnables()
    stages = checkpoints(surrogate.teacher, cases, 3)
    assert len(stages) == 3 and len(checkpoints(surrogate.teacher, cases, 1)) == 1
    torch.testing.assert_close(stages[-1].H, surrogate.outputs())
    model = surrogate.model.clone()
    model.restore(surrogate.teacher.anchors[1])
    assert torch.equal(stages[0].E, model.embed_all())
    after = surrogate.model.learnables()
    assert all(torch.equal(before[k], after[k]) for k in before)  # the surrogate itself is left as it was


@pytest.mark.parametrize("seed", range(4))
def test_submodular_choice_against_enumeration(seed: int) -> None:
    G = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
    D = np.array([[float((a - b).norm()) for b in G] for a in G])
    chosen = greedy_cover(euclidean(G, G), 3).tolist()
    direct: list[int] = []
    for _ in range(3):
        direct.append(min((i for i in range(9) if i not in direct), key=lambda i: D[[*direct, i]].min(0).sum()))
    assert chosen == direct
    top = D.max()
    gain = {s: (top - D[list(s)].min(0)).sum() for s in combinations(range(9), 3)}
    assert gain[tuple(sorted(chosen))] >= (1 - 1 / np.e) * max(gain.values())
