"""The differentiable inner optimisation, against torch's optimizers, naive unrolling and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spying import spy
from torch import Tensor
from torch.nn import functional as F

from foster_cli import ops
from foster_cli.baselines import bptt
from foster_cli.baselines.bptt import (
    Adam,
    AutogradInner,
    Data,
    Functional,
    draw_warm_up,
    joined,
    plain_steps,
    rat_bptt,
    reverse,
    unroll,
)
from foster_cli.errors import FosterError
from foster_cli.ops import reference
from foster_cli.runtime import generator

N, D, L, M = 7, 4, 6, 3


@pytest.fixture
def model(small_model: Callable[..., Any]) -> Any:
    return small_model(N, D, L, seed=3)


def _q(seed: int = 0) -> Tensor:
    return torch.randn(M, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _loss(recommender: Any, Q: Tensor, step: int) -> Tensor:
    """Some smooth loss with attention that differs from step to step."""
    E = recommender.embed(torch.arange(N))
    H = recommender(torch.softmax(Q[:, :-1], -1) * (1.0 + 0.1 * step))
    goal = torch.softmax(F.pad(Q[:, 1:], (0, N - D)), -1)
    return -(goal * torch.log_softmax(H @ E.T, -1)).sum(-1).mean()


class Given(AutogradInner):
    """A function as the loss."""

    def __init__(self, functional: Functional, data: list[Data], given: Callable[[Any, int], Tensor]) -> None:
        super().__init__(functional, data)
        self.given = given

    def loss(self, model: Any, step: int) -> Tensor:
        return self.given(model, step)


def _inner(model: Any, Q: Tensor) -> tuple[AutogradInner, Data, Functional]:
    functional, data = Functional(model), Data(Q)
    return Given(functional, [data], lambda m, step: _loss(m, data.value, step)), data, functional


def _target(weights: Tensor) -> Tensor:
    """A quadratic outer loss."""
    return (weights * torch.linspace(-1, 1, len(weights), dtype=weights.dtype)).sum() + weights.square().sum() / 2


def _outer(weights: Tensor) -> Tensor:
    leaf = weights.detach().requires_grad_()
    return torch.autograd.grad(_target(leaf), leaf)[0]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adam_is_torchs(decoupled: bool, decay: float) -> None:
    p = torch.nn.Parameter(torch.randn(9, generator=generator(0, "w"), dtype=torch.float64))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = kind([p], lr=0.02, weight_decay=decay, betas=(0.8, 0.95), eps=1e-6)
    ours = Adam(0.02, decay, (0.8, 0.95), 1e-6, decoupled)
    state = ours.start(p.detach().clone())
    for i in range(12):
        g = torch.randn(9, generator=generator(i, "g"), dtype=torch.float64)
        p.grad = g.clone()
        theirs.step()
        before = [x.clone() for x in state[:3]]
        new = ours.step(state, g)
        assert all(torch.equal(x, y) for x, y in zip(before, state[:3], strict=True))  # the old state stays
        state = new
        torch.testing.assert_close(state.weights, p.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adjoint_of_adam_is_autograds(decoupled: bool) -> None:
    """One step from a state that has seen steps; cotangents to all that comes in."""
    rng = generator(1, "adjoint")
    w, m, g = (torch.randn(8, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(3))
    v = torch.rand(8, generator=rng, dtype=torch.float64).requires_grad_()
    adam = Adam(0.03, 0.1, decoupled=decoupled)
    b1, b2 = adam.betas
    decayed = g if decoupled else g + 0.1 * w
    m1, v1 = b1 * m + (1 - b1) * decayed, b2 * v + (1 - b2) * decayed**2
    shrunk = w * (1 - 0.03 * 0.1) if decoupled else w
    w1 = shrunk - 0.03 / (1 - b1**5) * m1 / (v1.sqrt() / (1 - b2**5) ** 0.5 + adam.eps)
    cot = [torch.randn(8, generator=rng, dtype=torch.float64) for _ in range(3)]
    expected = torch.autograd.grad([w1, m1, v1], [g, w, m, v], cot)
    before = bptt.AdamState(w.detach(), m.detach(), v.detach(), 4)
    after = adam.step(before, g.detach())
    to_g, rest = adam.adjoint(before, after, g.detach(), (cot[0], cot[1], cot[2]))
    for ours, theirs in zip((to_g, *rest), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_a_zero_gradient_gives_no_nan() -> None:
    adam, zero, one = Adam(0.01), torch.zeros(3), torch.ones(3)
    before = adam.start(one)
    after = adam.step(before, zero)
    assert torch.equal(after.weights, one)
    to_g, rest = adam.adjoint(before, after, zero, (one, zero, one))
    assert all(bool(torch.isfinite(x).all()) for x in (to_g, *rest))
    # the step is -lr g / (|g| + eps) there
    torch.testing.assert_close(to_g, torch.full((3,), -0.01 / 1e-8), rtol=1e-5, atol=0.0)


def _naive(model: Any, Q: Tensor, adam: Adam, warm_up: int, window: int) -> tuple[Tensor, Tensor]:
    """dL_out/dQ by one graph through the whole window, and the last weights; Adam written out again."""
    inner, _, functional = _inner(model, Q)
    state = plain_steps(inner, adam, adam.start(functional.flat()), 0, warm_up)
    leaf = Q.clone().requires_grad_()
    w, m, v = state.weights.clone().requires_grad_(), state.m, state.v
    for i in range(warm_up, warm_up + window):
        value = functional(functional.split(w), lambda x, i=i: _loss(x, leaf, i))
        g = torch.autograd.grad(value, w, create_graph=True)[0] + adam.weight_decay * w
        m, v = adam.betas[0] * m + (1 - adam.betas[0]) * g, adam.betas[1] * v + (1 - adam.betas[1]) * g * g
        t = i + 1
        root = torch.where(v > 0, v, torch.ones_like(v)).sqrt() * (v > 0)
        w = w - adam.lr / (1 - adam.betas[0] ** t) * m / (root / (1 - adam.betas[1] ** t) ** 0.5 + adam.eps)
    return torch.autograd.grad(_target(w), leaf)[0], w.detach()


@pytest.mark.parametrize(("warm_up", "window"), [(0, 1), (0, 7), (4, 5)])
def test_hypergradient_is_that_of_a_naive_unroll(model: Any, warm_up: int, window: int) -> None:
    Q, adam = _q(), Adam(0.01, 5e-4, eps=1e-4)
    expected, last = _naive(model, Q, adam, warm_up, window)
    inner, data, functional = _inner(model, Q)
    end = rat_bptt(inner, adam, functional.flat(), warm_up, window, _outer)
    torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-12)
    assert expected.abs().max() > 1e-4  # else this test says nothing
    torch.testing.assert_close(data.gradient, expected, rtol=1e-9, atol=1e-10)


def test_hypergradient_by_finite_differences(model: Any) -> None:
    """Without warm-up, where the truncated gradient is the whole one; a central difference along random lines."""
    Q, adam, window = _q(1), Adam(0.01, 5e-4, eps=1e-4), 6
    inner, data, functional = _inner(model, Q)
    start = functional.flat()
    rat_bptt(inner, adam, start, 0, window, _outer)

    def value(at: Tensor) -> float:
        return _target(plain_steps(_inner(model, at)[0], adam, adam.start(start), 0, window).weights).item()

    for seed in range(4):
        line = _q(100 + seed)
        slope = (value(Q + 1e-7 * line) - value(Q - 1e-7 * line)) / 2e-7
        assert slope == pytest.approx((data.gradient * line).sum().item(), rel=1e-5)


def test_the_cotangent_of_the_first_weights_by_finite_differences(model: Any) -> None:
    adam = Adam(0.01, 5e-4, eps=1e-4)
    inner, _, functional = _inner(model, _q(2))
    start = functional.flat()
    found = reverse(inner, adam, *(lambda t: (t, _outer(t.end.weights)))(unroll(inner, adam, adam.start(start), 0, 4)))

    def value(at: Tensor) -> float:
        return _target(plain_steps(inner, adam, adam.start(at), 0, 4).weights).item()

    line = torch.randn(len(start), generator=generator(0, "line"), dtype=torch.float64)
    slope = (value(start + 1e-7 * line) - value(start - 1e-7 * line)) / 2e-7
    assert slope == pytest.approx((found * line).sum().item(), rel=1e-5)


def test_blocks_and_recomputation_change_nothing(model: Any) -> None:
    """One block without recomputation keeps everything; any other way gives the same bits."""
    adam, results = Adam(0.01, 5e-4), []
    for recompute in (False, True):
        for block in (1, 2, 3, 7, None):
            inner, data, functional = _inner(model, _q(3))
            tape = unroll(inner, adam, adam.start(functional.flat()), 2, 7, recompute, block)
            assert (tape.gradients is None) is recompute
            to_start = reverse(inner, adam, tape, _outer(tape.end.weights))
            results.append((tape.end.weights, to_start, data.gradient))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_large_windows_are_recomputed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    spy(monkeypatch, bptt, "unroll", lambda given: asked.append(given["recompute"]))
    for limit in (1 << 30, 10):
        monkeypatch.setattr(bptt, "KEPT_BYTES", limit)
        inner, _, functional = _inner(model, _q())
        rat_bptt(inner, Adam(0.01), functional.flat(), 0, 2, _outer)
    assert asked == [False, True]


def test_warm_up_is_uniform_over_its_range() -> None:
    rng = generator(0, "warm")
    drawn = [draw_warm_up(9, 4, rng) for _ in range(600)]
    assert set(drawn) == set(range(6))
    assert min(drawn.count(x) for x in range(6)) > 60
    assert {draw_warm_up(4, 4, rng) for _ in range(5)} == {0}
    for steps, window in ((4, 5), (4, 0)):
        with pytest.raises(FosterError, match="window"):
            draw_warm_up(steps, window, rng)


def test_weights_go_into_one_vector_and_back(model: Any) -> None:
    functional = Functional(model)
    flat = functional.flat()
    assert flat.numel() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    functional.set(flat + 1.0)
    assert torch.equal(functional.flat(), flat + 1.0)
    parts: list[Tensor | None] = [None] * len(functional.parameters)
    assert not joined(parts, functional.parameters).any()
    position = next(i for i, p in enumerate(functional.parameters) if p is model.sequence.position)
    parts[position] = torch.ones_like(model.sequence.position)
    one = joined(parts, functional.parameters)
    assert one.sum() == model.sequence.position.numel() and functional.split(one)[position].all()


def test_nothing_that_learns_is_refused(model: Any) -> None:
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(FosterError, match="learns"):
        Functional(model)


def test_a_loss_without_curvature_has_no_pullback(model: Any) -> None:
    functional = Functional(model)
    inner = Given(functional, [], lambda m, step: m.sequence.position.sum())
    flat = functional.flat()
    assert not inner.pullback(flat, 0, torch.ones_like(flat)).any()
    assert inner.value(flat, 0) == pytest.approx(model.sequence.position.sum().item())


def test_second_derivatives_of_the_ops_where_one_input_depends_on_another() -> None:
    """As in FOSTER's inner loss, where H is made from E: each gradient once, not again through the other input."""

    def derivatives(embed: Callable[..., Tensor], kl: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        rng = generator(0, "ops")
        Q, V, E, W, C = (
            torch.randn(s, generator=rng, dtype=torch.float64) for s in ((2, 5, D), (N, D), (N, D), (D, D), (N, D))
        )
        Q, E, W = (x.requires_grad_() for x in (Q, E, W))
        loss = kl(Q[:, 1:], V, torch.tanh(embed(Q[:, :-1], V, E) @ W), E).mean()
        g = torch.autograd.grad(loss, [E, W], create_graph=True)
        return (*g, *torch.autograd.grad((g[0] * C).sum() + g[1].square().sum(), [Q, E, W]))

    ours = derivatives(ops.soft_embed, ops.soft_kl)
    for x, y in zip(ours, derivatives(reference.soft_embed, reference.soft_kl), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
