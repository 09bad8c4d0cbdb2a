"""The losses on real data against loops in numpy float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foster_cli.models.losses import bce, sampled_softmax

RNG = np.random.default_rng(3)
H, POSITIVE, NEGATIVE = (RNG.normal(size=(6, 4)) for _ in range(3))
SHARED = RNG.normal(size=(5, 4))


def _t(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_sampled_softmax_leaves_clashes_out(share: float) -> None:
    clash = np.random.default_rng(5).random((6, 5)) < share
    expected = []
    for p in range(6):
        own = float(H[p] @ POSITIVE[p])
        others = [float(H[p] @ SHARED[k]) for k in range(5) if not clash[p, k]]
        expected.append(math.log(sum(math.exp(x) for x in [own, *others])) - own)
    found = sampled_softmax(_t(H), _t(POSITIVE), _t(SHARED), _t(clash))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-12, abs=1e-15)


def test_sampled_softmax_is_the_full_softmax_when_all_items_are_negatives() -> None:
    E = RNG.normal(size=(9, 4))
    goal = np.array([0, 3, 8, 8, 1, 2])
    logits = H @ E.T
    expected = np.mean([np.log(np.exp(logits[p]).sum()) - logits[p, goal[p]] for p in range(6)])
    clash = goal[:, None] == np.arange(9)[None]
    assert float(sampled_softmax(_t(H), _t(E[goal]), _t(E), _t(clash))) == pytest.approx(expected, rel=1e-12)


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
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert float(bce(big, big, -big)) == pytest.approx(0.0, abs=1e-6)
    assert float(bce(big, -big, big)) == pytest.approx(80000.0)
    assert float(sampled_softmax(big, -big, big, none)) == pytest.approx(80000.0 + math.log(2), rel=1e-6)


def test_gradients_agree_with_finite_differences_with_and_without_clashes() -> None:
    h, p, n, s = (_t(x).clone().requires_grad_() for x in (H, POSITIVE, NEGATIVE, SHARED))
    clash = torch.zeros(6, 5, dtype=torch.bool)
    clash[0], clash[1, 2] = True, True  # the first position has no negative left
    assert torch.autograd.gradcheck(bce, (h, p, n))
    assert torch.autograd.gradcheck(lambda a, b, c: sampled_softmax(a, b, c, clash), (h, p, s))
