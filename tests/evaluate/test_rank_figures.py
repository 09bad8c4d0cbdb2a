"""The figures of a ranking against plain counting, and its files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from handmade import held_out_of, row_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foster_cli.evaluate.rank.figures import Measured, Scored, chances, figures, places, tau
from foster_cli.evaluate.rank.formats import candidates, cells, heads, sentences, title, to_csv
from foster_cli.evaluate.summary import summarise

Float = npt.NDArray[np.float64]
FEW = st.integers(2, 9).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.integers(0, 4).map(float)))


def _tau(a: Float, b: Float) -> float:
    """Tau-b by its definition: over all pairs, (concordant - discordant) / sqrt(untied in a * untied in b)."""
    concordant = discordant = untied_a = untied_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        sign = (a[i] - a[j]) * (b[i] - b[j])
        concordant += sign > 0
        discordant += sign < 0
        untied_a += a[i] != a[j]
        untied_b += b[i] != b[j]
    if not untied_a or not untied_b:
        return math.nan
    return (concordant - discordant) / math.sqrt(untied_a * untied_b)


@given(FEW)
def test_tau_is_that_of_all_pairs(values: Float) -> None:
    assert tau(*values) == pytest.approx(_tau(*values), nan_ok=True)


@given(FEW)
def test_places_count_what_is_better(values: Float) -> None:
    assert places(values[0]) == [1 + sum(other > value for other in values[0]) for value in values[0]]


@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(0, 3).map(float)))
def test_chances_are_shares_of_the_resamples(drawn: Float) -> None:
    expected = np.zeros(len(drawn))
    for column in drawn.T:
        first = [k for k, value in enumerate(column) if value == max(column)]
        for k in first:
            expected[k] += 1 / len(first) / drawn.shape[1]
    np.testing.assert_allclose(chances(drawn), expected)
    assert chances(drawn).sum() == pytest.approx(1.0)


USERS = np.array([case // 3 for case in range(120)])


def _scored(rng: np.random.Generator, share: float, seeds: int = 2) -> Scored:
    """Models that find a case with probability `share`."""
    ranks = np.where(rng.random((seeds, 120)) < share, rng.integers(1, 11, (seeds, 120)), 99.0)
    return Scored(ranks.astype(np.float64), [2.0, 4.0][:seeds], 0)


def _measured(shares: dict[str, tuple[float, float]], full: bool = True) -> list[Measured]:
    """Configurations whose models find these shares of the cases, on the set and on all the data."""
    rng = np.random.default_rng(0)
    return [
        Measured(name, {"model": {"width": k}}, _scored(rng, own), _scored(rng, all_data, 1) if full else None)
        for k, (name, (own, all_data)) in enumerate(shares.items())
    ]


SHARES = {"low": (0.1, 0.2), "high": (0.7, 0.6), "=mid": (0.4, 0.65), "none": (0.0, 0.0)}


def _found(found: list[Measured], **more: Any) -> dict[str, Any]:
    """The JSON of a ranking."""
    head = {
        "data": {"name": "=shop"},
        "method": "foster",
        "budget": 20,
        "split": "valid",
        "cases": 120,
        "seeds": [0, 1],
    }
    head |= {"all_cases": 120, "ranking": {"mask_seen": True, "cases": "all"}, "make_seconds": 50.0}
    return {**head, **figures(found, USERS, 300), **more}


def test_rows_are_sorted_and_have_the_intervals_of_any_table() -> None:
    measured = _measured(SHARES)
    found = figures(measured, USERS, 300)
    rows = found["rows"]
    assert list(rows) == ["high", "=mid", "low", "none"] and [row["rank"] for row in rows.values()] == [1, 2, 3, 4]
    assert [row["full"]["rank"] for row in rows.values()] == [2, 1, 3, 4]
    assert sum(row["best"] for row in rows.values()) == pytest.approx(1.0) and rows["none"]["best"] == 0.0
    test = held_out_of(USERS.tolist())
    table = summarise({m.name: row_of(m.own.ranks) for m in measured}, test, (10,), [0, 1], 300)["rows"]
    full = summarise({m.name: row_of(m.full.ranks) for m in measured if m.full}, test, (10,), [0], 300)["rows"]
    for name, row in rows.items():
        for entry, metric in itertools.product(("mean", "low", "high", "seeds"), ("R@10", "N@10")):
            assert row[metric][entry] == pytest.approx(table[name][metric][entry])
            assert row["full"][metric][entry] == pytest.approx(full[name][metric][entry])
        assert (row["train_seconds"], row["full"]["train_seconds"]) == (3.0, 2.0)


def test_the_two_rankings_are_compared() -> None:
    """Tau, with an interval of the same resampled users; what the first of the set loses; all seconds."""
    versus = figures(_measured(SHARES), USERS, 300)["full"]
    assert versus["tau"]["value"] == pytest.approx(4 / 6)  # one of six pairs is the other way round
    assert versus["tau"]["low"] <= 4 / 6 + 1e-9 and versus["tau"]["high"] == pytest.approx(1.0)
    assert (versus["chosen"], versus["best"]) == ("high", "=mid")
    rows = figures(_measured(SHARES), USERS, 300)["rows"]
    lost = rows["=mid"]["full"]["R@10"]["mean"] - rows["high"]["full"]["R@10"]["mean"]
    assert versus["loss"]["diff"] == pytest.approx(lost) and versus["loss"]["low"] < lost < versus["loss"]["high"]
    assert versus["seconds"] == {"set": 24.0, "full": 8.0, "ratio": pytest.approx(1 / 3)}


def test_both_rankings_have_the_same_users_in_each_draw() -> None:
    """So one that is compared with itself agrees in every resample, near as its configurations are."""
    rng = np.random.default_rng(1)
    near = [_scored(rng, 0.5, 1) for _ in range(5)]
    found = figures([Measured(str(k), {}, same, same) for k, same in enumerate(near)], USERS, 200)
    assert max(row["best"] for row in found["rows"].values()) < 0.9
    assert found["full"]["tau"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert found["full"]["loss"] == {"diff": 0.0, "low": 0.0, "high": 0.0}


def test_equal_configurations_share_a_place_and_rank_nothing() -> None:
    rng = np.random.default_rng(0)
    same, other = _scored(rng, 0.5), _scored(rng, 0.5, 1)
    found = _found([Measured(name, {}, same, other) for name in "abc"])
    assert list(found["rows"]) == ["a", "b", "c"] and {row["rank"] for row in found["rows"].values()} == {1}
    assert [row["best"] for row in found["rows"].values()] == pytest.approx([1 / 3] * 3)
    assert found["full"]["tau"] is None and "no tau" in " ".join(sentences(found))


def test_a_model_that_is_not_finite_is_the_last() -> None:
    lost = Scored(np.full((2, 120), np.inf), [1.0, 1.0], 2)
    found = figures([Measured("lost", {}, lost, None), *_measured({"low": (0.1, 0)}, False)], USERS, 50)
    assert list(found["rows"]) == ["low", "lost"] and found["rows"]["lost"]["not_finite"] == 2
    assert found["rows"]["lost"]["N@10"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "seeds": [0.0, 0.0]}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("full", [True, False])
def test_the_csv_reads_back(full: bool) -> None:
    found = _found(_measured(SHARES, full))
    lines = list(csv.DictReader(io.StringIO(to_csv(found), newline="")))
    assert [line["name"] for line in lines] == ["high", "'=mid", "low", "none"] and lines[0]["data"] == "'=shop"
    for line, row in zip(lines, found["rows"].values(), strict=True):
        assert json.loads(line["settings"]) == row["settings"] and int(line["rank"]) == row["rank"]
        assert float(line["N@10_low"]) == row["N@10"]["low"] and float(line["best"]) == row["best"]
        assert ("full_R@10" in line) == full
        assert not full or float(line["full_R@10_high"]) == row["full"]["R@10"]["high"]
    assert lines[0]["ranked"].startswith("120 validation cases (all of each user)")


def test_the_table_in_words() -> None:
    found = _found(_measured(SHARES), all_cases=9000)
    assert title(found).startswith("=shop: trained on 20 sequences (foster); 120 (a sample of 9,000) validation cases")
    for row in cells(found):
        assert len(row) == len(heads(found))
    said = " ".join(sentences(found))
    assert "first: high, the best in" in said and "tau with the ranking on all the data: 0.67 [" in said
    assert "on all the data =mid is the best, and R@10 is higher by +0." in said and "than with high" in said
    assert "24 s on the set, 8 s on all the data (0.3 times as much); making the set took 50 s" in said
    alone = _found(_measured(SHARES, False))
    assert len(heads(alone)) == len(cells(alone)[0]) == 6 and "tau" not in " ".join(sentences(alone))


def test_candidates_hold_most_of_the_resamples() -> None:
    rows = {name: {"best": best} for name, best in {"a": 0.3, "b": 0.6, "c": 0.06, "d": 0.04}.items()}
    assert candidates({"rows": rows}) == ["b", "a", "c"]
    assert candidates({"rows": {"a": {"best": 1.0}, "b": {"best": 0.0}}}) == ["a"]
