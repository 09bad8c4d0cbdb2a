"""Whether a teacher is worth distilling: the test by hand, and which rows the line names."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from foster_cli.neighbours import item_knn
from foster_cli.neighbours.base import Neighbours
from foster_cli.ranking.full import score_model
from foster_cli.settings import TrainConfig
from foster_cli.train.anchors import full_teacher
from foster_cli.train.task import Task
from foster_cli.train.verdict import beyond_noise, verdict


@pytest.mark.parametrize("seed", range(30))
def test_one_case_per_user_is_a_paired_test(seed: int) -> None:
    """The one-sided paired t-test at 5 %, of so many users that t is normal."""
    rng = np.random.default_rng(seed)
    first, second = rng.random(2000) < 0.30 + 0.002 * seed, rng.random(2000) < 0.30
    found = beyond_noise(first.astype(float), second.astype(float), np.arange(2000))
    p = stats.ttest_rel(first.astype(float), second.astype(float), alternative="greater").pvalue
    if abs(p - 0.05) > 0.002:
        assert found == (p < 0.05)


@pytest.mark.parametrize("seed", range(20))
def test_the_error_of_sums_over_users(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 12, 80)
    first, second = (rng.random(80) < 0.6).astype(float), (rng.random(80) < 0.45).astype(float)
    difference = [a - b for a, b in zip(first, second, strict=True)]
    mean, variance = sum(difference) / 80, 0.0
    for user in set(users.tolist()):
        variance += sum(d - mean for d, u in zip(difference, users, strict=True) if u == user) ** 2
    assert beyond_noise(first, second, users) == (mean > 1.645 * math.sqrt(variance) / 80)


def test_a_users_cases_that_agree_count_once() -> None:
    """A hundred copies of every case are no more evidence if they are the same users'; of other users they are."""
    first, second = np.array([1.0, 1, 1, 0, 0, 1]), np.array([0.0, 1, 0, 0, 1, 0])
    users = np.arange(6)
    assert not beyond_noise(first, second, users)
    assert not beyond_noise(np.tile(first, 100), np.tile(second, 100), np.tile(users, 100))
    assert beyond_noise(np.tile(first, 100), np.tile(second, 100), np.arange(600))


def test_equal_rows_are_not_beyond_noise() -> None:
    hits = np.array([0.0, 1.0, 1.0])
    assert not beyond_noise(hits, hits, np.arange(3))
    assert not beyond_noise(np.zeros(3), np.ones(3), np.arange(3))
    assert beyond_noise(np.ones(3), np.zeros(3), np.arange(3))


TRAIN = TrainConfig(batch=32, epochs=6, negatives=30, patience=6, lr=2e-2)  # it learns the order of the tiny dataset


def _neighbours(step: int) -> Callable[..., Neighbours]:
    """Neighbours that say that the item `step` further on follows."""
    W = np.roll(np.eye(30, dtype=np.float32), step, axis=1)
    return lambda data: Neighbours(W, 0.1)


def test_an_untrained_teacher_is_said(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "fit", _neighbours(1))  # in the tiny dataset the next number mostly follows
    line = verdict(task, task.fresh(0), 0)
    assert line is not None and "is not better than an untrained model (" in line and " and item kNN (" in line
    assert "try another --lr" in line  # the default, --items both, needs no advice
    known = task.known_by("text")
    line = verdict(known, known.fresh(0), 0)
    assert line is not None and "try --items both, another --lr" in line


def test_a_good_teacher_is_not(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless item kNN is as good."""
    teacher = full_teacher(task, TRAIN, 0)
    monkeypatch.setattr(item_knn, "fit", _neighbours(9))
    assert verdict(task, teacher.model, 0) is None
    ranks = score_model(teacher.model, task.valid)
    monkeypatch.setattr(item_knn, "fit", lambda data: SimpleNamespace(ranks=lambda cases: ranks))
    line = verdict(task, teacher.model, 0)
    assert line is not None and "untrained" not in line and f"validation R@10 {teacher.best:.4f}" in line
    assert f"is not better than item kNN ({teacher.best:.4f})" in line


def test_item_knn_is_that_of_the_data(task: Task) -> None:
    """Without a stand-in: the line has the recall of the model that counts the training split."""
    hits = (item_knn.fit(task.data).ranks(task.valid) <= 10).mean()
    line = verdict(task, task.fresh(0), 0)
    assert line is not None and f"item kNN ({hits:.4f})" in line
