"""The mix of both neighbours, case by case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import cases_of, random_data

from foster_cli.data.prepare import load_dataset
from foster_cli.data.windows import Protocol, evaluation_cases
from foster_cli.neighbours import item_knn, mixed, tfidf
from foster_cli.neighbours.base import Neighbours
from foster_cli.neighbours.choice import quality
from foster_cli.neighbours.mixed import Mixed, MixedSettings, at_most_one


def test_scores_are_divided_by_their_maximum_and_added() -> None:
    data = random_data()
    n = len(data.catalogue)
    model = mixed.fit(data, MixedSettings(weight=0.3))
    cases = cases_of([[0, 3], [n - 1], [2]], [1, 2, 3], None)  # the second one's only item is in no pair
    part = np.arange(3)
    first = item_knn.fit(data).scores(cases, part).tolist()
    second = tfidf.fit(data).scores(cases, part).tolist()
    assert max(first[1]) == 0
    expected = [[x / (max(a) or 1) + 0.3 * y / (max(b) or 1) for x, y in zip(a, b, strict=True)]
                for a, b in zip(first, second, strict=True)]  # fmt: skip
    np.testing.assert_allclose(model.scores(cases, part), expected, rtol=1e-5)
    P = np.eye(n, dtype=np.float32)[np.array([[0, 3]])]
    np.testing.assert_allclose(model.soft_scores(P), expected[:1], rtol=1e-5)


def test_rows_without_a_positive_score_stay() -> None:
    rows = np.array([[0, 0], [-1, 0], [-2, -1], [2, -4]], dtype=np.float32)
    assert at_most_one(rows).tolist() == [[0, 0], [-1, 0], [-2, -1], [1, -2]]


def test_the_two_have_decays_of_their_own() -> None:
    W = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=np.float32)
    model = Mixed(Neighbours(W, 0.5), Neighbours(W, 1.0), 1.0)
    scores = model.scores(cases_of([[0, 1]], [2], None), np.arange(1))
    assert scores.tolist() == [[0.0, 0.5 + 1.0, 1.0 + 1.0]]
    assert model.items == 3 and model.width == 3


def test_the_choice_keeps_the_parts_and_takes_the_best_weight() -> None:
    data = random_data(3, users=60)
    valid = evaluation_cases(data, "valid", 20, Protocol(mask_seen=True))
    knn, texts = item_knn.choose(data, valid), tfidf.choose(data, valid)
    chosen = mixed.choose(data, valid, knn, texts)
    assert chosen.model.first is knn.model and chosen.model.second is texts.model
    values = {}
    for weight in mixed.WEIGHTS:
        rank = Mixed(knn.model, texts.model, weight).ranks(valid)
        values[weight] = float(((rank <= 10) * (1 + 1 / np.log2(1 + rank))).mean())
    assert chosen.settings == MixedSettings(knn.settings, texts.settings, max(values, key=lambda w: values[w]))
    assert chosen.recall + chosen.ndcg == pytest.approx(max(values.values()))
    alone = mixed.choose(data, valid)
    assert alone.text == chosen.text
    assert np.array_equal(mixed.fit(data, chosen.settings).ranks(valid), chosen.model.ranks(valid))


_MOVIES = Path(__file__).parents[2].parent / "shared" / "data" / "movielens-small"


@pytest.mark.skipif(not _MOVIES.exists(), reason="no ../shared/data here")
def test_figures_on_movielens() -> None:
    """Those of a prototype that was written apart: dense blocks, no pruning, no choice."""
    data = load_dataset([_MOVIES / "ratings.csv", _MOVIES / "movies.csv"])
    valid = evaluation_cases(data, "valid", 20, Protocol(mask_seen=True))
    assert quality(item_knn.fit(data), valid) == pytest.approx((0.0948, 0.0522), abs=5e-4)
    assert quality(tfidf.fit(data), valid) == pytest.approx((0.0491, 0.0276), abs=5e-4)
    assert quality(mixed.fit(data), valid) == pytest.approx((0.1052, 0.0573), abs=1e-3)
