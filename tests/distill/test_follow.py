"""Outer steps that follow students, against their formulas, and what they are for: students nearer to the teacher."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from problems import make_problem
from sequences import random_windows
from tiny_problem import CONFIG, D, L, M, N, following, own_start, told
from torch import Tensor

from foster_cli.baselines.foster import adapt
from foster_cli.distill import follow as module
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.distill.algorithm2 import Problem
from foster_cli.distill.follow import Following, distill, follow, to_factor
from foster_cli.distill.loop import bome
from foster_cli.errors import FosterError
from foster_cli.models.recommender import Recommender
from foster_cli.settings import BOME_ONLY, DistillConfig, Settings, StudentConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.train.batch import target_positions


def _heard(phi: Recommender, problem: Problem, Q: Tensor, E: Tensor) -> Tensor:
    """phi's answers to the inputs of Q, with the softmax over the items of the inputs written out."""
    R = problem.reading.items
    assert R is not None
    weights = torch.softmax(Q[:, :L] @ problem.V[R].T, dim=-1)
    return phi(weights @ E[R])


def test_answers_over_other_embeddings_are_least_squares_over_v() -> None:
    rng = np.random.default_rng(0)
    V, E = rng.normal(size=(40, 6)), rng.normal(size=(40, 4))
    expected = np.linalg.lstsq(V, E, rcond=None)[0].T
    found = to_factor(torch.from_numpy(E), torch.from_numpy(V))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    same = torch.from_numpy(V)
    assert torch.equal(to_factor(same.clone(), same), torch.eye(6, dtype=same.dtype))


def test_a_step_moves_phi_and_the_targets_as_far_as_its_answers(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first AdamW step goes by the sign of the gradient of the KL at the targets of the drawn windows, which is
    computed here in plain PyTorch; the inputs of D~ stay."""
    problem = following(problem)
    state = Following.fresh(problem, own_start())
    start, drawn = state.synthetic().detach().clone(), list[Any]()
    original = type(problem.windows).take
    monkeypatch.setattr(type(problem.windows), "take", lambda w, i: drawn.append(i) or original(w, i))
    subsets = list[Tensor]()
    state.problem = problem = replace(problem, subset=lambda rng: subsets.append(torch.arange(1, 9)) or subsets[-1])
    state.reset(0)
    assert state.moving is not None
    student = state.moving.phi.clone()
    row = state.step(1)
    (index,), S = drawn, subsets[-1]  # the student drew some before
    windows = original(problem.windows, index)
    E, V, teacher = student.embed_all(), problem.V, problem.teacher.model
    losses = []
    for items, places in zip(windows.items, target_positions(windows), strict=True):
        read = torch.from_numpy(items[:-1]).clamp_min(0)[None]
        goal = torch.log_softmax(teacher(V[read])[0] @ V[S].T, -1).detach()
        own = torch.log_softmax(student(E[read])[0] @ E[S].T, -1)
        losses += [(goal[t].exp() * (goal[t] - own[t])).sum() for t in np.flatnonzero(places)]
    loss = torch.stack(losses).mean()
    assert row["outer_real"] == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    for p, before in zip(state.moving.phi.sequence.parameters(), student.sequence.parameters(), strict=True):
        clear = before.grad.abs() > 1e-6
        expected = before - problem.config.model_lr * before.grad.sign()
        torch.testing.assert_close(p[clear], expected[clear], rtol=0, atol=1e-2 * problem.config.model_lr)
    Q = state.synthetic().detach()
    moved = (_heard(state.moving.phi, problem, start, E) - _heard(student, problem, start, E)) @ to_factor(E, V)
    assert torch.equal(Q[:, :L], start[:, :L])
    torch.testing.assert_close(Q[:, L:], start[:, L:] + moved.detach(), rtol=1e-6, atol=1e-9)
    assert moved.abs().max() > 0 and row["moved"] == pytest.approx(float(moved.detach().norm() / start[:, L:].norm()))


def test_phi_becomes_a_student_of_the_present_set_every_tau_steps(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, sets = following(problem, steps=5, reset_every=2), list[Tensor]()
    original = module.fit_synthetic
    monkeypatch.setattr(module, "fit_synthetic", lambda phi, D, *a: sets.append(D.Q.clone()) or original(phi, D, *a))
    check, asked = told([0.1] * 4)
    out = follow(problem, own_start(), check)
    assert len(sets) == 3 and [row["step"] for row in out.log] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for made, validated in zip(sets, asked, strict=False):  # both every two steps
        assert torch.equal(made, validated)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(sets))
    assert [row["moved"] > 0 for row in out.log] == [True] * 5


def test_students_of_the_followed_set_answer_more_like_the_teacher(small_model: Callable[..., Any]) -> None:
    """On real windows, which no student reads: what the steps are for."""
    problem = following(
        make_problem(small_model, N, D, random_windows(200, N, L + 1), CONFIG, (6, 7)), steps=120, reset_every=30,
        check_every=120, model_lr=3e-3,
    )  # fmt: skip
    problem = replace(problem, student=StudentConfig(steps=60, lr=1e-2, items_per_step=6, average=5))
    asked = list[Tensor]()
    follow(problem, own_start(), lambda Q, step: asked.append(Q.clone()) or {"R@10": 0.0})
    read = torch.from_numpy(problem.windows.items[:, :-1]).clamp_min(0)
    V, teacher = problem.V, problem.teacher.model

    def distance(Q: Tensor) -> float:
        phi = problem.fresh(77)
        fit_synthetic(phi, SyntheticSet(Q, V, problem.subset, problem.reading), None, problem.student, 3)
        E = phi.embed_all()
        with torch.no_grad():
            goal, own = (torch.log_softmax(m(x[read]) @ x.T, -1) for m, x in ((teacher, V), (phi, E)))
        return float((goal.exp() * (goal - own)).sum(-1).mean())

    before, after = (distance(Q) for Q in asked)
    assert after < 0.8 * before


def test_the_settings_name_the_loop(problem: Problem) -> None:
    followed = following(problem)
    for outer, loop in (("follow", follow), ("bome", bome)):
        own = replace(followed, config=replace(followed.config, outer=outer))
        outs = [run(own, own_start(), told([0.1, 0.2, 0.3])[0]) for run in (distill, loop)]
        assert all(torch.equal(outs[0].factors[k], outs[1].factors[k]) for k in "UTG")


def test_what_algorithm_2_alone_reads_is_refused_beside_students() -> None:
    other = {"barrier": "loss", "outer_loss": "softmax", "dh_form": "raw", "reset": "never"}
    for name in BOME_ONLY:
        value = other.get(name) or 2 * getattr(DistillConfig(), name)
        settings = Settings(distill=DistillConfig(**{name: value}))
        with pytest.raises(FosterError) as error:
            adapt(settings, ())
        assert "--outer bome" in error.value.hint and name.replace("_", "-") in error.value.message.replace("_", "-")
        allowed = replace(settings, distill=replace(settings.distill, outer="bome"))
        assert adapt(allowed, ("outer",)) == allowed
    following_next = Settings(distill=DistillConfig(targets="next", init="rollout"))
    assert adapt(following_next, ("targets", "init")).distill.outer == "bome"
    with pytest.raises(FosterError, match="targets of its own"):
        adapt(following_next, ("targets", "outer"))


def test_lower_ranks_are_kept(problem: Problem) -> None:
    """The targets move as far as the ranks allow."""
    from foster_cli.synthetic.factors import from_tensor

    start = from_tensor(own_start()().detach(), 2, 3)[0]
    out = follow(following(problem, rank_user=2, rank_time=3), start, told([0.1, 0.2, 0.3])[0])
    assert out.factors["U"].shape == (M, 2) and out.factors["T"].shape == (2 * L, 3)
    assert all(row["rank_error"] >= 0 for row in out.log) and out.best_step == 4
