"""S, the items of a step: a fresh uniform draw, or fixed by k-means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from foster_cli.errors import FosterError
from foster_cli.settings import DistillConfig, StudentConfig
from foster_cli.synthetic.subset import make_subset, uniform_subset

CPU = torch.device("cpu")
CONFIG = DistillConfig(items_per_step=6)


@pytest.mark.parametrize("size", [4, 5, 15])
def test_a_subset_is_uniform_without_replacement(size: int) -> None:
    """Few of many items, and many."""
    draw, rng = uniform_subset(20, size, CPU), torch.Generator().manual_seed(3)
    counts, firsts = np.zeros(20), np.zeros(20)
    for _ in range(2000):
        S = draw(rng)
        assert S.shape == (size,) and len(S.unique()) == size and S.min() >= 0 and S.max() < 20
        counts[S.numpy()] += 1
        firsts[int(S[0])] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.chisquare(firsts).pvalue > 1e-4


@pytest.mark.parametrize("size", [None, 20, 21])
def test_a_subset_of_everything_is_everything(size: int | None) -> None:
    assert uniform_subset(20, size, CPU)(torch.Generator()).tolist() == list(range(20))


def test_kmeans_items_are_fixed_and_spread() -> None:
    centres = 50.0 * torch.eye(4)
    V = centres.repeat(10, 1) + torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    config = replace(CONFIG, subset="kmeans", items_per_step=4)
    draw = make_subset(config, V, 0)
    S = draw(torch.Generator())
    assert torch.equal(S, draw(torch.Generator().manual_seed(9))) and torch.equal(
        S, make_subset(config, V, 0)(torch.Generator())
    )
    assert sorted((S % 4).tolist()) == [0, 1, 2, 3]  # one item of each of the four groups
    for size in (None, 40, 41):
        with pytest.raises(FosterError, match="kmeans"):
            make_subset(replace(config, items_per_step=size), V, 0)


def test_the_default_subset_is_fresh_every_time() -> None:
    draw, rng = make_subset(CONFIG, torch.zeros(100, 2), 0), torch.Generator().manual_seed(0)
    assert len({tuple(draw(rng).tolist()) for _ in range(10)}) == 10


@pytest.mark.parametrize(("items", "expected"), [(9, 9), (None, 100), (1000, 100)])
def test_a_student_draws_as_many_items_as_it_is_told(items: int | None, expected: int) -> None:
    draw = make_subset(CONFIG, torch.zeros(100, 2), 0, StudentConfig(items_per_step=items))
    S = draw(torch.Generator().manual_seed(0))
    assert len(S) == len(S.unique()) == expected
