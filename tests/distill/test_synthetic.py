"""D~'s starting points: Tucker factors of a tensor, TD3's random start, real windows, soft rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from foster_cli.config import DistillConfig
from foster_cli.data.windows import Windows
from foster_cli.distill.pipeline import check_budget
from foster_cli.distill.synthetic import (
    Synthetic,
    diverse_contexts,
    from_tensor,
    probe_items,
    probe_tensor,
    random_start,
    real_tensor,
    rollout_tensor,
    window_items,
    with_own_goals,
)
from foster_cli.errors import FosterError
from foster_cli.runtime import adamw

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


def _windows(W: int = 40, n: int = 12, seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, W)
    items = np.where(np.arange(6) < lengths[:, None], rng.integers(0, n, (W, 6)), -1)
    return Windows(items, lengths)


def _unit_rows(V: np.ndarray) -> np.ndarray:
    centred = V - V.mean(0)
    return centred / np.sqrt((centred**2).sum(1, keepdims=True))


def test_real_start_is_the_windows_items() -> None:
    windows, V = _windows(), torch.randn(12, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    Q = real_tensor(V, windows, [3, 17], 9, 4.0).numpy()
    unit = _unit_rows(V.numpy())
    for m, w in enumerate((3, 17)):
        size = windows.lengths[w]
        for t in range(9):
            np.testing.assert_allclose(Q[m, t], 4.0 * unit[windows.items[w, t % size]], rtol=1e-10, atol=1e-12)


def test_a_rollout_is_the_teachers_own_next_item_distribution(small_model: Callable[..., Any]) -> None:
    teacher, windows = small_model(n=12, length=6), _windows()
    V = teacher.embed_all()
    contexts, gain = [4, 0, 22], 5.0
    Q = rollout_tensor(teacher, V, windows, contexts, 6, gain)
    assert Q.shape == (3, 6, 8) and not Q.requires_grad
    E, unit = V.numpy(), _unit_rows(V.numpy())
    for m, w in enumerate(contexts):
        np.testing.assert_allclose(Q[m, 0].numpy(), gain * unit[windows.items[w, 0]], rtol=1e-10, atol=1e-12)
        soft: list[np.ndarray] = []
        for t in range(6):
            P = np.exp(E @ Q[m, t].numpy())
            P /= P.sum()
            if t > 0:
                with torch.no_grad():
                    h = teacher(torch.from_numpy(np.stack(soft))[None])[0, -1].numpy()
                own = np.exp(E @ h)
                np.testing.assert_allclose(P, own / own.sum(), rtol=1e-8, atol=1e-12)
            soft.append(sum(P[i] * E[i] for i in range(12)))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_contexts_are_distinct_windows_fixed_by_the_seed(small_model: Callable[..., Any]) -> None:
    teacher, windows = small_model(n=12, length=6, double=False), _windows()
    V = teacher.embed_all()

    def pick(M: int, seed: int = 0, most: int = 20000) -> list[int]:
        return diverse_contexts(teacher, V, windows, M, np.random.default_rng(seed), most)

    for count in (1, 7, 40):
        found = pick(count)
        assert len(set(found)) == count == len(found) and min(found) >= 0 and max(found) < 40
        assert found == pick(count)
    assert sorted(pick(40)) == list(range(40))
    assert len({tuple(pick(7, seed)) for seed in range(4)}) > 1
    assert len(set(pick(7, most=10))) == 7


def test_contexts_are_found_in_every_cluster() -> None:
    """Four groups of windows, far apart: one context of each."""

    class Teacher:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    items = np.repeat(np.arange(4), 10)[:, None] * np.ones((1, 3), np.int64)
    windows = Windows(items.astype(np.int64), np.full(40, 3))
    V = 100.0 * torch.eye(4)
    for seed in range(3):
        found = diverse_contexts(Teacher(), V, windows, 4, np.random.default_rng(seed))  # type: ignore[arg-type]
        assert sorted(int(items[i, 0]) for i in found) == [0, 1, 2, 3]


def test_more_sequences_than_windows_are_refused(setting: Any) -> None:
    count = len(setting.windows)
    check_budget(setting, DistillConfig(budget=count))
    with pytest.raises(FosterError, match=f"--budget {count + 1}.*--budget {count}"):
        check_budget(setting, DistillConfig(budget=count + 1))


def test_synthetic_learns_all_three_factors() -> None:
    synthetic = Synthetic(*(p.detach() for p in random_start(3, 4, 5, 2, 2, torch.Generator()).parameters()))
    synthetic().square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in synthetic.parameters())


def _some_windows(n: int = 200) -> Windows:
    rng = np.random.default_rng(2)
    lengths = rng.integers(2, 7, 300)
    items = np.minimum(rng.geometric(0.03, (300, 6)) - 1, n - 1)
    return Windows(np.where(np.arange(6) < lengths[:, None], items, -1), lengths)


def test_probes_read_different_items_that_occur() -> None:
    windows = _some_windows()
    count = np.bincount(windows.items[windows.items >= 0], minlength=200)
    items = probe_items(windows, 200, 4, 5, np.random.default_rng(0))
    assert items.shape == (4, 5) and len(np.unique(items)) == 20 and (count[items] > 0).all()
    assert (items == probe_items(windows, 200, 4, 5, np.random.default_rng(0))).all()
    assert (items != probe_items(windows, 200, 4, 5, np.random.default_rng(1))).any()


def test_probes_are_drawn_by_the_square_root_of_how_often_an_item_occurs() -> None:
    windows, drawn = _some_windows(), np.zeros(200)
    count = np.bincount(windows.items[windows.items >= 0], minlength=200)
    rng = np.random.default_rng(0)
    for _ in range(8000):
        drawn[probe_items(windows, 200, 1, 1, rng)[0, 0]] += 1
    weight = np.sqrt(count)
    often = weight / weight.sum() * 8000 > 5
    expected = (weight / weight.sum())[often]
    assert stats.chisquare(drawn[often], expected / expected.sum() * drawn[often].sum()).pvalue > 1e-4
    assert drawn[count == 0].sum() == 0


def test_a_small_catalogue_is_read_again_and_again() -> None:
    windows = Windows(np.array([[3, 1, 2]]), np.array([3]))
    items = probe_items(windows, 9, 2, 4, np.random.default_rng(0))
    assert sorted(np.bincount(items.ravel(), minlength=9)[1:4].tolist()) == [2, 3, 3]


def test_a_probe_asks_the_teacher(small_model: Callable[..., Any]) -> None:
    teacher = small_model(n=12, length=3)
    V = teacher.embed_all()
    items = np.array([[0, 7, 3], [11, 5, 2]])
    Q = probe_tensor(teacher, V, items, gain=2.5)
    assert Q.shape == (2, 6, 8)
    centred = V.numpy() - V.numpy().mean(0)
    for m in range(2):
        for t in range(3):
            row = centred[items[m, t]]
            np.testing.assert_allclose(Q[m, t].numpy(), 2.5 * row / np.linalg.norm(row), rtol=1e-9)
            with torch.no_grad():  # the teacher on this prefix alone
                alone = teacher(V[torch.from_numpy(items[m, : t + 1])][None])[0, -1]
            torch.testing.assert_close(Q[m, 3 + t], alone)


def test_window_items_repeat_a_short_window() -> None:
    windows = Windows(np.array([[4, 9, -1, -1], [1, 2, 3, 5]]), np.array([2, 4]))
    assert window_items(windows, [1, 0], 3).tolist() == [[1, 2, 3], [4, 9, 4]]


def test_own_goals_of_a_sequence_are_its_next_positions() -> None:
    Q = _tensor()
    own = with_own_goals(Q)
    assert own.shape == (M, 2 * (L - 1), D)
    for t in range(L - 1):
        assert torch.equal(own[:, t], Q[:, t]) and torch.equal(own[:, L - 1 + t], Q[:, t + 1])
