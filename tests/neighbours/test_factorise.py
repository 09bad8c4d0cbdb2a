"""Factors against an exact SVD, and the reported error against the difference itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from counting import cases_of, random_data

from foster_cli.neighbours import item_knn, recent, tfidf
from foster_cli.neighbours.base import Factors, Neighbours
from foster_cli.neighbours.factorise import factorise


def _measured(W: Any, A: Any, B: Any) -> float:
    return float(((W - A.astype(np.float64) @ B.T) ** 2).sum() / (W**2).sum())


@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_the_error_is_the_best_one_and_is_reported(form: str, rank: int) -> None:
    rng = np.random.default_rng(0)
    W = ((rng.random((60, 60)) < 0.2) * rng.random((60, 60))).astype(np.float32)
    found = factorise(sp.csr_matrix(W) if form == "csr" else W, rank)
    assert found.A.shape == found.B.shape == (60, rank)
    assert found.A.dtype == found.B.dtype == np.float32
    assert found.error == pytest.approx(_measured(W, found.A, found.B), abs=1e-5)
    S = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    best = float((S[rank:] ** 2).sum() / (S**2).sum())
    assert best - 1e-6 <= found.error <= best * 1.02 + 1e-6


def test_full_rank_leaves_nothing() -> None:
    data = random_data()
    W = item_knn.fit(data).weights
    found = factorise(W, 100)
    assert found.A.shape == (15, 15) and found.error < 1e-6
    np.testing.assert_allclose(found.A @ found.B.T, W.toarray(), atol=1e-5)
    nothing = factorise(sp.csr_matrix((4, 4), dtype=np.float32), 2)
    assert nothing.error == 0.0 and (nothing.A @ nothing.B.T == 0).all()


def test_texts_are_factorised_without_their_matrix() -> None:
    rng = np.random.default_rng(1)
    X = sp.csr_matrix(((rng.random((50, 30)) < 0.2) * rng.random((50, 30))).astype(np.float32))
    W = (X @ X.T).toarray()
    found = factorise(Factors(X, X), 6)
    assert found.error == pytest.approx(_measured(W, found.A, found.B), abs=1e-5)
    S = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    assert found.error <= float((S[6:] ** 2).sum() / (S**2).sum()) * 1.02
    assert factorise(tfidf.fit(random_data()).weights, 30).error < 1e-5


def test_narrow_factors_stay_and_others_are_declined() -> None:
    model = recent.fit(random_data())
    found = factorise(model.weights, 3)
    assert found.error == 0.0 and found.A is model.weights.A
    wide = np.ones((5, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="again"):
        factorise(Factors(wide, 2 * wide), 3)
    with pytest.raises(ValueError, match="rank 0"):
        factorise(wide, 0)


def test_outputs_times_factors_are_scores() -> None:
    model = item_knn.fit(random_data())
    found = factorise(model.weights, 15)
    cases = cases_of([[0, 3, 4], [7]], [1, 2], None)
    both = np.arange(2)
    H = found.outputs(model.bags(cases, both))
    assert H.shape == (2, 15)
    np.testing.assert_allclose(H @ found.B.T, model.scores(cases, both), atol=1e-5)
    narrow = found.neighbours(model)
    assert isinstance(narrow, Neighbours) and narrow.decay == model.decay
    np.testing.assert_allclose(narrow.scores(cases, both), model.scores(cases, both), atol=1e-5)


def test_equal_seeds_give_equal_factors() -> None:
    W = item_knn.fit(random_data(users=80, n=40)).weights
    a, b, other = factorise(W, 4), factorise(W, 4), factorise(W, 4, seed=2**40 + 3)
    assert np.array_equal(a.A, b.A) and np.array_equal(a.B, b.B)
    assert other.error == pytest.approx(a.error, rel=0.05)
