"""Where D~ starts: real windows, soft rollouts, probes that ask the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sequences import random_windows

from foster_cli.data.windows import Windows
from foster_cli.distill.starts import (
    diverse_contexts,
    probe_items,
    probe_tensor,
    real_tensor,
    rollout_tensor,
    window_items,
    with_own_goals,
)

WINDOWS = random_windows(40, 12, 6)


def _unit_rows(V: np.ndarray) -> np.ndarray:
    centred = V - V.mean(0)
    return centred / np.sqrt((centred**2).sum(1, keepdims=True))


def test_real_start_is_the_windows_items() -> None:
    V = torch.randn(12, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    Q = real_tensor(V, WINDOWS, [3, 17], 9, 4.0).numpy()
    unit = _unit_rows(V.numpy())
    for m, w in enumerate((3, 17)):
        size = WINDOWS.lengths[w]
        for t in range(9):
            np.testing.assert_allclose(Q[m, t], 4.0 * unit[WINDOWS.items[w, t % size]], rtol=1e-10, atol=1e-12)


def test_a_rollout_is_the_teachers_own_next_item_distribution(small_model: Callable[..., Any]) -> None:
    teacher = small_model(n=12, length=6)
    V = teacher.embed_all()
    contexts, gain = [4, 0, 22], 5.0
    Q = rollout_tensor(teacher, V, WINDOWS, contexts, 6, gain)
    assert Q.shape == (3, 6, 8) and not Q.requires_grad
    E, unit = V.numpy(), _unit_rows(V.numpy())
    for m, w in enumerate(contexts):
        np.testing.assert_allclose(Q[m, 0].numpy(), gain * unit[WINDOWS.items[w, 0]], rtol=1e-10, atol=1e-12)
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
    teacher = small_model(n=12, length=6, double=False)
    V = teacher.embed_all()

    def pick(M: int, seed: int = 0, most: int = 20000) -> list[int]:
        return diverse_contexts(teacher, V, WINDOWS, M, np.random.default_rng(seed), most)

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
    Q = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = with_own_goals(Q)
    assert own.shape == (5, 2 * 3, 8)
    for t in range(3):
        assert torch.equal(own[:, t], Q[:, t]) and torch.equal(own[:, 3 + t], Q[:, t + 1])
