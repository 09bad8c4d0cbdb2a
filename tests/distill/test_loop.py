"""Algorithm 2: its gradients against a separate computation, resets, NaN, determinism, the best D~."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.config import DistillConfig, StudentConfig, TrainConfig
from foster_cli.data.windows import Cases, Windows
from foster_cli.distill import loop
from foster_cli.distill.inner import inner_loss, uniform_subset
from foster_cli.distill.loop import Problem, State, distill, fresh_check, outer_step
from foster_cli.distill.synthetic import from_tensor
from foster_cli.errors import NotFinite
from foster_cli.runtime import adamw, generator
from foster_cli.train.anchors import Teacher

N, D, M, L = 12, 8, 3, 5
FIELDS = {
    "step", "inner_before", "inner_after", "q", "q_sign", "lambda", "outer_real", "outer_feature", "outer_dh",
    "entropy", "gradient_phi", "gradient_synthetic", "seconds",
}  # fmt: skip
CONFIG = DistillConfig(
    budget=M, length=L, steps=4, items_per_step=6, inner_steps=2, real_batch=8, check_every=2, dh_items=4, reset_every=2
)


def _windows() -> Windows:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, L + 2, 30)
    return Windows(np.where(np.arange(L + 1) < lengths[:, None], rng.integers(0, N, (30, L + 1)), -1), lengths)


def _cases() -> Cases:
    rng = np.random.default_rng(1)
    history = rng.integers(0, N, (40, L))
    return Cases(history, np.full(40, L), (history[:, -1] + 1) % N, np.arange(40), np.arange(40))


@pytest.fixture
def problem(small_model: Callable[..., Any]) -> Problem:
    """In double, so that gradients can be compared; three anchors."""
    teacher = small_model(N, D, L, seed=5)
    anchors = [small_model(N, D, L, seed=s).learnables() for s in (6, 7)] + [teacher.learnables()]
    return Problem(
        Teacher(teacher, anchors, [], 0.0, 0.0, False), lambda seed: small_model(N, D, L, seed=seed % 1000),
        teacher.embed_all(), _windows(), uniform_subset(N, 6, torch.device("cpu")), CONFIG, TrainConfig(negatives=6), 0,
    )  # fmt: skip


def _state(problem: Problem, seed: int = 0, sgd: bool = False) -> State:
    Q = torch.randn(M, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    synthetic, _ = from_tensor(Q, 2, 3)
    phi = problem.fresh(1)
    optimizer = torch.optim.SGD(synthetic.parameters(), lr=1.0) if sgd else adamw(synthetic.parameters(), lr=1e-3)
    return State(phi, adamw(phi.parameters()), synthetic, optimizer, generator(seed, "t"), np.random.default_rng(seed))


def _with(problem: Problem, **changes: Any) -> Problem:
    return replace(problem, config=replace(problem.config, **changes))


def _watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a step hands to its parts: the models before and after the T inner steps, the items of q."""
    seen: dict[str, Any] = {"losses": []}
    steps, loss = loop.inner_steps, loop.inner_loss

    def inner_steps(phi: Any, Q: Any, *rest: Any) -> float:
        seen["Q_requires_grad"] = Q.requires_grad
        out = steps(phi, Q, *rest)
        for p in phi.parameters():
            p.grad = None  # from here on phi^T must collect none
        seen["ahead"] = phi
        return out

    def watched(phi: Any, Q: Any, V: Any, S: Any, *rest: Any) -> Any:
        seen["losses"].append(({k: v.detach().clone() for k, v in phi.named_parameters()}, S.clone()))
        return loss(phi, Q, V, S, *rest)

    monkeypatch.setattr(loop, "inner_steps", inner_steps)
    monkeypatch.setattr(loop, "inner_loss", watched)
    return seen


@pytest.mark.parametrize("barrier", ["gradient", "loss"])
def test_without_alpha_and_dh_the_synthetic_set_moves_along_lambda_grad_q(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, barrier: str
) -> None:
    problem = _with(problem, alpha=0.0, dh_weight=0.0, barrier=barrier, eta=2.0)
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
    recorded = []
    original = loop.gradient

    def gradient(loss: Any, over: Any) -> Any:
        out = original(loss, over)
        recorded.append(np.concatenate([g.detach().numpy().ravel() for g in out]))
        return out

    monkeypatch.setattr(loop, "gradient", gradient)
    problem = _with(problem, eta=0.7, barrier="gradient")
    state = _state(problem)
    phi = [p for p in state.phi.parameters() if p.requires_grad]
    row = outer_step(problem, state, 0)
    q, f = recorded
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


def test_the_outer_loss_by_hand(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    batch: dict[str, Any] = {}
    original = loop.real_batch

    def real_batch(*args: Any) -> Any:
        batch["is"] = original(*args)
        return batch["is"]

    monkeypatch.setattr(loop, "real_batch", real_batch)
    problem = _with(problem, alpha=0.3, dh_weight=0.0, outer_loss="bce")
    state = _state(problem)
    total, parts = loop.outer_loss(problem, state, state.synthetic(), torch.arange(6))
    real, phi, teacher = batch["is"], state.phi, problem.teacher.model
    terms, squares, drawn = [], [], iter(real.negatives.tolist())
    with torch.no_grad():
        E, E_real = phi.embed(real.unique), teacher.embed(real.unique)
        for b in range(len(real.inputs)):
            H, H_real = phi(E[real.inputs[b]][None])[0], teacher(E_real[real.inputs[b]][None])[0]
            for t in range(real.inputs.shape[1]):
                if real.valid[b, t]:
                    up, down = float(H[t] @ E[real.targets[b, t]]), float(H[t] @ E[next(drawn)])
                    terms.append(math.log1p(math.exp(-up)) + math.log1p(math.exp(down)))
                    squares.append(float(((H[t] - H_real[t]) ** 2).mean()))
    assert parts["outer_real"] == pytest.approx(np.mean(terms), rel=1e-9)
    assert parts["outer_feature"] == pytest.approx(np.mean(squares), rel=1e-9)
    assert total.item() == pytest.approx(np.mean(terms) + 0.3 * np.mean(squares), rel=1e-9)


def _resets(problem: Problem, monkeypatch: pytest.MonkeyPatch, steps: int = 6) -> list[tuple[int, dict[str, Any]]]:
    done = []
    original = loop.reset

    def reset(problem: Problem, state: State, step: int) -> None:
        optimizer = state.phi_optimizer
        original(problem, state, step)
        assert state.phi_optimizer is not optimizer and not state.phi_optimizer.state
        done.append((step, state.phi.learnables()))

    monkeypatch.setattr(loop, "reset", reset)
    state = _state(problem)
    for k in range(steps):
        outer_step(problem, state, k)
    return done


def _is(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_anchors_are_drawn_every_tau_steps(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _resets(problem, monkeypatch)
    assert [step for step, _ in done] == [0, 2, 4]
    assert all(any(_is(state, anchor) for anchor in problem.teacher.anchors) for _, state in done)


def test_every_anchor_is_drawn(problem: Problem) -> None:
    state, drawn = _state(problem), set()
    for k in range(60):
        loop.reset(problem, state, k)
        drawn |= {i for i, a in enumerate(problem.teacher.anchors) if _is(state.phi.learnables(), a)}
    assert drawn == {0, 1, 2}


def test_random_resets_are_fresh_models(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _resets(_with(problem, reset="random"), monkeypatch)
    assert [step for step, _ in done] == [0, 2, 4]
    assert not any(_is(state, anchor) for _, state in done for anchor in problem.teacher.anchors)
    assert not _is(done[1][1], done[2][1])


def test_never_resets_once(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [step for step, _ in _resets(_with(problem, reset="never"), monkeypatch)] == [0]


def _told(values: list[float]) -> tuple[Callable[[torch.Tensor], dict[str, float]], list[torch.Tensor]]:
    """A check that says `values` one after the other, and the Q it was asked about."""
    asked: list[torch.Tensor] = []

    def check(Q: torch.Tensor) -> dict[str, float]:
        asked.append(Q.clone())
        return {"R@10": values[len(asked) - 1]}

    return check, asked


def _q(factors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.einsum("ma,tb,abd->mtd", factors["U"], factors["T"], factors["G"])


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.3, 0.2], 1), ([0.3, 0.3, 0.2], 0), ([0.1, 0.2, 0.3], 2)])
def test_the_best_validated_set_is_kept(problem: Problem, values: list[float], best: int) -> None:
    check, asked = _told(values)
    out = distill(problem, _state(problem).synthetic, check)
    assert out.best_step == (0, 2, 4)[best]
    torch.testing.assert_close(_q(out.factors), asked[best])
    assert [row["step"] for row in out.checks] == [0.0, 2.0, 4.0]
    assert [row["step"] for row in out.log] == [1.0, 2.0, 3.0, 4.0] and out.stopped is None
    assert not torch.equal(asked[0], asked[2])


def test_the_last_step_is_always_validated(problem: Problem) -> None:
    check, _ = _told([0.1, 0.2, 0.3])
    out = distill(_with(problem, steps=3), _state(problem).synthetic, check)
    assert [row["step"] for row in out.checks] == [0.0, 2.0, 3.0] and out.best_step == 3


def test_no_outer_step_gives_the_start(problem: Problem) -> None:
    synthetic = _state(problem).synthetic
    start = synthetic.factors()
    out = distill(_with(problem, steps=0), synthetic, _told([0.1])[0])
    assert out.log == [] and out.best_step == 0 and len(out.checks) == 1
    assert all(torch.equal(out.factors[k], v) for k, v in start.items())


def test_the_same_seed_gives_the_same_set(problem: Problem) -> None:
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(outs))  # the global generators have no say
        np.random.seed(len(outs))
        start = _state(problem).synthetic
        outs.append(distill(replace(problem, seed=seed), start, _told([0.1, 0.2, 0.3])[0]))
    for k in "UTG":
        assert torch.equal(outs[0].factors[k], outs[1].factors[k])
    assert any(not torch.equal(outs[0].factors[k], outs[2].factors[k]) for k in "UTG")
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in out.log] for out in outs]
    assert rows[0] == rows[1] != rows[2]


def test_the_first_steps_do_not_depend_on_how_many_follow(problem: Problem) -> None:
    short = distill(_with(problem, steps=2), _state(problem).synthetic, _told([0.1, 0.2])[0])
    long = distill(problem, _state(problem).synthetic, _told([0.1, 0.2, 0.15])[0])
    assert (short.best_step, long.best_step) == (2, 2)
    assert all(torch.equal(short.factors[k], long.factors[k]) for k in "UTG")


@pytest.mark.parametrize("where", ["row", "factors", "inner"])
def test_nan_stops_with_the_last_good_set(problem: Problem, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    original = loop.outer_step

    def step(problem: Problem, state: State, k: int) -> dict[str, float]:
        if k == 3 and where == "inner":
            with torch.no_grad():
                state.synthetic.G[0, 0, 0] = math.nan  # the inner loss meets it
        row = original(problem, state, k)
        if k == 3 and where == "row":
            row["outer_real"] = math.inf
        if k == 3 and where == "factors":
            with torch.no_grad():
                state.synthetic.U[0, 0] = math.nan
        return row

    monkeypatch.setattr(loop, "outer_step", step)
    check, asked = _told([0.1, 0.2])
    out = distill(problem, _state(problem).synthetic, check)
    assert out.stopped is not None and out.stopped.startswith("step 4:")
    assert len(out.log) == 3 and out.best_step == 2
    assert all(torch.isfinite(v).all() for v in out.factors.values())
    torch.testing.assert_close(_q(out.factors), asked[1])


def test_a_fresh_model_that_diverges_on_the_set_does_not_lose_the_best(problem: Problem) -> None:
    def check(Q: torch.Tensor) -> dict[str, float]:
        calls.append(Q)
        if len(calls) == 2:
            raise NotFinite("the inner loss became nan")
        return {"R@10": 0.1}

    calls: list[torch.Tensor] = []
    out = distill(problem, _state(problem).synthetic, check)
    assert out.stopped is not None and out.best_step == 0


def test_fresh_check_uses_the_same_seeds_every_time(small_model: Callable[..., Any]) -> None:
    seeds: list[int] = []

    def fresh(seed: int) -> Any:
        seeds.append(seed)
        return small_model(N, D, L, seed=seed % 1000, double=False)

    V = small_model(N, D, L, seed=5, double=False).embed_all()
    student = StudentConfig(steps=4, check_every=2)
    subset = uniform_subset(N, 6, torch.device("cpu"))
    check = fresh_check(fresh, V, subset, _cases(), student, 3, 2, loop.SILENT)
    Q = torch.randn(M, L, D, generator=torch.Generator().manual_seed(0))
    first, second = check(Q), check(Q)
    assert first == second and set(first) == {"R@10", "N@10", "sd", "student_steps"}
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]
