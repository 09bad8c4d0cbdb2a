"""Algorithm 2: its gradients against a separate computation, its resets, the row of the log."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from problems import make_problem
from spying import spy
from tiny_problem import D, L, M, N, changed, fresh_start, same

from foster_cli.distill import algorithm2
from foster_cli.distill.algorithm1 import inner_loss
from foster_cli.distill.algorithm2 import OuterLoss, Problem, State, outer_step
from foster_cli.runtime import adamw, generator
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import uniform_subset

FIELDS = {
    "step", "inner_before", "inner_after", "q", "q_sign", "lambda", "outer_real", "outer_feature", "outer_dh",
    "entropy", "gradient_phi", "gradient_synthetic", "seconds",
}  # fmt: skip


def _state(problem: Problem, seed: int = 0, sgd: bool = False) -> State:
    synthetic, phi = fresh_start(seed), problem.fresh(1)
    optimizer = torch.optim.SGD(synthetic.parameters(), lr=1.0) if sgd else adamw(synthetic.parameters(), lr=1e-3)
    return State(phi, adamw(phi.parameters()), synthetic, optimizer, generator(seed, "t"), np.random.default_rng(seed))


def _watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a step hands to its parts: the models before and after the T inner steps, the items of q."""
    seen: dict[str, Any] = {"losses": []}
    steps = algorithm2.inner_steps

    def inner_steps(phi: Any, D: SyntheticSet, *rest: Any) -> float:
        seen["Q_requires_grad"] = D.Q.requires_grad
        out = steps(phi, D, *rest)
        for p in phi.parameters():
            p.grad = None  # from here on phi^T must collect none
        seen["ahead"] = phi
        return out

    def saw(given: dict[str, Any]) -> None:
        weights = {k: v.detach().clone() for k, v in given["phi"].named_parameters()}
        seen["losses"].append((weights, given["S"].clone()))

    monkeypatch.setattr(algorithm2, "inner_steps", inner_steps)
    spy(monkeypatch, algorithm2, "inner_loss", saw)
    return seen


@pytest.mark.parametrize("barrier", ["gradient", "loss"])
def test_without_alpha_and_dh_the_synthetic_set_moves_along_lambda_grad_q(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, barrier: str
) -> None:
    problem = changed(problem, alpha=0.0, dh_weight=0.0, barrier=barrier, eta=2.0)
    state, seen = _state(problem, sgd=True), _watch(monkeypatch)
    factors = {k: v.clone() for k, v in state.synthetic.factors().items()}
    row = outer_step(problem, state, 0)
    (before, S), (after, S_too) = seen["losses"]
    assert torch.equal(S, S_too) and len(S) == 6  # q compares both on the same items
    assert seen["Q_requires_grad"] is False  # nothing is differentiated through the T steps
    assert all(p.grad is None for p in seen["ahead"].parameters())
    assert any(not torch.equal(before[k], after[k]) for k in before)

    def q_of(U: torch.Tensor, T: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        Q = torch.einsum("ma,tb,abd->mtd", U, T, G)
        phi, phi_t = problem.fresh(1), problem.fresh(2)
        phi.restore(before), phi_t.restore(after)
        return inner_loss(phi, Q, problem.V, S) - inner_loss(phi_t, Q, problem.V, S)

    leaves = [factors[k].requires_grad_() for k in ("U", "T", "G")]
    q = q_of(*leaves)
    assert row["q"] == pytest.approx(q.item(), rel=1e-9)
    assert row["q"] == pytest.approx(row["inner_before"] - row["inner_after"], rel=1e-12)
    assert row["q"] > 0 and row["lambda"] > 0  # else this test says nothing
    for name, leaf, g in zip("UTG", leaves, torch.autograd.grad(q, leaves), strict=True):
        moved = leaf.detach() - dict(state.synthetic.named_parameters())[name].detach()
        torch.testing.assert_close(moved, row["lambda"] * g, rtol=1e-6, atol=1e-10)
    assert row["outer_feature"] == row["outer_dh"] == 0.0


def test_lambda_is_that_of_the_joint_gradients(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the recorded gradients of f and q over (phi, D~), in numpy."""
    recorded: list[list[torch.Tensor]] = []
    gradient, outer_loss = algorithm2.gradient, algorithm2.outer_loss

    def recorded_gradient(*given: Any) -> Any:
        recorded.append(gradient(*given))
        return recorded[-1]

    def recorded_loss(*given: Any) -> OuterLoss:
        found = outer_loss(*given)
        recorded.append(found.to_phi)
        return found

    monkeypatch.setattr(algorithm2, "gradient", recorded_gradient)
    monkeypatch.setattr(algorithm2, "outer_loss", recorded_loss)
    problem = changed(problem, eta=0.7, barrier="gradient")
    state = _state(problem)
    phi = [p for p in state.phi.parameters() if p.requires_grad]
    row = outer_step(problem, state, 0)
    of_q, f_to_phi, f_to_factors = recorded
    q, f = (np.concatenate([g.numpy().ravel() for g in part]) for part in (of_q, f_to_phi + f_to_factors))
    size = sum(p.numel() for p in phi) + sum(p.numel() for p in state.synthetic.parameters())
    assert len(q) == len(f) == size
    expected = max(0.0, (0.7 * (q @ q) - f @ q) / (q @ q)) if row["q"] >= 0 else 0.0
    assert row["lambda"] == pytest.approx(expected, rel=1e-9)
    step = f + row["lambda"] * q
    own = sum(p.numel() for p in phi)
    assert row["gradient_phi"] == pytest.approx(np.linalg.norm(step[:own]), rel=1e-9)
    assert row["gradient_synthetic"] == pytest.approx(np.linalg.norm(step[own:]), rel=1e-9)
    applied = np.concatenate([p.grad.numpy().ravel() for p in [*phi, *state.synthetic.parameters()]])
    np.testing.assert_allclose(applied, step, rtol=1e-9, atol=1e-12)


def test_the_row_of_the_log_is_complete(problem: Problem) -> None:
    state = _state(problem)
    Q = state.synthetic().detach()
    row = outer_step(problem, state, 3)
    assert set(row) == FIELDS
    assert all(isinstance(v, float) and math.isfinite(v) for v in row.values())
    assert row["step"] == 4.0 and row["q_sign"] == np.sign(row["q"])
    assert 0.0 < row["entropy"] <= math.log(6)
    assert row["outer_feature"] > 0 and row["outer_dh"] > 0
    assert not torch.equal(Q, state.synthetic().detach())


def test_entropy_is_in_nats_over_the_subset(problem: Problem) -> None:
    problem = replace(problem, subset=uniform_subset(N, None, torch.device("cpu")))
    state = _state(problem)
    P = torch.softmax(state.synthetic().detach() @ problem.V.T, -1).numpy()
    expected = np.mean([-sum(p * math.log(p) for p in P[m, t]) for m in range(M) for t in range(L)])
    assert outer_step(problem, state, 0)["entropy"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("more", [{}, {"items": "both", "bias": True, "known": torch.arange(N) % 5 > 0}])
def test_the_outer_loss_by_hand(
    problem: Problem, small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    problem = make_problem(small_model, N, D, problem.windows, problem.config, (6, 7, 5), **more)
    batch: dict[str, Any] = {}
    original = algorithm2.real_batch

    def real_batch(*args: Any) -> Any:
        batch["is"] = original(*args)
        return batch["is"]

    monkeypatch.setattr(algorithm2, "real_batch", real_batch)
    problem = changed(problem, alpha=0.3, dh_weight=0.0, outer_loss="bce")
    state = _state(problem)
    found = algorithm2.outer_loss(problem, state, state.synthetic(), torch.arange(6))
    real, phi, teacher = batch["is"], state.phi, problem.teacher.model
    assert not more or not set(real.unique[real.negatives].tolist()) & {0, 5, 10}  # they are not in training
    terms, squares, drawn = [], [], iter(real.negatives.tolist())
    E, E_real = phi.embed(real.unique), teacher.embed(real.unique).detach()
    for b in range(len(real.inputs)):
        H, H_real = phi(E[real.inputs[b]][None])[0], teacher(E_real[real.inputs[b]][None])[0].detach()
        for t in range(real.inputs.shape[1]):
            if real.valid[b, t]:
                up, down = H[t] @ E[real.targets[b, t]], H[t] @ E[next(drawn)]
                terms.append(torch.log1p(torch.exp(-up)) + torch.log1p(torch.exp(down)))
                squares.append(((H[t] - H_real[t]) ** 2).mean())
    base, feature = torch.stack(terms).mean(), torch.stack(squares).mean()
    assert found.parts["outer_real"] == pytest.approx(base.item(), rel=1e-9)
    assert found.parts["outer_feature"] == pytest.approx(feature.item(), rel=1e-9)
    expected = torch.autograd.grad(base + 0.3 * feature, [p for p in phi.parameters() if p.requires_grad])
    for g, e in zip(found.to_phi, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)
    assert found.to_Q is None


def _resets(problem: Problem, monkeypatch: pytest.MonkeyPatch, steps: int = 6) -> list[tuple[int, dict[str, Any]]]:
    done = []
    original = algorithm2.reset

    def reset(problem: Problem, state: State, step: int) -> None:
        optimizer = state.phi_optimizer
        original(problem, state, step)
        assert state.phi_optimizer is not optimizer and not state.phi_optimizer.state
        done.append((step, state.phi.learnables()))

    monkeypatch.setattr(algorithm2, "reset", reset)
    state = _state(problem)
    for k in range(steps):
        outer_step(problem, state, k)
    return done


def test_anchors_are_drawn_every_tau_steps(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _resets(problem, monkeypatch)
    assert [step for step, _ in done] == [0, 2, 4]
    assert all(any(same(state, anchor) for anchor in problem.teacher.anchors) for _, state in done)


def test_every_anchor_is_drawn(problem: Problem) -> None:
    state, drawn = _state(problem), set()
    for k in range(60):
        algorithm2.reset(problem, state, k)
        drawn |= {i for i, a in enumerate(problem.teacher.anchors) if same(state.phi.learnables(), a)}
    assert drawn == {0, 1, 2}


def test_random_resets_are_fresh_models(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _resets(changed(problem, reset="random"), monkeypatch)
    assert [step for step, _ in done] == [0, 2, 4]
    assert not any(same(state, anchor) for _, state in done for anchor in problem.teacher.anchors)
    assert not same(done[1][1], done[2][1])


def test_never_resets_once(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [step for step, _ in _resets(changed(problem, reset="never"), monkeypatch)] == [0]
