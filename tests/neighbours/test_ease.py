"""EASE against ridge regressions, one per item, on the other items alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting import data_of, random_data, training_histories
from sklearn.linear_model import Ridge

from foster_cli.data.windows import evaluation_cases
from foster_cli.errors import FosterError
from foster_cli.neighbours import ease
from foster_cli.neighbours.ease import Ease


@pytest.mark.parametrize("penalty", [0.5, 10.0])
@pytest.mark.parametrize(("n", "users"), [(15, 40), (3, 5), (40, 7)])
def test_each_item_is_a_ridge_regression_on_the_others(n: int, users: int, penalty: float) -> None:
    data = random_data(1, users, n)
    X = np.zeros((users, n))
    for u, history in enumerate(training_histories(data)):
        X[u, history] = 1
    expected = np.zeros((n, n))
    for j in range(n):
        others = np.delete(np.arange(n), j)
        expected[others, j] = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(X[:, others], X[:, j]).coef_
    model = ease.fit(data, Ease(penalty))
    assert model.weights.dtype == np.float32
    np.testing.assert_allclose(model.weights, expected, rtol=1e-4, atol=1e-6)
    assert (model.weights.diagonal() == 0).all()
    assert (model.weights[n - 1] == 0).all() and (model.weights[:, n - 1] == 0).all()  # nobody has it


@pytest.mark.parametrize("n", [1023, 1024, 2100])
def test_the_weights_are_read_from_one_half_in_blocks(n: int) -> None:
    rng = np.random.default_rng(0)
    P = rng.normal(size=(n, n))
    P = P + P.T
    np.fill_diagonal(P, 1 + rng.random(n))
    expected = -P / P.diagonal()
    np.fill_diagonal(expected, 0)
    found = ease._weights(np.asfortranarray(np.tril(P) + np.triu(np.full((n, n), np.nan), 1)))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_an_item_that_a_user_has_twice_counts_once() -> None:
    once, twice = data_of([[0, 1, 2], [1, 2]], 3, held=0), data_of([[0, 1, 0, 2, 0], [1, 2, 2]], 3, held=0)
    np.testing.assert_array_equal(ease.fit(once).weights, ease.fit(twice).weights)


def test_large_catalogues_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "MOST_ITEMS", 14)
    data = random_data()
    valid = evaluation_cases(data, "valid", 20)
    for attempt in (lambda: ease.fit(data), lambda: ease.choose(data, valid)):
        with pytest.raises(FosterError, match="15 x 15 items") as caught:
            attempt()
        assert caught.value.hint and "\n" not in str(caught.value)
    assert ease.fit(data, Ease(any_size=True)).items == 15
    assert ease.choose(data, valid, Ease(any_size=True)).settings.any_size


def test_a_penalty_that_is_not_positive() -> None:
    for penalty in (0.0, -1.0, float("nan")):
        with pytest.raises(FosterError, match="penalty"):
            ease.fit(random_data(), Ease(penalty))


def test_the_choice_is_the_best_of_the_grid() -> None:
    data = random_data(2, users=60)
    valid = evaluation_cases(data, "valid", 20)
    chosen = ease.choose(data, valid)
    values = {}
    for penalty in ease.PENALTIES:
        for decay in (*ease.DECAYS, 1.0):
            rank = ease.fit(data, Ease(penalty, decay)).ranks(valid)
            values[penalty, decay] = float(((rank <= 10) * (1 + 1 / np.log2(1 + rank))).mean())
    best = max(values, key=lambda key: values[key])
    assert chosen.settings == replace(Ease(), penalty=best[0], decay=best[1])
    assert chosen.recall + chosen.ndcg == pytest.approx(values[best])
