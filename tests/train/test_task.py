"""The protocol of a task: what the data decide is put into the settings once, and all its cases are made by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Protocol, evaluation_cases
from foster_cli.session import Session
from foster_cli.settings import EARLIER, ModelConfig, RankingConfig, Settings
from foster_cli.train.task import make_task, settled

IDS = ModelConfig(items="id", width=8)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes that are printed."""
    notes: list[str] = []
    monkeypatch.setattr(Console, "note", lambda self, text: notes.append(text))
    return notes


@pytest.mark.parametrize(
    ("repeats", "masked", "words"),
    [
        (0, True, "are left out of the ranking: 0.0% of training"),
        (5, False, "are kept in the ranking: 5.0% of training"),
    ],
)
def test_the_data_decide_once(
    repeats: int, masked: bool, words: str, said: list[str], dataset_of: Callable[..., Dataset]
) -> None:
    """100 training interactions of one user, the last ones repeats."""
    rows = [(0, i if i < 100 - repeats else 0, 0) for i in range(100)] + [(0, 7, 1), (0, 8, 2)]
    data = dataset_of(rows, 100, [""] * 100)
    found = settled(Settings(ranking=RankingConfig(cases="last")), data, Console())
    assert found == Settings(ranking=RankingConfig(masked, "last"))
    assert len(said) == 1 and words in said[0]
    assert settled(found, data, Console()) is found and len(said) == 1
    for given in (True, False):
        asked = Settings(ranking=RankingConfig(given))
        assert settled(asked, data, Console()) is asked and len(said) == 1


@pytest.mark.parametrize("which", ["all", "first", "last"])
@pytest.mark.parametrize("masked", [True, False])
def test_every_split_is_made_by_one_protocol(dataset: Dataset, masked: bool, which: str) -> None:
    task = make_task(dataset, IDS, 8, Session(use_cache=False), RankingConfig(masked, which))
    assert task.protocol == Protocol(masked, which)
    for split, found in (("valid", task.valid), ("test", task.cases("test"))):
        expected = evaluation_cases(dataset, split, 8, task.protocol)
        np.testing.assert_array_equal(found.row, expected.row)
        assert (found.seen is not None) == masked
        if which != "all":
            assert len(set(found.user.tolist())) == len(found)


def test_a_bundle_from_before_ranked_all_items() -> None:
    """Its manifest has no `ranking`; one that has it keeps it."""
    made = Settings(paths=("a",), ranking=RankingConfig(True, "first"))
    manifest = {**made.sections(), "data": {"path": ["a"], "prepare": {}}, "seed": 0, "method": "foster"}
    assert Settings.of_manifest(manifest) == made
    del manifest["ranking"]
    assert Settings.of_manifest(manifest) == replace(made, ranking=EARLIER)
    assert RankingConfig(False, "all") == EARLIER
