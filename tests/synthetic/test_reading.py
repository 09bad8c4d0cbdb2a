"""How training reads D~: what is read and predicted, the items that are read, the mixing of users."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foster_cli.synthetic.reading import PAPER, Reading, make_reading, mixed, named_items


def test_in_the_papers_form_a_position_is_the_goal_of_the_one_before_it() -> None:
    Q = torch.arange(24.0).reshape(2, 4, 3)
    read, goal = PAPER.parts(Q)
    assert read.tolist() == Q[:, [0, 1, 2]].tolist() and goal.tolist() == Q[:, [1, 2, 3]].tolist()
    assert PAPER.predicted(Q) is Q
    S = torch.tensor([4, 2])
    assert PAPER.read_over(S) is S and PAPER.draw(2, torch.Generator()) is None


def test_own_goals_are_the_second_half_of_the_rows() -> None:
    Q = torch.arange(24.0).reshape(2, 4, 3)
    reading = Reading(own=True, items=torch.tensor([7]))
    read, goal = reading.parts(Q)
    assert read.tolist() == Q[:, [0, 1]].tolist() and goal.tolist() == Q[:, [2, 3]].tolist()
    assert reading.predicted(Q).tolist() == goal.tolist()
    assert reading.read_over(torch.tensor([4, 2])).tolist() == [7]


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31))
def test_a_mixed_user_lies_between_two(M: int, mix: int, seed: int) -> None:
    mixing = Reading(mix=mix).draw(M, torch.Generator().manual_seed(seed))
    assert mixing is not None and mixing.shape == (mix, M) and float(mixing.min()) >= 0.0
    torch.testing.assert_close(mixing.sum(1), torch.ones(mix))
    used = (mixing > 0).sum(1)
    assert used.max() <= min(2, M)
    for row in range(mix):  # users are taken in turn
        assert mixing[row, row % M] > 0 or used[row] == 1


def test_partners_and_shares_are_uniform() -> None:
    rng, M = torch.Generator().manual_seed(0), 5
    shares, partners = [], np.zeros(M)
    for _ in range(400):
        mixing = Reading(mix=10).draw(M, rng)
        assert mixing is not None
        shares += mixing[torch.arange(10), torch.arange(10) % M].tolist()
        row = mixing[0].clone()
        row[0] = -1.0
        partners[int(row.argmax())] += 1
    assert stats.kstest(shares, "uniform").pvalue > 1e-4
    assert partners[0] == 0 and stats.chisquare(partners[1:]).pvalue > 1e-4


def test_mixing_is_a_weighted_mean() -> None:
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixing = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    found = mixed(mixing, x).numpy()
    np.testing.assert_allclose(found[0], 0.25 * x[0].numpy() + 0.75 * x[1].numpy(), rtol=1e-12)
    np.testing.assert_allclose(found[1], x[2].numpy(), rtol=1e-12)
    assert mixed(None, x) is x


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_named_items_are_the_likeliest_ones(rows: int) -> None:
    rng = torch.Generator().manual_seed(rows)
    V, read = torch.randn(50, 6, generator=rng), torch.randn(2, rows, 6, generator=rng)
    expected = {int(np.argmax(V.numpy() @ read[m, t].numpy())) for m in range(2) for t in range(rows)}
    found = named_items(read, V).tolist()
    assert set(found) == expected and found == sorted(found)


def test_a_reading_follows_the_settings() -> None:
    V = torch.eye(6)
    Q = 9.0 * V[torch.tensor([[1, 3, 0, 0], [4, 3, 0, 0]])]
    assert make_reading(False, False, Q, V) == PAPER
    assert make_reading(False, True, Q, V) == Reading(mix=4)
    own = make_reading(True, True, Q, V)
    assert own.own and own.mix == 4 and own.items is not None and own.items.tolist() == [1, 3, 4]
