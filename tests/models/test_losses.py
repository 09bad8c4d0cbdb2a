"""The losses on real data against loops in numpy float64."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from foster_cli.models.losses import bce, candidate_softmax
from foster_cli.ops import reference

RNG = np.random.default_rng(3)
H, POSITIVE, NEGATIVE = (RNG.normal(size=(6, 4)) for _ in range(3))


def _t(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)


def _plain(
    h: np.ndarray, e: np.ndarray, goal: np.ndarray, inclusion: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss and its gradients to h and e, one row and one candidate after the other."""
    total, dh, de = 0.0, np.zeros_like(h), np.zeros_like(e)
    for p, y in enumerate(goal):
        term = [math.exp(h[p] @ e[c]) / (1.0 if inclusion is None or c == y else inclusion[c]) for c in range(len(e))]
        total -= math.log(term[y] / sum(term))
        for c in range(len(e)):
            slope = (term[c] / sum(term) - (c == y)) / len(h)
            dh[p] += slope * e[c]
            de[c] += slope * h[p]
    return total / len(h), dh, de


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("ops", ["auto", "reference"])
@pytest.mark.parametrize(("rows", "items"), [(1, 1), (1, 9), (5, 1), (6, 9), (16, 3), (17, 3), (40, 31)])
def test_softmax_over_candidates_and_its_gradients(
    rows: int, items: int, ops: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has at least 16 rows: 17 and 40 rows need more than one. Candidates may be the target of many rows."""
    monkeypatch.setenv("FOSTER_OPS", ops)
    monkeypatch.setitem(reference.CE_BLOCK, "cpu", 1)
    rng = np.random.default_rng(rows * items)
    h, e, goal = rng.normal(size=(rows, 4)), rng.normal(size=(items, 4)), rng.integers(0, items, rows)
    inclusion = rng.uniform(0.05, 1.0, items) if sampled else None
    value, dh, de = _plain(h, e, goal, inclusion)
    a, b = _t(h).clone().requires_grad_(), _t(e).clone().requires_grad_()
    found = candidate_softmax(a, b, _t(goal), None if inclusion is None else _t(inclusion))
    assert float(found) == pytest.approx(value, rel=1e-12, abs=1e-14)
    (3.0 * found).backward()
    assert a.grad is not None and b.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), 3.0 * dh, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(b.grad.numpy(), 3.0 * de, rtol=1e-10, atol=1e-13)


def test_the_size_of_a_block_changes_the_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOSTER_OPS", "reference")
    h, e, goal = torch.randn(200, 8), torch.randn(50, 8), torch.randint(0, 50, (200,))
    found = []
    for block in (1, 50 * 33, 1 << 20):
        monkeypatch.setitem(reference.CE_BLOCK, "cpu", block)
        a, b = h.clone().requires_grad_(), e.clone().requires_grad_()
        loss = candidate_softmax(a, b, goal)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, b))))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    e, goal = RNG.normal(size=(5, 4)), torch.tensor([0, 4, 4, 1, 2, 0])
    h, p, n, c = (_t(x).clone().requires_grad_() for x in (H, POSITIVE, NEGATIVE, e))
    assert torch.autograd.gradcheck(bce, (h, p, n))
    for inclusion in (None, torch.linspace(0.2, 1.0, 5).double()):
        assert torch.autograd.gradcheck(lambda a, b, i=inclusion: candidate_softmax(a, b, goal, i), (h, c))


def test_a_second_derivative_of_the_softmax_is_refused_instead_of_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain PyTorch; the extension has it (tests/ops/test_native.py)."""
    monkeypatch.setenv("FOSTER_OPS", "reference")
    h, e = _t(H).clone().requires_grad_(), _t(POSITIVE).clone().requires_grad_()
    (first,) = torch.autograd.grad(candidate_softmax(h, e, torch.arange(6)), h, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        first.sum().backward()


def test_a_sample_stands_for_all_items() -> None:
    """Over all samples of 3 of 7 items, the sum over items that the loss divides by is on average the full one."""
    n, count = 7, 3
    h, e = RNG.normal(size=(1, 4)), RNG.normal(size=(n, 4))
    goal, score = 2, np.exp(h[0] @ e.T)
    sums, full = [], []
    for drawn in combinations(range(n), count):
        items = np.union1d(drawn, [goal])  # the target is always a candidate; others by chance alone
        inclusion = np.where(items == goal, 1.0, count / n)
        place = torch.tensor([int(np.searchsorted(items, goal))])
        sums.append(math.exp(float(candidate_softmax(_t(h), _t(e[items]), place, _t(inclusion)))) * score[goal])
        full.append(score[items].sum())
    assert np.mean(sums) == pytest.approx(score.sum(), rel=1e-12)
    assert abs(np.mean(full) / score.sum() - 1.0) > 0.1  # uncorrected, the sum would be too small


def test_the_positive_is_never_weighted() -> None:
    """Its own inclusion does not enter the loss, however unlikely it was."""
    h, e, goal = _t(H[:1]), _t(POSITIVE), torch.tensor([3])
    values = []
    for own in (1.0, 1e-3):
        inclusion = torch.full((6,), 0.5).double()
        inclusion[3] = own
        values.append(float(candidate_softmax(h, e, goal, inclusion)))
    assert values[0] == values[1]


def test_bce_is_equation_16() -> None:
    def sigmoid(x: float) -> float:
        return 1.0 / (1.0 + math.exp(-x))

    expected = np.mean(
        [
            -math.log(sigmoid(h @ p)) - math.log(1.0 - sigmoid(h @ n))
            for h, p, n in zip(H, POSITIVE, NEGATIVE, strict=True)
        ]
    )
    assert float(bce(_t(H), _t(POSITIVE), _t(NEGATIVE))) == pytest.approx(expected, rel=1e-12)


def test_losses_stay_finite_for_large_scores() -> None:
    big = torch.full((2, 4), 100.0)
    assert float(bce(big, big, -big)) == pytest.approx(0.0, abs=1e-6)
    assert float(bce(big, -big, big)) == pytest.approx(80000.0)
    e = torch.cat([-big[:1], big])
    assert float(candidate_softmax(big, e, torch.tensor([0, 0]))) == pytest.approx(80000.0 + math.log(2), rel=1e-6)
    assert float(candidate_softmax(big, e, torch.tensor([1, 2]))) == pytest.approx(math.log(2), rel=1e-6)
