"""The offset of new items against full rankings at every offset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.data.windows import Cases
from foster_cli.ranking import offset as module
from foster_cli.ranking.full import score_model
from foster_cli.ranking.offset import OFFSETS, OffsetChoice, above, new_targets

N, L, C = 40, 5, 60
#: Every third item does not occur in training.
KNOWN = torch.arange(N) % 3 != 1


@pytest.fixture
def model(small_model: Callable[..., Any]) -> Any:
    """Forty items, 13 of them new; a vector for each of the others."""
    return small_model(N, 8, L, seed=3, known=KNOWN, items="both", bias=True)


def _cases(seen: bool, seed: int = 0, count: int = C) -> Cases:
    """Random histories and targets, of items in training and new ones; with `seen`, the history and some more is left
    out, even the target."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, L + 1, count)
    history = np.where(np.arange(L) < lengths[:, None], rng.integers(0, N, (count, L)), -1)
    rows = [np.r_[h[h >= 0], rng.integers(0, N, rng.integers(0, 4))] for h in history]
    row = np.arange(count)
    out = (np.concatenate(rows), np.r_[0, np.cumsum([len(r) for r in rows])]) if seen else None
    return Cases(history, lengths, rng.integers(0, N, count), row, row, out)


def _hits(model: Any, cases: Cases, o: float) -> np.ndarray:
    """(C,): whether the target is among the first ten at the offset o, by ranking all items."""
    with torch.no_grad():
        model.offset.fill_(o)
    return score_model(model, cases) <= 10


def _best(hits: dict[float, np.ndarray], new: np.ndarray, share: float, floor: float) -> tuple[float, float]:
    """The first offset of the highest weighted recall among those that do not lower the recall of new targets."""
    cold = {o: hit[new].mean() for o, hit in hits.items()}
    least = min(floor, max(cold.values()))
    value = {o: share * cold[o] + (1 - share) * hit[~new].mean() for o, hit in hits.items() if cold[o] >= least}
    best = max(value, key=lambda o: (value[o], -o))
    return best, value[best]


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("block", [1, 7 * N, 1 << 24])
def test_the_best_items_of_both_kinds(model: Any, seen: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    cases, known = _cases(seen), KNOWN.numpy()
    own, other = above(model, cases, 4)
    E = model.embed_all()
    for c in range(C):
        H = model(E[cases.history[c, : cases.lengths[c]]][None])[0, -1]
        score = (E @ H).detach().numpy()
        out = set() if cases.seen is None else set(cases.seen[0][cases.seen[1][c] : cases.seen[1][c + 1]].tolist())
        target = cases.target[c]
        lead = [(score[i] - score[target], known[i] == known[target]) for i in range(N) if i not in out - {target}]
        assert own[c] == sum(x > 0 for x, same in lead if same)  # the target is the only one with its score
        best = sorted((x for x, same in lead if not same), reverse=True)[:4]
        np.testing.assert_allclose(other[c], best, atol=1e-12)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_cases_of_one_kind_alone(model: Any, seen: bool, new: bool) -> None:
    cases = _cases(seen)
    some = np.flatnonzero(new_targets(model, cases) == new)
    for of_all, alone in zip(above(model, cases), above(model, cases.take(some)), strict=True):
        np.testing.assert_allclose(alone, of_all[some], atol=1e-12)


def test_fewer_items_of_a_kind_than_are_asked_for(small_model: Callable[..., Any]) -> None:
    model = small_model(N, 8, L, known=torch.arange(N) > 2, items="both", bias=True)
    cases = _cases(False)
    found = above(model, cases, 10)[1]
    new = new_targets(model, cases)
    assert new.tolist() == (cases.target <= 2).tolist() and new.any()
    assert np.isfinite(found[new]).all()
    assert np.isfinite(found[~new][:, :3]).all() and (found[~new][:, 3:] == -np.inf).all()


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, None])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [False, True])
def test_the_offset_is_the_best_of_full_rankings(
    model: Any, seen: bool, share: float | None, seed: int, tied: bool
) -> None:
    """`tied`: the offset alone is the score of a new item, as without texts."""
    if tied:
        model.text.cache.pooled[~KNOWN] = 0.0
        torch.nn.init.zeros_(model.head.bias)
    cases = replace(_cases(seen, seed), new_share=share)
    choice = OffsetChoice.of(model, cases)
    assert choice is not None
    new = new_targets(model, cases)
    hits = {float(o): _hits(model, cases, float(o)) for o in OFFSETS}
    expected = _best(hits, new, new.mean() if share is None else share, 0.0)
    with torch.no_grad():
        model.offset.fill_(3.7)  # whatever it was before
    found = choice(model)
    assert (found["offset"], found["weighted"]) == pytest.approx(expected, abs=1e-12)
    assert model.offset.item() == pytest.approx(found["offset"])
    assert choice.floor == hits[found["offset"]][new].mean()
    assert choice(model) == found


def test_the_recall_of_new_targets_is_no_worse_than_before_training(model: Any) -> None:
    """Before training, the best offset is chosen freely; its recall of new targets is the floor from then on, even with
    no weight on new targets, so that every offset that helps them is a loss."""
    cases = replace(_cases(False), new_share=0.6)
    choice = OffsetChoice.of(model, cases)
    assert choice is not None
    new = new_targets(model, cases)
    first = choice(model)["offset"]
    floor = choice.floor
    assert floor is not None and floor == _hits(model, cases, first)[new].mean() > 0
    with torch.no_grad():  # a training that pushes what it knows up
        model.table.weight[:, -1] += 3.0
    unbound = OffsetChoice(cases, new, 0.0, 0.0)(model)["offset"]
    choice.share = 0.0
    bound = choice(model)["offset"]
    assert choice.floor == floor
    assert _hits(model, cases, unbound)[new].mean() < floor <= _hits(model, cases, bound)[new].mean()
    assert bound > unbound


@pytest.mark.parametrize("o", [-2.0, 0.3, 5.0])
def test_a_sample_holds_to_the_offset_of_all_cases(model: Any, o: float) -> None:
    cases = replace(_cases(False), new_share=0.0)
    choice = OffsetChoice.of(model, cases)
    assert choice is not None
    with torch.no_grad():
        model.offset.fill_(o)
    choice.hold(model)
    assert choice.floor == _hits(model, cases, o)[choice.new].mean()
    least = choice.floor
    assert _hits(model, cases, choice(model)["offset"])[choice.new].mean() >= least == choice.floor


def test_where_no_offset_reaches_the_floor_the_recall_of_new_targets_is_highest(model: Any) -> None:
    cases = replace(_cases(False), new_share=0.0)
    new = new_targets(model, cases)
    hits = {float(o): _hits(model, cases, float(o)) for o in OFFSETS}
    found = OffsetChoice(cases, new, 0.0, 1.1)(model)
    assert hits[found["offset"]][new].mean() == max(h[new].mean() for h in hits.values())
    assert found["offset"] == _best(hits, new, 0.0, 1.1)[0]


def test_there_is_nothing_to_choose_without_an_offset_or_with_targets_of_one_kind(
    model: Any, small_model: Callable[..., Any]
) -> None:
    cases = _cases(True)
    known = KNOWN.numpy()[cases.target]
    assert OffsetChoice.of(model, cases.take(np.flatnonzero(known))) is None
    assert OffsetChoice.of(model, cases.take(np.flatnonzero(~known))) is None
    assert OffsetChoice.of(small_model(N, 8, L), cases) is None
    assert OffsetChoice.of(small_model(N, 8, L, items="both", bias=True), cases) is None
    found = OffsetChoice.of(model, cases)
    assert found is not None and found.share == (~known).mean() and found.floor is None


def test_a_model_in_training_is_ranked_without_dropout(small_model: Callable[..., Any]) -> None:
    model = small_model(N, 8, L, known=KNOWN, items="both", bias=True, vector_dropout=0.5, dropout=0.5)
    cases = _cases(False)
    expected, rank = above(model, cases), score_model(model, cases)
    for a, b in zip(above(model.train(), cases), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(score_model(model.train(), cases), rank)
