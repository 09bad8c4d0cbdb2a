"""Co-occurrence against loops over all pairs of each history."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from counting import data_of, random_data, training_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.windows import evaluation_cases
from foster_cli.errors import FosterError
from foster_cli.neighbours import item_knn
from foster_cli.neighbours.item_knn import ItemKnn, pruned


@given(st.integers(0, 1000), st.integers(1, 14), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=25)
def test_weights_agree_with_loops(seed: int, window: int, back: float, power: float) -> None:
    data = random_data(seed, users=12)
    n = len(data.catalogue)
    expected = np.zeros((n, n))
    popularity = np.zeros(n)
    for history in training_histories(data):
        for a in range(len(history)):
            popularity[history[a]] += 1
            for b in range(a + 1, len(history)):
                if b - a <= window:
                    expected[history[a], history[b]] += 1 / (b - a)
                    expected[history[b], history[a]] += back / (b - a)
    for j in range(n):
        expected[:, j] /= max(popularity[j], 1) ** power
    model = item_knn.fit(data, ItemKnn(window, back, power))
    assert sp.issparse(model.weights) and model.weights.dtype == np.float32
    np.testing.assert_allclose(model.weights.toarray(), expected, rtol=1e-6, atol=1e-7)
    assert (model.weights[n - 1].toarray() == 0).all()  # nobody has it


@given(st.integers(0, 1000), st.integers(1, 8))
@settings(max_examples=25)
def test_the_largest_entries_of_a_row_stay(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    W = (rng.integers(0, 4, (7, 7)) * (np.arange(7) != 3)[:, None]).astype(np.float32)
    found = pruned(sp.csr_matrix(W), most).toarray()
    for row, kept in zip(W, found, strict=True):
        order = sorted((j for j in range(7) if row[j] > 0), key=lambda j: (-row[j], j))[:most]
        assert kept.tolist() == [row[j] if j in order else 0 for j in range(7)]


def test_histories_of_one_item_have_no_pairs() -> None:
    model = item_knn.fit(data_of([[0], [1], [2]], 3))
    assert model.weights.nnz == 0


def test_no_training_interactions() -> None:
    data = data_of([[0, 1], [1, 2]], 3)
    data.interactions.split[:] = 1
    with pytest.raises(FosterError, match="no training"):
        item_knn.fit(data)


def test_the_choice_is_the_best_of_the_grid_in_turn() -> None:
    data = random_data(4, users=60)
    valid = evaluation_cases(data, "valid", 20)
    chosen = item_knn.choose(data, valid)
    best, value = ItemKnn(), 0.0
    grid = {"power": item_knn.POWERS, "back": item_knn.BACKS, "decay": item_knn.DECAYS}
    for name, options in grid.items():
        tried = []
        for option in options:
            new = ItemKnn(**{**vars(best), name: option})
            rank = item_knn.fit(data, new).ranks(valid)
            tried.append((float(((rank <= 10) * (1 + 1 / np.log2(1 + rank))).mean()), new))
        value, best = max(tried, key=lambda pair: pair[0])
    assert chosen.settings == best
    assert chosen.recall + chosen.ndcg == pytest.approx(value)
    again = item_knn.fit(data, best)
    assert (again.weights != chosen.model.weights).nnz == 0 and again.decay == chosen.model.decay
    assert chosen.text.startswith(f"power {best.power:g}, back {best.back:g}, decay {best.decay:g}: validation R@10 0.")
