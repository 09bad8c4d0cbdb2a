"""The bootstrap against scipy, against the normal approximation and against numpy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from foster_cli.evaluate import bootstrap
from foster_cli.evaluate.bootstrap import Bootstrap, seed_draws


def interval(user: npt.NDArray[np.int64], value: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `value` (C,); `user` (C,): whose cases. From 4,000 resamples."""
    means = Bootstrap.of(user, 4000, np.random.default_rng(0)).means(value)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_scipys_where_each_user_has_one_case() -> None:
    value = (np.random.default_rng(3).random(400) < 0.1).astype(np.float64)
    low, high = interval(np.arange(400), value)
    theirs = stats.bootstrap((value,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.004) and high == pytest.approx(theirs.high, abs=0.004)
    deviation = value.std() / 20
    assert low == pytest.approx(value.mean() - 1.96 * deviation, abs=0.004)
    assert high == pytest.approx(value.mean() + 1.96 * deviation, abs=0.004)


def test_cases_are_resampled_by_user() -> None:
    """50 users with 10 equal cases each: 50 independent values, not 500."""
    own = (np.random.default_rng(3).random(50) < 0.3).astype(np.float64)
    user, value = np.repeat(np.arange(50) * 7, 10), np.repeat(own, 10)
    low, high = interval(user, value)
    width = 2 * 1.96 * own.std() / math.sqrt(50)
    assert high - low == pytest.approx(width, rel=0.1)


def test_means_by_hand() -> None:
    boot = Bootstrap(np.array([[1, 1], [2, 0], [0, 2]], np.uint8), np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(boot.means(np.array([1.0, 0.0, 0.5, 3.0])), [4.5 / 4, 0.5, 3.0])


def test_weighted_means_by_hand() -> None:
    """A ratio of sums over each resample; none where no drawn case weighs anything."""
    boot = Bootstrap(np.array([[1, 1], [2, 0], [0, 2]], np.uint8), np.array([0, 0, 0, 1]))
    value = np.array([1.0, 0.0, 0.5, 3.0])
    found = boot.means(value, np.array([1.0, 3.0, 2.0, 6.0]))
    np.testing.assert_allclose(found, [(1 + 1 + 18) / 12, 2 / 6, 3.0])
    found = boot.means(value, np.array([0.0, 0.0, 2.0, 0.0]))
    np.testing.assert_array_equal(found, [0.5, 0.5, np.nan])


def test_blocks_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn and multiplied some at a time, against all at once in numpy."""
    user, value = np.repeat(np.arange(7), [1, 3, 2, 5, 1, 4, 2]), np.random.default_rng(1).random(18)
    weights = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=50)
    total, count = np.bincount(user, weights=value), np.bincount(user)
    for block in (1, 20, 1 << 24):
        monkeypatch.setattr(bootstrap, "BLOCK", block)
        boot = Bootstrap.of(user, 50, np.random.default_rng(0))
        np.testing.assert_array_equal(boot.weights, weights)
        np.testing.assert_allclose(boot.means(value), (weights @ total) / (weights @ count), rtol=1e-13)


def test_resamples_draw_as_many_users_as_there_are() -> None:
    boot = Bootstrap.of(np.array([4, 4, 9, 9, 2]), 100, np.random.default_rng(0))
    assert boot.weights.shape == (100, 3) and np.all(boot.weights.sum(1) == 3)
    assert boot.user.tolist() == [1, 1, 2, 2, 0]


def test_seeds_are_drawn_within_the_drawn_sets() -> None:
    """Against a simulation of both draws, one after the other."""
    sets, each, draws = 3, 2, 20_000
    found = seed_draws(sets * each, draws, sets)
    rng, counts = np.random.default_rng(7), np.zeros((draws, sets, each))
    for row in counts:
        for one in rng.integers(sets, size=sets):
            np.add.at(row[one], rng.integers(each, size=each), 1)
    expected = counts.reshape(draws, -1) / (sets * each)
    of_sets = found.reshape(draws, sets, each).sum(2) * sets
    np.testing.assert_allclose(found.sum(1), 1.0)
    np.testing.assert_allclose(of_sets, of_sets.round(), atol=1e-12)
    np.testing.assert_allclose(np.cov(found.T), np.cov(expected.T), atol=2e-3)
    np.testing.assert_array_equal(seed_draws(4, 50, 1), seed_draws(4, 50))
