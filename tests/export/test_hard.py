"""One item per position: what is taken, drawn and refused, against enumeration and counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeBundle, of_probabilities
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from foster_cli.bundle import load
from foster_cli.errors import FosterError
from foster_cli.export.hard import HardSet, make_hard


def soft(M: int, L: int, n: int, own: bool, seed: int = 0, sharp: float = 1.0) -> FakeBundle:
    rng = np.random.default_rng(seed)
    p, g = (rng.dirichlet(np.full(n, sharp), (M, L)) for _ in range(2))
    return of_probabilities(p, g if own else None)


def test_sampling_follows_the_distribution_without_repeats() -> None:
    bundle = soft(1, 3, 4, own=False)
    p = bundle.p[0].numpy()
    hard = make_hard(bundle, "sample", 4000, seed=5)
    chance = {}
    for items in permutations(range(4), 3):  # drawn one after the other, from what is left
        value, left = 1.0, np.ones(4, bool)
        for t, item in enumerate(items):
            value *= p[t, item] / p[t, left].sum()
            left[item] = False
        chance[items] = value
    assert sum(chance.values()) == pytest.approx(1.0)
    seen = Counter(map(tuple, hard.items.tolist()))
    assert set(seen) <= set(chance)
    common = [items for items in chance if 4000 * chance[items] > 5]
    counts = [seen[items] for items in common] + [4000 - sum(seen[items] for items in common)]
    expected = [4000 * chance[items] for items in common]
    expected.append(4000 - sum(expected))
    assert chisquare(counts, expected).pvalue > 1e-4


def test_goals_are_drawn_from_what_was_not_read() -> None:
    bundle = soft(1, 1, 5, own=True)
    hard = make_hard(bundle, "sample", 3000, seed=1)
    assert hard.goals is not None and hard.goal_probability is not None
    g = bundle.g[0, 0].numpy()  # type: ignore[index]
    for read in range(5):
        drawn = hard.goals[hard.items[:, 0] == read, 0]
        left = np.delete(np.arange(5), read)
        if len(drawn) > 100:
            share = g[left] / g[left].sum()
            assert chisquare(np.bincount(drawn, minlength=5)[left], len(drawn) * share).pvalue > 1e-4
        assert read not in drawn
    np.testing.assert_allclose(hard.goal_probability[:, 0], g[hard.goals[:, 0]])


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(1, 3), L=st.integers(1, 8), n=st.integers(1, 9), own=st.booleans(), copies=st.integers(1, 3),
    sharp=st.sampled_from([0.01, 1.0, 10.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_hard_set(M: int, L: int, n: int, own: bool, copies: int, sharp: float, seed: int) -> None:
    bundle = soft(M, L, n, own, seed, sharp)
    hard = make_hard(bundle, "sample", copies, seed)
    assert hard.items.shape == (M * copies, L)
    assert list(zip(hard.user, hard.copy, strict=True)) == [(m, c) for m in range(M) for c in range(copies)]
    for row, items in enumerate(hard.items.tolist()):
        for start in range(0, L, n):
            part = items[start : start + n]
            assert len(set(part)) == len(part), "an item comes again only once all have come"
        p = bundle.p[hard.user[row]].numpy()
        np.testing.assert_array_equal(hard.probability[row], p[np.arange(L), items])
    found = list(hard.examples())
    assert len(found) == M * copies * (L if own else L - 1)
    for e in found:
        items = hard.items[e.row].tolist()
        assert e.history == items[: e.position + 1]
        if own:
            assert hard.goals is not None and e.target == hard.goals[e.row, e.position]
            assert e.target not in e.history or len(set(e.history)) == n
        else:
            assert e.target == items[e.position + 1]


def test_a_copy_depends_on_its_number_and_the_seed_alone() -> None:
    bundle = soft(2, 5, 40, own=True)
    one, three = make_hard(bundle, "sample", 1, 7), make_hard(bundle, "sample", 3, 7)
    again, other = make_hard(bundle, "sample", 3, 7), make_hard(bundle, "sample", 3, 8)
    np.testing.assert_array_equal(three.items, again.items)
    np.testing.assert_array_equal(three.items[three.copy == 0], one.items)
    assert (three.items != other.items).any()
    assert len(set(map(tuple, three.items.tolist()))) == 6
    assert [three.label(k) for k in range(2)] == ["synthetic-0-0", "synthetic-0-1"]
    assert [one.label(k) for k in range(2)] == ["synthetic-0", "synthetic-1"]


def test_where_no_probability_is_left() -> None:
    p = np.zeros((1, 3, 4))
    p[..., 2] = 1.0
    assert make_hard(of_probabilities(p), "sample", 1, 0).items.tolist() == [[2, 0, 1]]


def test_mass_is_the_mean_probability() -> None:
    bundle = soft(3, 4, 6, own=True)
    hard = make_hard(bundle)
    p, g = bundle.p.numpy(), bundle.g.numpy()  # type: ignore[union-attr]
    at = np.indices((3, 4))
    assert hard.goals is not None
    assert hard.mass() == pytest.approx((p[(*at, hard.items)].mean(), g[(*at, hard.goals)].mean()))
    plain = make_hard(soft(3, 4, 6, own=False))
    assert plain.mass() == pytest.approx((p[(*at, plain.items)].mean(),) * 2)


def test_real_sequences_stay_as_they_are(shop_bundle: Callable[..., Path]) -> None:
    bundle = load(shop_bundle("real"))
    hard: HardSet = make_hard(bundle)
    assert bundle.windows is not None and hard.real
    for row, size in enumerate(bundle.windows.lengths):
        assert hard.sequence(row) == bundle.windows.items[row, :size].tolist()
    assert len(list(hard.examples())) == int((bundle.windows.lengths - 1).sum())
    for decode, copies in (("sample", 1), ("sample", 2), ("argmax", 2)):
        with pytest.raises(FosterError, match="real sequences"):
            make_hard(bundle, decode, copies)


def test_refusals() -> None:
    bundle = soft(1, 2, 3, own=False)
    with pytest.raises(FosterError, match=r"--copies 2: argmax gives the same .*--decode sample"):
        make_hard(bundle, "argmax", 2)
    with pytest.raises(FosterError, match="--copies 0"):
        make_hard(bundle, "sample", 0)
    with pytest.raises(FosterError, match=r"--decode best: unknown.*argmax, sample"):
        make_hard(bundle, "best")
