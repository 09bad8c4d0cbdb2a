"""The top items of every position, and the likeliest sequence, against numpy; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import HOSTILE, FakeBundle, fake, greedy

from foster_cli.errors import FosterError
from foster_cli.export.hard import make_hard
from foster_cli.export.view import make_view


@pytest.mark.parametrize("top", [1, 5, len(HOSTILE)])
def test_view_against_numpy(top: int) -> None:
    bundle = fake()
    view, p = make_view(bundle, top), bundle.p.numpy().astype(np.float64)
    order = np.argsort(-p, axis=-1, kind="stable")[..., :top]
    np.testing.assert_array_equal(view.top_index, order)
    np.testing.assert_array_equal(view.top_probability, np.take_along_axis(p, order, -1))
    hard = make_hard(bundle)
    for user in range(len(p)):
        assert hard.items[user].tolist() == greedy(p[user])
        assert len(set(hard.items[user])) == p.shape[1], "no repeats"
        np.testing.assert_array_equal(hard.probability[user], p[user, np.arange(6), hard.items[user]])


def test_ties_in_catalogue_order_and_short_catalogues() -> None:
    bundle = FakeBundle(["a", "b", "c"], ["A", "B", "C"], torch.full((1, 5, 3), 1 / 3))
    view = make_view(bundle, 2)
    assert view.top_index.tolist() == [[[0, 1]] * 5]
    assert make_hard(bundle).items.tolist() == [[0, 1, 2, 0, 1]], "after all three items they may come again"


@pytest.mark.parametrize("top", [0, -1, len(HOSTILE) + 1])
def test_top_out_of_range(top: int) -> None:
    with pytest.raises(FosterError, match=f"--top {top}: this bundle has {len(HOSTILE)} items"):
        make_view(fake(), top)


def test_damaged_bundles() -> None:
    bundle = fake()
    bundle.p[1, 0, 0] = float("nan")
    with pytest.raises(FosterError, match=r"synthetic user 1: .*not finite"):
        make_view(bundle, 2)
    with pytest.raises(FosterError, match="no synthetic users"):
        make_view(FakeBundle(["a"], ["A"], torch.zeros(0, 4, 1)), 1)
    with pytest.raises(FosterError, match="over 1 items, the bundle names 2"):
        make_view(FakeBundle(["a", "b"], ["A", "B"], torch.ones(1, 4, 1)), 1)
