"""L_DH: total variation by brute force, d_cond by its formula, the three ways to one scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.distill.alignment import alignment_loss, conditional_distance, match, semantic_distance
from foster_cli.settings import DistillConfig
from foster_cli.synthetic.reading import PAPER, Reading


def _config(items: int, form: str = "raw") -> DistillConfig:
    return DistillConfig(dh_items=items, dh_form=form)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("t", [0, 1, 4])
def test_semantic_distance_is_total_variation(small_model: Callable[..., Any], t: int) -> None:
    teacher = small_model(n=9)
    E = teacher.embed_all()
    context = torch.randn(t, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    picked = torch.tensor([4, 0, 7, 8])
    found = semantic_distance(teacher, context, E, picked).numpy()
    following = []
    for item in picked.tolist():
        with torch.no_grad():
            h = teacher(torch.cat([context, E[item][None]])[None])[0, -1]
        following.append(_softmax((E @ h).numpy()))
    for i in range(4):
        for j in range(4):
            # the largest difference that two distributions can give one event
            expected = sum(max(0.0, a - b) for a, b in zip(following[i], following[j], strict=True))
            assert found[i, j] == pytest.approx(expected, abs=1e-10)
    assert np.allclose(found, found.T) and np.allclose(np.diag(found), 0.0)
    assert found.min() >= 0.0 and found.max() <= 1.0 + 1e-12
    assert found[np.triu_indices(4, 1)].max() > 0.01


def test_conditional_distance_is_its_formula() -> None:
    p = [0.5, 0.25, 0.2, 0.05, 1e-30]
    found = conditional_distance(torch.tensor(p, dtype=torch.float64).log()).numpy()
    for i in range(5):
        for j in range(5):
            # 1 - exp(-|log p_i - log p_j|) is one minus the smaller over the larger
            assert found[i, j] == pytest.approx(1.0 - min(p[i], p[j]) / max(p[i], p[j]), abs=1e-12)
    assert np.array_equal(found, found.T) and found.min() == 0.0 and found.max() <= 1.0


SEM = torch.tensor([0.02, 0.10, 0.05, 0.30, 0.07], dtype=torch.float64)
COND = torch.tensor([0.5, 0.9, 0.2, 0.7, 0.6], dtype=torch.float64)


def test_raw_is_the_mean_square() -> None:
    expected = sum((float(a) - float(b)) ** 2 for a, b in zip(SEM, COND, strict=True)) / 5
    assert float(match(SEM, COND, "raw")) == pytest.approx(expected, rel=1e-12)


def test_mean_does_not_change_with_the_scale_of_either() -> None:
    a, b = SEM.numpy() / SEM.numpy().mean(), COND.numpy() / COND.numpy().mean()
    expected = ((a - b) ** 2).mean()
    for factor in (1.0, 0.01, 0.5):
        assert float(match(SEM, factor * COND, "mean")) == pytest.approx(expected, rel=1e-10)
        assert float(match(factor * SEM, COND, "mean")) == pytest.approx(expected, rel=1e-10)
    assert float(match(SEM, 3 * SEM, "mean")) == pytest.approx(0.0, abs=1e-20)


def test_rank_asks_for_the_order_alone() -> None:
    increasing = torch.exp(5 * SEM) - 1.0
    assert float(match(SEM, increasing, "rank")) == 0.0
    # by hand: COND in the order of SEM would be .2 .7 .5... for (.02, .10, .05, .30, .07)
    wanted = [0.2, 0.7, 0.5, 0.9, 0.6]
    expected = sum((w - float(c)) ** 2 for w, c in zip(wanted, COND, strict=True)) / 5
    assert float(match(SEM, COND, "rank")) == pytest.approx(expected, rel=1e-12)
    assert float(match(SEM**3, COND, "rank")) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["raw", "mean", "rank"])
def test_a_step_down_the_gradient_brings_the_distances_together(form: str) -> None:
    cond = COND.clone().requires_grad_()
    before = match(SEM, cond, form)
    (g,) = torch.autograd.grad(before, cond)
    assert float(match(SEM, (cond - 0.01 * g).detach(), form)) < float(before.detach())


@pytest.mark.parametrize("form", ["raw", "mean", "rank"])
def test_gradient_goes_to_q_alone(small_model: Callable[..., Any], form: str) -> None:
    teacher = small_model(n=9)
    V = teacher.embed_all()
    Q = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    loss = alignment_loss(
        teacher, Q, V, torch.tensor([8, 1, 3, 5, 6]), _config(4, form), torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert loss.dim() == 0 and loss.item() > 0
    touched = Q.grad.abs().amax(-1) > 0
    assert int(touched.sum()) == 1  # one sequence, one position; the context before it is a constant
    assert not bool(touched[:, 0].any())  # and never the first, which has no context
    assert all(p.grad is None for p in teacher.parameters())


def test_the_loss_is_that_of_one_of_the_positions(small_model: Callable[..., Any]) -> None:
    """All 15 (s, t) by hand over all pairs of all items: what is drawn must be one of these."""
    teacher = small_model(n=5)
    V = teacher.embed_all()
    Q = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    S, by_hand = torch.arange(5), {}
    for s in range(3):
        P = [_softmax((V @ Q[s, t]).numpy()) for t in range(4)]
        for t in range(1, 4):
            context = torch.stack([torch.from_numpy(P[u]) @ V for u in range(t)])
            next_p = []
            for i in range(5):
                with torch.no_grad():
                    next_p.append(_softmax((V @ teacher(torch.cat([context, V[i][None]])[None])[0, -1]).numpy()))
            terms = [
                (0.5 * np.abs(next_p[i] - next_p[j]).sum() - (1 - math.exp(-abs(math.log(P[t][i] / P[t][j]))))) ** 2
                for i in range(5)
                for j in range(i + 1, 5)
            ]
            by_hand[s, t] = float(np.mean(terms))
    drawn = set()
    for seed in range(60):
        found = float(alignment_loss(teacher, Q, V, S, _config(5), torch.Generator().manual_seed(seed)))
        near = min(by_hand, key=lambda k: abs(by_hand[k] - found))
        assert found == pytest.approx(by_hand[near], rel=1e-8)
        drawn.add(near)
    assert drawn == set(by_hand)  # and every position is drawn sooner or later


def test_own_goals_are_compared_after_what_is_read(small_model: Callable[..., Any]) -> None:
    """The same distributions in both forms give the same loss: rows of the paper's form, split into read and goal."""
    teacher = small_model(n=9, length=6)
    V, Q = teacher.embed_all(), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    S = torch.arange(9)
    own = torch.cat([Q, torch.roll(Q, -1, dims=1)], dim=1)  # row t is read, row t + 1 its goal
    losses = []
    for rows, reading in ((Q, PAPER), (own, Reading(own=True, items=S))):
        rows = rows.clone().requires_grad_()
        loss = alignment_loss(teacher, rows, V, S, _config(6), torch.Generator().manual_seed(4), reading)
        (gradient,) = torch.autograd.grad(loss, rows)
        losses.append((loss.item(), gradient))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-12) and losses[0][0] > 0
    touched = [tuple(g.abs().sum(-1).nonzero()[0].tolist()) for _, g in losses]
    assert touched[1] == (touched[0][0], 5 + touched[0][1] - 1)  # the goal of the position before
