"""Algorithm 1: the inner loss by a hand-written loop, its steps, a student's training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from sequences import next_number_cases
from spying import spy

from foster_cli.data.windows import Cases
from foster_cli.distill import algorithm1
from foster_cli.distill.algorithm1 import fit_synthetic, inner_loss, inner_steps
from foster_cli.errors import NotFinite
from foster_cli.models.item_start import every_item, start_at
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import adamw, generator
from foster_cli.settings import ModelConfig, StudentConfig
from foster_cli.synthetic.reading import PAPER, Reading, SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train import best as best_module

CASES = next_number_cases(50, 12, 5)


def _q(M: int = 3, L: int = 5, d: int = 8, seed: int = 0, double: bool = True) -> torch.Tensor:
    Q = torch.randn(M, L, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Q if double else Q.float()


def _set(Q: torch.Tensor, V: torch.Tensor, size: int | None = 6, reading: Reading = PAPER) -> SyntheticSet:
    """As training reads it, with `size` items at each step."""
    return SyntheticSet(Q, V, uniform_subset(len(V), size, torch.device("cpu")), reading)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("S", [[0, 1, 2], [11, 4, 7, 2, 9], list(range(12))])
def test_inner_loss_by_hand(small_model: Callable[..., Any], S: list[int]) -> None:
    phi, Q = small_model(), _q()
    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    E = phi.embed_all()
    terms = []
    for m in range(3):
        P = [_softmax(np.array([float(Q[m, t] @ V[i]) for i in S])) for t in range(5)]
        x = torch.stack([torch.stack([P[t][k] * E[i] for k, i in enumerate(S)]).sum(0) for t in range(4)])
        with torch.no_grad():
            H = phi(x[None])[0]
        for t in range(4):
            predicted = _softmax(np.array([float(H[t] @ E[i]) for i in S]))
            terms.append(sum(p * math.log(p / y) for p, y in zip(P[t + 1], predicted, strict=True)))
    assert inner_loss(phi, Q, V, torch.tensor(S)).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_inner_loss_is_zero_for_the_models_own_predictions(small_model: Callable[..., Any]) -> None:
    phi = small_model()
    V = phi.embed_all()
    first = _q(L=1)
    with torch.no_grad():
        H = phi(torch.softmax(first @ V.T, -1) @ V)
    assert inner_loss(phi, torch.cat([first, H], 1), V, torch.arange(12)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("more", [{}, {"items": "both", "bias": True, "known": torch.arange(6) < 5}])
def test_inner_loss_gradient_agrees_with_finite_differences(
    small_model: Callable[..., Any], more: dict[str, Any]
) -> None:
    phi, Q = small_model(n=6, width=4, length=3, layers=1, **more), _q(2, 3, 4).requires_grad_()
    V, S = phi.embed_all(), torch.tensor([5, 0, 2])
    assert torch.autograd.gradcheck(lambda q: inner_loss(phi, q, V, S), (Q,))
    loss = inner_loss(phi, Q.detach(), V, S)
    weight = phi.sequence.blocks[0].up.weight
    (found,) = torch.autograd.grad(loss, [weight])
    with torch.no_grad():
        weight[1, 2] += 1e-6
        above = float(inner_loss(phi, Q, V, S))
        weight[1, 2] -= 2e-6
        below = float(inner_loss(phi, Q, V, S))
    assert float(found[1, 2]) == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-9)


def test_inner_steps_lower_the_loss_and_draw_from_their_generator(small_model: Callable[..., Any]) -> None:
    Q, V = _q(), small_model(seed=3).embed_all()
    everything = torch.arange(12)
    finals = []
    for seed in (1, 1, 2):
        phi = small_model()
        before = inner_loss(phi, Q, V, everything).item()
        optimizer = adamw(phi.groups(1e-3, 1e-3))
        inner_steps(phi, _set(Q, V), 30, optimizer, generator(seed, "x"))
        assert inner_loss(phi, Q, V, everything).item() < before
        finals.append(torch.cat([v.flatten() for v in phi.learnables().values()]))
    assert torch.equal(finals[0], finals[1]) and not torch.equal(finals[0], finals[2])


def test_one_inner_step_is_one_step_of_adamw(small_model: Callable[..., Any]) -> None:
    phi, Q = small_model(), _q()
    V = small_model(seed=3).embed_all()
    params = [p for p in phi.parameters() if p.requires_grad]
    loss = inner_loss(phi, Q, V, torch.arange(12))
    grads = torch.autograd.grad(loss, params)
    expected = [
        # the first step of AdamW by hand: decay, then rate times g / (|g| + eps)
        p.detach() * (1 - 1e-3 * 0.01) - 1e-3 * g / (g.abs() + 1e-8)
        for p, g in zip(params, grads, strict=True)
    ]
    optimizer = adamw(phi.groups(1e-3, 1e-3), weight_decay=0.01)
    value = inner_steps(phi, _set(Q, V, size=None), 1, optimizer, generator(0))
    assert value == pytest.approx(loss.item())
    for p, e in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-7, atol=1e-9)


def test_a_student_ends_in_its_best_state(small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Q, V = _q(double=False), small_model(seed=3, double=False).embed_all()
    told = iter([0.1, 0.2, 0.5, 0.4, 0.3])
    states = []

    def validate(model: Any, cases: Cases, measure: Any) -> dict[str, float]:
        states.append(model.learnables())
        return {"R@10": next(told), "N@10": 0.0}

    monkeypatch.setattr(best_module, "validate", validate)
    phi = small_model(double=False)
    config = StudentConfig(steps=1000, check_every=3, patience=2, lr=1e-3)
    fit = fit_synthetic(phi, _set(Q, V), CASES, config, 0)
    assert [row["at"] for row in fit.history] == [0, 3, 6, 9, 12]  # two without a better one end it
    assert (fit.best, fit.best_value) == (6, 0.5)
    assert all(torch.equal(v, states[2][k]) for k, v in phi.learnables().items())
    assert any(not torch.equal(v, states[4][k]) for k, v in phi.learnables().items())


@pytest.mark.parametrize("start", ["V", "text"])
def test_a_student_that_training_harms_stays_as_it_was(
    small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """As it was before the first step: with items that start at V, or at their texts as in a fresh recommender."""
    told = iter([0.5, 0.5, 0.4, 0.5])
    states = []

    def validate(model: Any, cases: Cases, measure: Any) -> dict[str, float]:
        states.append(model.learnables())
        return {"R@10": next(told), "N@10": 0.0}

    monkeypatch.setattr(best_module, "validate", validate)
    phi = small_model(double=False)
    before = phi.learnables()
    config = StudentConfig(steps=30, check_every=10, item_start=start)
    fit = fit_synthetic(phi, _set(_q(double=False), phi.embed_all()), CASES, config, 0)
    assert fit.best == 0 and len(states) == 4
    assert all(torch.equal(states[0][k], v) for k, v in phi.learnables().items())
    moved = {k for k, p in phi.named_parameters() if k in before and not torch.equal(before[k], p)}
    assert moved == ({"head.weight", "head.bias"} if start == "V" else set())


def test_a_student_repeats_with_its_seed(small_model: Callable[..., Any]) -> None:
    Q, V = _q(double=False), small_model(seed=3, double=False).embed_all()
    histories = []
    for seed in (0, 0, 1):
        phi = small_model(double=False)
        config = StudentConfig(steps=20, check_every=5, patience=9)
        histories.append(fit_synthetic(phi, _set(Q, V), CASES, config, seed).history)
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize(("steps", "every"), [(7, 3), (2, 5)])
def test_a_student_takes_all_its_steps(small_model: Callable[..., Any], steps: int, every: int) -> None:
    phi = small_model(double=False)
    config = StudentConfig(steps=steps, check_every=every, patience=99)
    fit = fit_synthetic(phi, _set(_q(double=False), phi.embed_all()), CASES, config, 0)
    assert fit.history[-1]["at"] == steps


@pytest.mark.parametrize("bad", ["rate", "nan"])
def test_nan_is_said(small_model: Callable[..., Any], bad: str) -> None:
    phi, Q = small_model(double=False), _q(double=False)
    V = phi.embed_all()
    if bad == "nan":
        Q[0, 0, 0] = math.nan
    config = StudentConfig(lr=1e30 if bad == "rate" else 1e-3, steps=50, check_every=50)
    with pytest.raises(NotFinite, match="lower learning rate"):
        fit_synthetic(phi, _set(Q, V), CASES, config, 0)


def test_inner_loss_with_own_goals_and_mixed_users_by_hand(small_model: Callable[..., Any]) -> None:
    phi, Q = small_model(), _q(L=6)
    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    E, R, S = phi.embed_all(), [1, 6, 10], [0, 3, 4, 9]
    mixing = np.array([[0.3, 0.7, 0.0], [0.0, 0.5, 0.5]])
    terms = []
    for w in mixing:
        x = torch.zeros(3, 8, dtype=torch.float64)
        for m in range(3):
            for t in range(3):
                P = _softmax(np.array([float(Q[m, t] @ V[i]) for i in R]))
                x[t] += w[m] * torch.stack([P[k] * E[i] for k, i in enumerate(R)]).sum(0)
        with torch.no_grad():
            H = phi(x[None])[0]
        for t in range(3):
            goal = sum(w[m] * Q[m, 3 + t] for m in range(3))
            target = _softmax(np.array([float(goal @ V[i]) for i in S]))
            predicted = _softmax(np.array([float(H[t] @ E[i]) for i in S]))
            terms.append(sum(p * math.log(p / y) for p, y in zip(target, predicted, strict=True)))
    reading = Reading(own=True, items=torch.tensor(R), mix=2)
    found = inner_loss(phi, Q, V, torch.tensor(S), reading, torch.from_numpy(mixing))
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_every_step_mixes_users_anew(small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    spy(monkeypatch, algorithm1, "inner_loss", lambda given: seen.append(given["mixing"]))
    phi, Q = small_model(), _q()
    optimizer = adamw(phi.groups(1e-3, 1e-3))
    V = phi.embed_all()
    inner_steps(phi, _set(Q, V, reading=Reading(mix=6)), 3, optimizer, generator(0))
    assert [w.shape for w in seen] == [(6, 3)] * 3 and not torch.equal(seen[0], seen[1])
    inner_steps(phi, _set(Q, V), 1, optimizer, generator(0))
    assert seen[3] is None


@pytest.mark.parametrize("dropout", [True, False])
def test_a_student_trains_with_dropout_if_it_is_told_to(small_model: Callable[..., Any], dropout: bool) -> None:
    phi, modes = small_model(double=False), []
    phi.sequence.register_forward_hook(lambda module, *_: modes.append(module.training))
    config = StudentConfig(steps=4, check_every=2, dropout=dropout)
    fit_synthetic(phi, _set(_q(double=False), phi.embed_all()), CASES, config, 0)
    assert modes and set(modes) == {dropout} and not phi.training


def _student(small_model: Callable[..., Any], items: str, width: int = 8) -> Recommender:
    if items == "id":
        return Recommender(12, ModelConfig(items="id", width=width, layers=1), 6, 0)
    return cast(Recommender, small_model(items=items, width=width, layers=1, double=False))


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("items", ["both", "id"])
def test_item_vectors_stay_at_v(small_model: Callable[..., Any], items: str, validated: bool) -> None:
    """Where there is one per item; the backbone learns, and the loss falls."""
    phi = _student(small_model, items)
    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    before = {name: p.detach().clone() for name, p in phi.named_parameters()}
    D, config = _set(_q(double=False), V), StudentConfig(steps=20, lr=1e-2, check_every=10, average=1)
    every_item(phi)
    start_at(phi, V)
    assert phi.table is not None
    start, loss = phi.table.weight.detach().clone(), inner_loss(phi, D.Q, V, torch.arange(12))
    fit_synthetic(phi, D, CASES if validated else None, config, 0)
    assert torch.equal(phi.table.weight, start)
    torch.testing.assert_close(phi.embed_all(), V, rtol=0, atol=1e-6)  # V - text + text
    assert items != "id" or torch.equal(phi.embed_all(), V)
    moved = {name for name, p in phi.named_parameters() if not torch.equal(p, before[name])}
    if not validated:  # else validation may have kept the first state
        assert {name for name in before if name.startswith("sequence.")} <= moved
        assert inner_loss(phi, D.Q, V, torch.arange(12)) < 0.9 * loss
    assert {name for name in moved if not name.startswith("sequence.")} <= {"table.weight"}


def test_texts_that_give_v_stay_at_v(small_model: Callable[..., Any]) -> None:
    """V of a recommender that knows items by texts: its students' backbone alone learns."""
    phi = _student(small_model, "text")
    with torch.no_grad():
        V = _student(small_model, "text").embed_all()
    fit_synthetic(phi, _set(_q(double=False), V), None, StudentConfig(steps=20, lr=1e-2, average=1), 0)
    torch.testing.assert_close(phi.embed_all(), V, rtol=0, atol=0.05)
    assert {name.split(".")[0] for name, p in phi.named_parameters() if p.requires_grad} == {"sequence"}


@pytest.mark.parametrize(("items", "width", "start"), [("text", 8, "V"), ("both", 6, "V"), ("both", 8, "text")])
def test_item_vectors_that_cannot_be_v_learn(
    small_model: Callable[..., Any], items: str, width: int, start: str
) -> None:
    """Texts alone, another width than V's, or a start at the texts."""
    phi = _student(small_model, items, width)
    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    every_item(phi)
    if start == "V":
        start_at(phi, V)
    before = phi.embed_all().detach().clone()
    config = StudentConfig(steps=20, lr=1e-2, average=1, item_start=start)
    fit_synthetic(phi, _set(_q(double=False), V), None, config, 0)
    assert (phi.embed_all() - before).abs().max() > 1e-2
