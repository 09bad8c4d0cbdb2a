"""Averaged weights against a mean computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.train.average import Average


def _flat(model: Any) -> np.ndarray:
    return torch.cat([v.flatten() for v in model.learnables().values()]).numpy()


@pytest.mark.parametrize("horizon", [1, 4, 100])
def test_the_average_is_a_plain_mean_and_then_an_exponential_one(small_model: Callable[..., Any], horizon: int) -> None:
    model = small_model()
    average, states = Average(model, horizon), []
    np.testing.assert_array_equal(_flat(average.model), _flat(model))  # before the first step: the start
    rng = torch.Generator().manual_seed(0)
    for _ in range(9):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.empty_like(p).normal_(generator=rng))
        average.update()
        states.append(_flat(model))
    expected = np.mean(states[:horizon], axis=0)
    for state in states[horizon:]:
        expected = (1 - 1 / horizon) * expected + state / horizon
    np.testing.assert_allclose(_flat(average.model), expected, rtol=1e-9, atol=1e-12)


def test_the_averaged_model_is_its_own_and_ready_to_rank(small_model: Callable[..., Any]) -> None:
    model = small_model()
    average = Average(model.train(), 10)
    assert not average.model.training and model.training
    assert average.model.text.cache is model.text.cache  # the texts are shared, not copied
    before = _flat(model)
    with torch.no_grad():
        for p in average.model.parameters():
            p.zero_()
    np.testing.assert_array_equal(_flat(model), before)
