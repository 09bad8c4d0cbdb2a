"""The multiplier by hand, the direction, and a bilevel problem that it must solve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from foster_cli.distill import barrier
from foster_cli.distill.barrier import direction, norm

F = [torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])]
Q = [torch.tensor([[2.0, 1.0]]), torch.tensor([-2.0])]
# <F, Q> = 2 - 2 - 1 = -1, |Q|^2 = 4 + 1 + 4 = 9


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


def multiplier(f: Sequence[Tensor], q: Sequence[Tensor], eta: float, form: str, value: float, loss: float) -> float:
    wide = torch.tensor([value, loss], dtype=torch.float64)
    return float(barrier.multiplier(f, q, eta, form, wide[0], wide[1]))


def test_the_norm_is_over_all_tensors() -> None:
    assert float(norm(Q)) == 3.0
    assert float(norm([torch.full((3,), 1e30)])) == pytest.approx(3**0.5 * 1e30)  # no fp32 overflow


@pytest.mark.parametrize(
    ("eta", "form", "loss", "expected"),
    [
        (0.5, "gradient", 7.0, (0.5 * 9 + 1) / 9),
        (0.0, "gradient", 7.0, 1 / 9),
        (0.5, "loss", 7.0, (0.5 * 7 + 1) / 9),
        (0.0, "loss", 7.0, 1 / 9),
    ],
)
def test_multiplier_by_hand(eta: float, form: str, loss: float, expected: float) -> None:
    assert multiplier(F, Q, eta, form, 0.3, loss) == pytest.approx(expected, rel=1e-12)


def test_multiplier_is_zero_where_the_constraint_asks_for_nothing() -> None:
    aligned = [3.0 * x for x in Q]  # <grad f, grad q> = 27 > eta * 9: f alone lowers q fast enough
    assert multiplier(aligned, Q, 0.5, "gradient", 0.3, 1.0) == 0.0
    assert multiplier(aligned, Q, 0.5, "loss", 0.3, 1.0) == 0.0


@pytest.mark.parametrize("form", ["gradient", "loss"])
def test_multiplier_is_zero_below_zero_and_without_a_gradient(form: str) -> None:
    assert multiplier(F, Q, 0.5, form, -1e-9, 7.0) == 0.0
    assert multiplier(F, [torch.zeros_like(x) for x in Q], 0.5, form, 0.3, 7.0) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_direction_lowers_q_at_the_rate_of_the_barrier(seed: int) -> None:
    """<grad q, direction> >= phi_k, what Eq. 6 asks for, with equality where lambda > 0."""
    rng = torch.Generator().manual_seed(seed)
    f, q = ([torch.randn(3, 2, generator=rng), torch.randn(4, generator=rng)] for _ in range(2))
    lam = multiplier(f, q, 0.5, "gradient", 1.0, 1.0)
    step = direction(f, q, torch.tensor(lam))
    for x, y, s in zip(f, q, step, strict=True):
        np.testing.assert_allclose(s.numpy(), x.numpy() + lam * y.numpy(), rtol=1e-5, atol=1e-7)
    rate = dot(step, q)
    assert rate >= 0.5 * dot(q, q) - 1e-5
    if lam > 0:
        assert rate == pytest.approx(0.5 * dot(q, q), rel=1e-5)


@pytest.mark.parametrize("form", ["gradient", "loss"])
def test_a_toy_bilevel_problem_is_solved(form: str) -> None:
    """min over v of (v - 1)^2 + (w - 3)^2 where w minimises g = (w - 2v)^2: by hand, w = 2v and v = 7/5."""
    v, w = 0.0, -2.0
    for _ in range(4000):
        ahead = w
        for _ in range(10):  # T inner steps
            ahead -= 0.2 * 2 * (ahead - 2 * v)
        g = (w - 2 * v) ** 2
        q = g - (ahead - 2 * v) ** 2
        grad_q = torch.tensor([2 * (w - 2 * v), -4 * (w - 2 * v) + 4 * (ahead - 2 * v)], dtype=torch.float64)
        grad_f = torch.tensor([2 * (w - 3), 2 * (v - 1)], dtype=torch.float64)
        lam = multiplier([grad_f], [grad_q], 0.5, form, q, g)
        (step,) = direction([grad_f], [grad_q], torch.tensor(lam))
        w, v = w - 0.01 * float(step[0]), v - 0.01 * float(step[1])
    assert v == pytest.approx(1.4, abs=0.02)
    assert w == pytest.approx(2.8, abs=0.05)
    # without the constraint the answer is another one: w = 3, v = 1
