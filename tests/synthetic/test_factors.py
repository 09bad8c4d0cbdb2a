"""D~ as Tucker factors: of a tensor at full and at lower ranks, TD3's random start, its optimizer."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from foster_cli.errors import FosterError
from foster_cli.runtime import adamw
from foster_cli.synthetic.factors import Synthetic, from_tensor, random_start

M, L, D = 5, 4, 8


def _tensor(seed: int = 0) -> torch.Tensor:
    return torch.randn(M, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ranks", [(None, None), (M, L)])
def test_full_rank_is_exact(ranks: tuple[int | None, int | None]) -> None:
    Q = _tensor()
    synthetic, error = from_tensor(Q, *ranks)
    assert error == 0.0
    assert torch.equal(synthetic().detach(), Q)
    assert {k: tuple(v.shape) for k, v in synthetic.factors().items()} == {"U": (M, M), "T": (L, L), "G": (M, L, D)}


@pytest.mark.parametrize("d1", [1, 2, 3, M])
@pytest.mark.parametrize("d2", [1, 3, L])
def test_lower_ranks_keep_the_largest_singular_vectors(d1: int, d2: int) -> None:
    Q = _tensor()
    synthetic, error = from_tensor(Q, d1, d2)
    # by hand, in numpy: eigenvectors of the two unfoldings' Gram matrices
    X = Q.numpy()
    users = np.linalg.eigh(np.einsum("mtd,ntd->mn", X, X))[1][:, ::-1][:, :d1]
    times = np.linalg.eigh(np.einsum("mtd,msd->ts", X, X))[1][:, ::-1][:, :d2]
    kept = np.einsum("mn,ts,nsd->mtd", users @ users.T, times @ times.T, X)
    np.testing.assert_allclose(synthetic().detach().numpy(), kept, atol=1e-10)
    assert error == pytest.approx(((X - kept) ** 2).sum() / (X**2).sum(), abs=1e-12)


def test_the_error_falls_with_the_rank() -> None:
    errors = [from_tensor(_tensor(), d1, 2)[1] for d1 in range(1, M + 1)]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[-1] > 0.0
    by_time = [from_tensor(_tensor(), 2, d2)[1] for d2 in range(1, L + 1)]
    assert all(a > b for a, b in pairwise(by_time))


@pytest.mark.parametrize("ranks", [(None, None), (2, 3), (2, None), (None, 3)])
def test_the_optimizer_moves_each_factor_along_its_own_gradient(ranks: tuple[int | None, int | None]) -> None:
    """Beside it AdamW's formula, element by element. Gradients are set as `outer_step` sets them."""
    Q = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    synthetic, _ = from_tensor(Q, *ranks)
    optimizer = adamw(synthetic.parameters(), lr=1e-2)
    expected = {name: p.detach().double() for name, p in synthetic.named_parameters()}
    moments = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in expected.items()}
    weight = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    for step in range(1, 4):
        named = dict(synthetic.named_parameters())
        found = torch.autograd.grad((synthetic() * weight).square().sum(), list(named.values()))
        for (name, p), gradient in zip(named.items(), found, strict=True):
            p.grad, g = gradient, gradient.double()
            m, v = moments[name]
            m.mul_(0.9).add_(0.1 * g), v.mul_(0.999).add_(0.001 * g * g)
            expected[name] -= 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        optimizer.step()
        for name, p in synthetic.named_parameters():
            torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-4, atol=1e-5)


def test_a_tensor_of_low_rank_is_held_by_that_rank() -> None:
    rng = torch.Generator().manual_seed(1)
    U, T, G = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((M, 2), (L, 3), (2, 3, D)))
    Q = torch.einsum("ma,tb,abd->mtd", U, T, G)
    assert from_tensor(Q, 2, 3)[1] == pytest.approx(0.0, abs=1e-24)
    assert from_tensor(Q, 1, 3)[1] > 1e-3


@pytest.mark.parametrize("ranks", [(M + 1, 2), (2, L + 1), (M + 1, None)])
def test_ranks_beyond_the_tensor_are_refused(ranks: tuple[int, int | None]) -> None:
    with pytest.raises(FosterError, match="ranks"):
        from_tensor(_tensor(), *ranks)


def test_factors_are_copies_that_restore() -> None:
    synthetic, _ = from_tensor(_tensor().float(), None, None)
    state = synthetic.factors()
    with torch.no_grad():
        synthetic.U.mul_(2.0)
    assert torch.equal(state["U"], torch.eye(M))
    assert not torch.equal(synthetic().detach(), _tensor().float())
    synthetic.restore(state)
    assert torch.equal(synthetic().detach(), _tensor().float())


def test_random_start_has_td3s_deviations_and_its_seed() -> None:
    big = random_start(200, 100, 64, 40, 30, torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in big.parameters()] == [(200, 40), (100, 30), (40, 30, 64)]
    for p, deviation in ((big.U, 0.02), (big.T, 0.02), (big.G, math.sqrt(2 / (30 * 64)))):
        values = p.detach().double()
        assert values.std().item() == pytest.approx(deviation, rel=0.05)
        assert abs(values.mean().item()) < 5 * deviation / math.sqrt(values.numel())
    again, other = (random_start(200, 100, 64, 40, 30, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.equal(big().detach(), again().detach())
    assert not torch.equal(big().detach(), other().detach())
    assert random_start(3, 4, 5, None, None, torch.Generator())().shape == (3, 4, 5)


def test_synthetic_learns_all_three_factors() -> None:
    synthetic = Synthetic(*(p.detach() for p in random_start(3, 4, 5, 2, 2, torch.Generator()).parameters()))
    synthetic().square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in synthetic.parameters())
