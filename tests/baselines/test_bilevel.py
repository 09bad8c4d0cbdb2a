"""The bi-level gradient through FOSTER's own inner steps: finite differences, the alignment loss, steps, a run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foster_cli.baselines import bilevel
from foster_cli.baselines.bilevel import bilevel_gradient, bilevel_step, distill_bilevel
from foster_cli.distill import algorithm2
from foster_cli.distill.algorithm1 import inner_loss
from foster_cli.distill.algorithm2 import Problem, State
from foster_cli.errors import FosterError, NotFinite
from foster_cli.runtime import adamw, generator
from foster_cli.synthetic.factors import from_tensor
from foster_cli.synthetic.reading import make_reading
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.micro import Gradient


def _q(problem: Problem, seed: int) -> Tensor:
    c, rng = problem.config, torch.Generator().manual_seed(seed)
    return torch.randn(c.budget, c.length, problem.V.shape[1], generator=rng, dtype=torch.float64)


def _foster(problem: Problem, own: bool, seed: int = 0, **changes: Any) -> tuple[Problem, State]:
    Q = torch.cat([_q(problem, 4), _q(problem, 5)], 1) if own else _q(problem, 4)
    config = replace(problem.config, items_per_step=6, inner_lr=0.01, real_batch=8, dh_items=4, **changes)
    subset = uniform_subset(len(problem.V), 6, torch.device("cpu"))
    problem = replace(problem, config=config, subset=subset, reading=make_reading(own, own, Q, problem.V))
    synthetic, _ = from_tensor(Q, None, None)
    phi = problem.fresh(3)
    return problem, State(
        phi, adamw(phi.parameters()), synthetic, adamw(synthetic.parameters(), lr=1e-3), generator(seed, "s"),
        np.random.default_rng(seed),
    )  # fmt: skip


@pytest.mark.parametrize("own", [False, True])
def test_bilevel_gradient_by_finite_differences(problem: Problem, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """FOSTER's own inner steps by torch's AdamW, its outer loss at the end, the draws of the same generators."""
    problem, state = _foster(problem, own, dh_weight=0.0)
    found, parts = bilevel_gradient(problem, state, 0, 3)
    names = [name for name, _ in state.synthetic.named_parameters()]
    losses: list[Gradient] = []  # without L_DH, L_out is its real part
    original = algorithm2.outer_real
    monkeypatch.setattr(algorithm2, "outer_real", lambda *a: losses.append(original(*a)) or losses[-1])

    def value(change: dict[str, Tensor]) -> float:
        _, state = _foster(problem, own)
        with torch.no_grad():
            for name, p in state.synthetic.named_parameters():
                p.add_(change.get(name, torch.zeros(())))
        Q = state.synthetic().detach()
        draws = [(problem.subset(state.rng), problem.reading.draw(len(Q), state.rng)) for _ in range(4)]
        optimizer = adamw(state.phi.parameters(), lr=0.01, weight_decay=problem.train.weight_decay)
        for S, mixing in draws[:-1]:
            optimizer.zero_grad()
            inner_loss(state.phi, Q, problem.V, S, problem.reading, mixing).backward()
            optimizer.step()
        bilevel.outer_loss(problem, state, Q, draws[-1][0])
        return float(losses[-1].value)

    assert value({}) == pytest.approx(float(parts["outer_real"] + parts["outer_feature"]), rel=1e-9)
    for i, name in enumerate(names):
        line = torch.randn(found[i].shape, generator=generator(i, "line"), dtype=torch.float64)
        slope = (value({name: 1e-7 * line}) - value({name: -1e-7 * line})) / 2e-7
        assert slope == pytest.approx((found[i] * line).sum().item(), rel=1e-3, abs=1e-9)


def test_bilevel_gradient_holds_that_of_the_alignment_loss(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_DH reads D~ itself: what it adds is its own gradient."""
    (plain, a), (aligned, b) = _foster(problem, False, dh_weight=0.0), _foster(problem, False, dh_weight=0.7)
    without, _ = bilevel_gradient(plain, a, 1, 2)
    seen: list[Tensor] = []
    original = algorithm2.alignment_loss

    def watched(teacher: Any, Q: Tensor, *rest: Any) -> Tensor:
        loss = original(teacher, Q, *rest)
        seen.append(torch.autograd.grad(loss, Q, retain_graph=True)[0])
        return loss

    monkeypatch.setattr(algorithm2, "alignment_loss", watched)
    with_it, _ = bilevel_gradient(aligned, b, 1, 2)
    factors = list(b.synthetic.parameters())
    added = torch.autograd.grad(b.synthetic(), factors, 0.7 * seen[0])
    assert added[2].abs().max() > 1e-6
    for x, y, z in zip(with_it, without, added, strict=True):
        torch.testing.assert_close(x - y, z, rtol=1e-9, atol=1e-11)


def test_bilevel_steps_move_the_synthetic_set_alone(problem: Problem) -> None:
    problem, state = _foster(problem, False, dh_weight=0.0)
    before = state.synthetic().detach()
    row = bilevel_step(problem, state, 0, 5, 2)
    anchor = state.phi.learnables()
    assert any(all(torch.equal(anchor[k], a[k]) for k in a) for a in problem.teacher.anchors)
    assert not torch.equal(before, state.synthetic().detach())
    assert 0 <= row["warm_up"] <= 3 and all(map(math.isfinite, row.values()))
    bilevel_step(problem, state, 1, 5, 2)
    assert all(torch.equal(anchor[k], v) for k, v in state.phi.learnables().items())
    with pytest.raises(FosterError, match="window"):
        bilevel_step(problem, state, 2, 2, 3)


def test_bilevel_run_ends_on_nan_or_after_its_steps(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, state = _foster(problem, True)
    out = distill_bilevel(problem, state.synthetic, lambda Q, step: {"R@10": 0.1, "N@10": 0.0}, 3, 2)
    assert len(out.log) == 3 and [c["step"] for c in out.checks] == [0.0, 2.0, 3.0]

    def broken(*_: Any) -> dict[str, float]:
        raise NotFinite("the inner loss became nan", "")

    monkeypatch.setattr(bilevel, "bilevel_step", broken)
    out = distill_bilevel(problem, state.synthetic, lambda Q, step: {"R@10": 0.1, "N@10": 0.0}, 3, 2)
    assert out.stopped is not None and out.log == []
