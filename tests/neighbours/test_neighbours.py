"""Scores, ranks and coverage of item-item models, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from counting import cases_of, rank_by_loops, scores_by_loops
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.neighbours import base
from foster_cli.neighbours.base import Factors, Neighbours

N = 9


def _whole(shape: tuple[int, int], seed: int = 0) -> Any:
    """Small whole numbers, many of them 0: sums in any order are exact, and there are ties."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 4, shape) * rng.integers(0, 2, shape)).astype(np.float32)


def _forms(seed: int = 0) -> dict[str, tuple[Any, Any]]:
    """W in each form that `weights` may have, and as a dense matrix."""
    W, A, B = _whole((N, N), seed), _whole((N, 4), seed + 1), _whole((N, 4), seed + 2)
    sparse = Factors(sp.csr_matrix(A), sp.csr_matrix(B))
    return {"csr": (sp.csr_matrix(W), W), "dense": (W, W), "factors": (Factors(A, B), A @ B.T),
            "sparse factors": (sparse, A @ B.T)}  # fmt: skip


FORMS = ("csr", "dense", "factors", "sparse factors")
histories = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=6), min_size=1, max_size=7)


@pytest.mark.parametrize("form", FORMS)
@given(histories, st.sampled_from([0.5, 0.25, 1.0]), st.integers(1, 7), st.data())
@settings(max_examples=25)
def test_scores_and_ranks_agree_with_loops(
    form: str, past: list[list[int]], decay: float, last: int, data: st.DataObject
) -> None:
    weights, W = _forms()[form]
    target = [data.draw(st.integers(0, N - 1)) for _ in past]
    seen = [data.draw(st.lists(st.integers(0, N - 1), max_size=5)) for _ in past]
    model = Neighbours(weights, decay, last)
    cases = cases_of(past, target, seen)
    scores = model.scores(cases, np.arange(len(past)))
    assert scores.dtype == np.float32
    expected = [scores_by_loops(W, h, decay, last) for h in past]
    assert scores.tolist() == expected
    found = model.ranks(cases)
    assert found.dtype == np.float64
    triples = list(zip(expected, target, seen, strict=True))
    assert found.tolist() == [rank_by_loops(s, t, hidden) for s, t, hidden in triples]
    k = data.draw(st.integers(1, N + 2))
    top = set()
    for s, t, hidden in triples:
        allowed = [j for j in range(N) if j == t or j not in hidden]
        top |= set(sorted(allowed, key=lambda j: (-s[j], j))[:k])
    assert model.covered(cases, k) == len(top)
    whole = model.ranks(cases_of(past, target, None))
    assert whole.tolist() == [rank_by_loops(s, t, ()) for s, t, _ in triples]


@pytest.mark.parametrize("form", FORMS)
def test_blocks_change_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    past = [rng.integers(0, N, rng.integers(1, 6)).tolist() for _ in range(11)]
    cases = cases_of(past, rng.integers(0, N, 11).tolist(), [h[:2] for h in past])
    model = Neighbours(_forms(5)[form][0], 0.5)
    rank, top = model.ranked(cases, 3)
    for block in (1, 2 * N, 3 * N + 1):
        monkeypatch.setattr(base, "BLOCK", block)
        again = model.ranked(cases, 3)
        assert np.array_equal(again.rank, rank) and np.array_equal(again.top, top)


def test_memory_does_not_grow_with_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    scores = Neighbours.scores

    def spy(self: Neighbours, cases: Any, part: Any) -> Any:
        asked.append(len(part))
        return scores(self, cases, part)

    monkeypatch.setattr(Neighbours, "scores", spy)
    monkeypatch.setattr(base, "BLOCK", 4 * 20)
    wide = np.ones((N, 20), dtype=np.float32)
    Neighbours(Factors(wide, wide)).ranks(cases_of([[0]] * 10, [1] * 10, None))
    assert asked == [4, 4, 2]  # the rows of the factors are wider than those of the scores


@pytest.mark.parametrize("form", FORMS)
def test_a_hard_history_is_a_soft_one(form: str) -> None:
    model = Neighbours(_forms()[form][0], 0.5, 3)
    past = [[1, 4, 4, 0, 7], [2, 2, 8, 3, 5]]
    cases = cases_of(past, [0, 0], None)
    both = np.arange(2)
    hard = model.scores(cases, both)
    P = np.eye(N, dtype=np.float32)[np.array(past)]
    assert np.array_equal(model.soft_scores(P), hard)
    tensor = torch.tensor(P, dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(model.soft_scores(tensor), hard)
    bags = model.bags(cases, both)
    assert np.array_equal(model.soft_scores(bags), hard)
    assert np.array_equal(model.soft_scores(bags.toarray()), hard)


@pytest.mark.parametrize("form", FORMS)
def test_soft_scores_are_linear(form: str) -> None:
    rng = np.random.default_rng(0)
    model = Neighbours(_forms()[form][0], 0.7, 4)
    P, Q = (rng.dirichlet(np.ones(N), (3, 6)).astype(np.float32) for _ in range(2))
    mixed = model.soft_scores(0.25 * P + 0.75 * Q)
    np.testing.assert_allclose(mixed, 0.25 * model.soft_scores(P) + 0.75 * model.soft_scores(Q), rtol=1e-4, atol=1e-5)
    # only the last 4 positions count
    np.testing.assert_array_equal(model.soft_scores(P), model.soft_scores(P[:, 2:]))


def test_no_neighbours_tie() -> None:
    model = Neighbours(sp.csr_matrix((N, N), dtype=np.float32))
    cases = cases_of([[0, 1]], [4], [[0, 1]])
    assert model.ranks(cases).tolist() == [1 + (N - 3) / 2]
    assert model.covered(cases, 2) == 2 and model.covered(cases, 100) == N - 2


def test_one_case_of_one_item() -> None:
    W = np.array([[0, 2], [1, 0]], dtype=np.float32)
    assert Neighbours(W).ranks(cases_of([[0]], [1], [[0]])).tolist() == [1.0]
    assert Neighbours(W).ranks(cases_of([[0]], [0], [[0]])).tolist() == [2.0]  # the target is ranked though seen


def test_weights_that_make_no_model() -> None:
    square = np.zeros((3, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="square"):
        Neighbours(square[:2])
    with pytest.raises(ValueError, match="square"):
        Neighbours(Factors(square, square[:2]))
    with pytest.raises(ValueError, match="finite"):
        Neighbours(sp.csr_matrix(np.array([[np.nan]])))
    for decay, last in ((0.0, 1), (1.1, 1), (0.5, 0)):
        with pytest.raises(ValueError, match="decay"):
            Neighbours(square, decay, last)
