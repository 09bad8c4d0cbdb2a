"""The results table: its rows by hand, its intervals, its paired differences.

To run it alone: `pytest tests/evaluate/test_rows.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import held_out_of, row_of
from scipy import stats

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases, Protocol, evaluation_cases
from foster_cli.evaluate.references import SEEDED, popularity_row, profiles, text_row
from foster_cli.evaluate.row import Row, held_out
from foster_cli.evaluate.rows import LONGER, ROWS, SYNTHETIC, Student, rows
from foster_cli.evaluate.summary import summarise
from foster_cli.settings import DistillConfig, Settings, StudentConfig, TrainConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.task import Task, make_task

SETTINGS = Settings(
    train=TrainConfig(batch=64, epochs=1, negatives=10, patience=1), distill=DistillConfig(budget=3),
    student=StudentConfig(steps=4, check_every=2),
)  # fmt: skip


def _plain_cases(data: Dataset, split: int) -> list[tuple[int, list[int], int]]:
    """(user, all earlier items, target) of a split, in plain Python."""
    x, found = data.interactions, []
    past: dict[int, list[int]] = {}
    for user, item, s in zip(x.user.tolist(), x.item.tolist(), x.split.tolist(), strict=True):
        if s == split and past.get(user):
            found.append((user, list(past[user]), item))
        past.setdefault(user, []).append(item)
    return found


def _rank(scores: list[float], target: int, out: set[int]) -> float:
    rest = [s for i, s in enumerate(scores) if i != target and i not in out]
    return 1 + sum(s > scores[target] for s in rest) + sum(s == scores[target] for s in rest) / 2


def _ranking(task: Task, mask: bool) -> Task:
    """`task` with or without the items that a user already has."""
    protocol = Protocol(mask)
    return replace(task, protocol=protocol, valid=evaluation_cases(task.data, "valid", task.length, protocol))


@pytest.mark.parametrize("mask", [False, True])
def test_popularity_by_hand(task: Task, mask: bool) -> None:
    data = task.data
    count = Counter(
        i for i, s in zip(data.interactions.item.tolist(), data.interactions.split.tolist(), strict=True) if s == 0
    )
    task = _ranking(task, mask)
    popular = popularity_row(task, held_out(task, 5))
    scores = [float(count[i]) for i in range(30)]
    cases = _plain_cases(data, 2)
    valid, expected = (
        [_rank(scores, target, set(past) if mask else set()) for _, past, target in found]
        for found in (_plain_cases(data, 1), cases)
    )
    assert popular.valid == [float(np.mean([rank <= 10 for rank in valid]))]
    assert popular.ranks.shape == (1, len(cases)) and popular.ranks[0].tolist() == expected
    assert len(set(expected)) > 3
    if not mask:
        assert popular.coverage == [5 / 30]  # everyone gets the same five


def test_profiles_are_the_mean_of_the_last_items() -> None:
    E = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    history = np.array([[1, 2, 3, -1, -1], [4, -1, -1, -1, -1], [5, 6, 7, 8, 0]])
    cases = Cases(history, np.array([3, 1, 5]), np.zeros(3, np.int64), np.arange(3), np.arange(3))
    for last, expected in ((1, [[3], [4], [0]]), (2, [[2, 3], [4], [8, 0]]), (20, [[1, 2, 3], [4], [5, 6, 7, 8, 0]])):
        found = profiles(E, cases, last)
        for c in range(3):
            np.testing.assert_allclose(found[c].numpy(), E[expected[c]].numpy().mean(0), atol=1e-6)


@pytest.mark.parametrize("mask", [False, True])
def test_text_similarity_by_hand(task: Task, mask: bool) -> None:
    task = _ranking(task, mask)
    E = task.text_vectors().double().numpy()
    E /= np.sqrt((E**2).sum(1, keepdims=True))
    data, length = task.data, task.length

    def found(split: int, last: int) -> list[float]:
        out = []
        for _, past, target in _plain_cases(data, split):
            profile = E[past[-length:][-last:]].mean(0)
            cosine = E @ profile / np.sqrt(profile @ profile)  # its length changes no order
            out.append(_rank(cosine.tolist(), target, set(past) if mask else set()))
        return out

    recall = {last: np.mean([r <= 10 for r in found(1, last)]) for last in (1, 2, 3, 5, 10, 20)}
    near = text_row(task, held_out(task, 10))
    (chosen,) = near.chosen
    last = int(chosen.removeprefix("last "))
    assert recall[last] == max(recall.values())
    # fp32 may swap neighbours whose cosines differ by rounding
    difference = np.abs(near.ranks[0] - np.array(found(2, last)))
    assert difference.max() <= 1.0 and (difference > 0).mean() < 0.1
    assert len(set(near.ranks[0].tolist())) > 5


def test_the_table_holds_what_is_promised() -> None:
    rng = np.random.default_rng(0)
    found = {
        name: row_of(rng.integers(1, 40, (3 if name in ("synthetic", "full") else 1, 60)))
        for name in ("synthetic", "full", "untrained", "popularity")
    }
    out = summarise(found, held_out_of([case // 2 for case in range(60)]), (10, 20), [4, 5, 6], draws=200)
    assert (out["cases"], out["seeds"], out["bootstrap_draws"]) == (60, [4, 5, 6], 200)
    assert list(out["rows"]) == list(found)
    assert set(out["paired"]) == {"synthetic-full", "synthetic-untrained", "full-untrained"}
    for name, row in found.items():
        entry = out["rows"][name]
        assert {"R@10", "R@20", "N@10", "N@20", "MRR", "coverage", "train_seconds", "peak_mb", "chosen"} <= set(entry)
        for k in (10, 20):
            per_seed = [np.mean([r <= k for r in ranks]) for ranks in row.ranks]
            assert entry[f"R@{k}"]["seeds"] == pytest.approx(per_seed)
            assert entry[f"R@{k}"]["mean"] == pytest.approx(np.mean(per_seed))
            gains = [np.mean([1 / np.log2(1 + r) if r <= k else 0 for r in ranks]) for ranks in row.ranks]
            assert entry[f"N@{k}"]["mean"] == pytest.approx(np.mean(gains))
            assert entry[f"R@{k}"]["low"] < entry[f"R@{k}"]["mean"] < entry[f"R@{k}"]["high"]
        assert entry["peak_mb"] == 100.0 + len(row.ranks) - 1
    for pair, metrics in out["paired"].items():
        a, b = pair.split("-")
        for metric in ("R@10", "N@20", "MRR"):
            expected = out["rows"][a][metric]["mean"] - out["rows"][b][metric]["mean"]
            assert metrics[metric]["diff"] == pytest.approx(expected)
            assert metrics[metric]["low"] <= expected <= metrics[metric]["high"]


def test_cold_recall_is_that_of_a_table_of_the_cold_cases() -> None:
    """Users have one case each, so a resample's cold cases are a resample of them: the intervals nearly agree. PSP lies
    between the recall of its cold cases, which weigh more, and that of the others."""
    rng = np.random.default_rng(4)
    cold = rng.random(3000) < 0.2
    ranks = np.where(rng.random((2, 3000)) < np.where(cold, 0.3, 0.6), 1.0, 99.0)
    test = held_out_of(range(3000), targets=cold.astype(int).tolist(), counts=[5000, 0])
    out = summarise(
        {"full": row_of(ranks), "random": row_of(ranks[:, ::-1])}, test, (10,), [0, 1], pairs=(("full", "random"),)
    )
    assert out["cold"] == {"cases": int(cold.sum()), "share": cold.mean()}
    alone = summarise({"full": row_of(ranks[:, cold])}, held_out_of(range(int(cold.sum()))), (10,), [0, 1])
    ours, theirs = out["rows"]["full"]["cold R@10"], alone["rows"]["full"]["R@10"]
    assert ours["seeds"] == pytest.approx(theirs["seeds"]) and ours["mean"] == pytest.approx(theirs["mean"])
    for end in ("low", "high"):
        assert ours[end] == pytest.approx(theirs[end], abs=0.01)
    row = out["rows"]["full"]
    assert ours["mean"] < row["PSP@10"]["low"] < row["PSP@10"]["mean"] < row["PSP@10"]["high"] < row["R@10"]["mean"]
    pair = out["paired"]["full-random"]["cold R@10"]
    assert pair["diff"] == pytest.approx(ours["mean"] - out["rows"]["random"]["cold R@10"]["mean"])
    assert pair["low"] < pair["diff"] < pair["high"]


def test_without_a_cold_case_there_is_no_cold_recall() -> None:
    out = summarise({"full": row_of([[1.0, 20.0]]), "random": row_of([[2.0, 3.0]])}, held_out_of([0, 1]), (10, 20), [0],
                    pairs=(("full", "random"),))  # fmt: skip
    assert out["cold"] == {"cases": 0, "share": 0.0}
    for k in (10, 20):
        assert out["rows"]["full"][f"cold R@{k}"] is out["paired"]["full-random"][f"cold R@{k}"] is None
        assert out["rows"]["full"][f"PSP@{k}"]["mean"] == out["rows"]["full"][f"R@{k}"]["mean"]  # one item
    json.dumps(out, allow_nan=False)


def test_a_cold_case_that_few_resamples_hold() -> None:
    """One of 60 users has the only cold case: the resamples without it have no value and are left out."""
    test = held_out_of(range(60), targets=[1, *[0] * 59], counts=[7, 0])
    out = summarise({"full": row_of([[1.0] * 60, [99.0, *[1.0] * 59]])}, test, (10,), [0, 1])["rows"]["full"]
    assert out["cold R@10"] == {"mean": 0.5, "low": 0.0, "high": 1.0, "seeds": [1.0, 0.0]}


def test_intervals_have_the_width_of_users_and_seeds() -> None:
    """One case per user: the normal approximation for one seed; seeds that differ widen it."""
    rng = np.random.default_rng(1)
    hit = rng.random(500) < 0.2
    ranks = np.where(hit, 1.0, 99.0)
    one = summarise({"full": row_of([ranks])}, held_out_of(range(500)), (10,), [0])["rows"]["full"]["R@10"]
    p = hit.mean()
    assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 500), rel=0.1)
    far = np.where(rng.random(500) < 0.6, 1.0, 99.0)
    two = summarise({"full": row_of([ranks, far])}, held_out_of(range(500)), (10,), [0, 1])
    assert two["rows"]["full"]["R@10"]["high"] - two["rows"]["full"]["R@10"]["low"] > 5 * (one["high"] - one["low"])


def test_pairing_removes_what_the_seeds_share() -> None:
    """A row that is as much better with every seed: its difference knows nothing of how far the seeds lie apart. And a
    row's interval is the same whatever rows stand beside it."""
    rng = np.random.default_rng(3)
    low = [np.where(rng.random(400) < share, 1.0, 99.0) for share in (0.1, 0.3, 0.6)]
    high = [np.where(np.arange(400) % 20 == 0, 1.0, row) for row in low]
    lows, highs = (row_of(ranks) for ranks in (low, high))
    test, seeds = held_out_of(range(400)), [0, 1, 2]
    out = summarise({"synthetic": highs, "random": row_of([[1.0] * 400]), "full": lows}, test, (10,), seeds)
    pair, row = out["paired"]["synthetic-full"]["R@10"], out["rows"]["full"]["R@10"]
    assert pair["diff"] == pytest.approx(0.05 * (1 - np.mean([(r == 1.0)[::20].mean() for r in low])))
    assert pair["high"] - pair["low"] < 0.05 < 0.2 < row["high"] - row["low"]
    assert summarise({"full": lows}, test, (10,), seeds)["rows"]["full"] == out["rows"]["full"]


def test_pairing_removes_what_both_rows_share() -> None:
    """Two rows that differ in a few cases only: the interval of the difference is that of these cases."""
    rng = np.random.default_rng(2)
    a = np.where(rng.random(600) < 0.4, 1.0, 99.0)
    b = a.copy()
    b[np.flatnonzero(a == 1.0)[:30]] = 99.0
    out = summarise({"synthetic": row_of([a]), "full": row_of([b])}, held_out_of(range(600)), (10,), [0])
    pair = out["paired"]["synthetic-full"]["R@10"]
    assert pair["diff"] == pytest.approx(30 / 600)
    low, high = stats.norm.interval(0.95, 30 / 600, np.sqrt(0.05 * 0.95 / 600))
    assert pair["low"] == pytest.approx(low, abs=0.005) and pair["high"] == pytest.approx(high, abs=0.005)
    assert pair["low"] > 0
    separate = out["rows"]["synthetic"]["R@10"]
    assert pair["high"] - pair["low"] < 0.6 * (separate["high"] - separate["low"])


def test_a_summary_repeats_and_is_json() -> None:
    found = {"full": row_of([[1.0, 5.0, 30.0, 2.0]])}
    a, b = (summarise(found, held_out_of([0, 0, 1, 2]), (10,), [0], 50) for _ in range(2))
    assert json.dumps(a, allow_nan=False) == json.dumps(b, allow_nan=False)


def _rows(task: Task, names: tuple[str, ...], seeds: list[int], validated: bool = False) -> dict[str, Row]:
    rng = torch.Generator().manual_seed(0)
    Q, V = torch.randn(3, 8, 16, generator=rng), torch.randn(30, 16, generator=rng)
    D = SyntheticSet(Q, V, uniform_subset(30, 10, task.device))
    return rows(task, held_out(task, 10), D, SETTINGS, Student(SETTINGS.student, validated), names, seeds)


def test_all_rows_are_ranked_on_the_same_cases(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LONGER, "steps", 4)
    found = _rows(task, tuple(reversed(ROWS)), [0, 1])
    assert list(found) == list(ROWS)  # in the table's order, whatever was asked for
    cases = len(_plain_cases(task.data, 2))
    for name, row in found.items():
        seeds = 2 if name in (*SEEDED, *SYNTHETIC, "random") else 1
        assert row.ranks.shape == (seeds, cases)
        assert row.ranks.min() >= 1 and row.ranks.max() <= 30
        assert all(0 < share <= 1 for share in row.coverage)


def test_rows_repeat_with_their_seeds(task: Task) -> None:
    """On a backbone that starts elsewhere for every seed: an untrained default one averages the history."""
    task = make_task(task.data, replace(task.model, backbone="gru4rec"), task.length, task.session)
    names = ("synthetic", "random", "untrained")
    a, b = _rows(task, names, [0, 1]), _rows(task, names, [1, 0])
    for name in names:
        assert np.array_equal(a[name].ranks, b[name].ranks[::-1])
        assert (a[name].ranks[0] != a[name].ranks[1]).mean() > 0.2


@pytest.mark.parametrize("validated", [False, True])
def test_rows_of_training_choose_on_validation_alone(task: Task, validated: bool) -> None:
    """With other test targets nothing that is chosen or learned changes."""
    x = task.data.interactions
    item = np.where(x.split == 2, (x.item + 7) % 30, x.item)
    other = replace(task, data=replace(task.data, interactions=replace(x, item=item)))
    names = ("synthetic", "random", "text_similarity")
    a, b = _rows(task, names, [0], validated), _rows(other, names, [0], validated)
    for name in names:
        assert (a[name].chosen, a[name].valid) == (b[name].chosen, b[name].valid)
        assert not np.array_equal(a[name].ranks, b[name].ranks)
    assert (a["synthetic"].valid != [None]) == validated
    assert validated or a["synthetic"].chosen == ["step 4"]
