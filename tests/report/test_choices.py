"""The ranking protocol and the choices on validation, as the page says them; cases and repeats counted by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foster_cli.bundle import load
from foster_cli.data.schema import Dataset
from foster_cli.distill import pipeline
from foster_cli.errors import FosterError
from foster_cli.report.choices import chosen, ranking
from foster_cli.report.gather import gather
from foster_cli.settings import Settings
from foster_cli.train.trials import CHOICES

SEEN, WHY, WHICH = "items that a user already has", "because", "cases of each user"


def _manifest(mask_seen: bool, cases: str = "all", **data: Any) -> dict[str, Any]:
    return {"data": data, "ranking": {"mask_seen": mask_seen, "cases": cases}}


def _counted(rows: list[tuple[int, int, int]], split: int, which: str) -> tuple[int, int]:
    """The cases of a split, and those whose target is not in training, row by row; rows (user, item, split) are in the
    order of time."""
    trained, cases = {i for _, i, s in rows if s == 0}, []
    for user in {u for u, _, _ in rows}:
        own = [(i, s) for u, i, s in rows if u == user]
        found = [i for t, (i, s) in enumerate(own) if s == split and t > 0]
        cases += {"all": found, "first": found[:1], "last": found[-1:]}[which]
    return len(cases), sum(item not in trained for item in cases)


@pytest.mark.parametrize("which", ["all", "first", "last"])
@pytest.mark.parametrize("seed", range(3))
def test_cases_and_cold_targets(which: str, seed: int, dataset_of: Callable[..., Dataset]) -> None:
    """Users without a case, and with a first interaction that is none, are among them."""
    rng = np.random.default_rng(seed)
    rows = [(int(rng.integers(9)), int(rng.integers(25)), int(3 * k / 60)) for k in range(60)]
    rows = [(sorted({u for u, _, _ in rows}).index(user), item, split) for user, item, split in rows]
    found = dict(ranking(_manifest(True, which), dataset_of(rows, 25, [""] * 25)))
    assert found[WHICH] == {"all": "all", "first": "the first", "last": "the last"}[which]
    for split, name in ((1, "validation cases"), (2, "test cases")):
        cases, cold = _counted(rows, split, which)
        assert 0 < cold < cases  # else this says little
        have = "has" if cold == 1 else "have"
        words = f"{cases}, of which {cold} ({100 * cold / cases:.1f}%) {have} a target that is not in training"
        assert found[name] == words


def test_a_split_without_a_case(dataset_of: Callable[..., Dataset]) -> None:
    found = dict(ranking(_manifest(True), dataset_of([(0, 0, 0), (0, 1, 0), (0, 1, 1)], 2, ["", ""])))
    assert found["validation cases"].startswith("1, of which 0 (0.0%) have") and found["test cases"] == "none"


@pytest.mark.parametrize(
    ("repeats", "mask_seen", "words"),
    [
        (0, True, "0.0% of training interactions are repeats (as the data decide)"),
        (5, False, "5.0% of training interactions are repeats (as the data decide)"),
        (1, False, "1.0% of training interactions are repeats (as the data decide)"),
        (
            0,
            False,
            "--no-mask-seen was typed (0.0% of training interactions are repeats; the data would have them left",
        ),
        (5, True, "--mask-seen was typed (5.0% of training interactions are repeats; the data would have them ranked"),
    ],
)
def test_who_decided(repeats: int, mask_seen: bool, words: str, dataset_of: Callable[..., Dataset]) -> None:
    """100 training interactions of one user, the last ones repeats; by the bundle's own number, or by the data."""
    rows = [(0, i if i < 100 - repeats else 0, 0) for i in range(100)] + [(0, 7, 1), (0, 8, 2)]
    data = dataset_of(rows, 100, [""] * 100)
    for found in (ranking(_manifest(mask_seen), data), ranking(_manifest(mask_seen, repeats=repeats / 100), None)):
        assert dict(found)[SEEN] == ("left out" if mask_seen else "ranked too")
        assert dict(found)[WHY].startswith(words)


def test_what_nobody_knows_is_not_said(dataset_of: Callable[..., Dataset]) -> None:
    """Without the data and a number of repeats; and of a bundle from before the protocol was recorded."""
    assert ranking(_manifest(True, "last"), None) == [(SEEN, "left out"), (WHICH, "the last")]
    data = dataset_of([(0, 0, 0), (0, 1, 0), (0, 1, 1)], 2, ["", ""])
    before = dict(ranking({"data": {}}, data))
    assert before[SEEN] == "ranked too" and before[WHICH] == "all" and WHY not in before


def test_the_bundle_holds_the_share_of_repeats(dataset_of: Callable[..., Dataset]) -> None:
    """So that the page says who decided where the data are not."""
    import torch

    class Task:
        data = dataset_of([(0, 0, 0), (0, 1, 0), (0, 0, 0), (0, 1, 0), (0, 1, 1)], 2, ["", ""])

        def encoder_identity(self) -> None:
            return None

    found = pipeline.identity(Settings(), Task(), torch.zeros(2, 2))  # type: ignore[arg-type]
    assert found["data"]["repeats"] == 0.5


def _choices(**metrics: Any) -> dict[str, Any]:
    return {**Settings().sections(), "metrics": metrics}


def test_what_was_chosen() -> None:
    assert [choice.name for choice in CHOICES] == ["lexical", "items", "recency"]
    assert chosen(_choices(student_steps=1350, teacher_way=0.75)) == [
        ("lexical", "256 (256 or 0, unless it was given)"),
        ("items", "both (both or text where most targets are new, unless it was given)"),
        ("recency", "0.5 (0.5 or none where most targets are new, unless it was given)"),
        ("steps on the set", "1,350 of at most 400"),
        ("teacher's backbone", "75% of the way to the trained one"),
    ]  # fmt: skip
    old: dict[str, Any] = {"model": {}, "student": {}}
    assert chosen(old) == []  # of an older bundle
    assert chosen({**old, "model": {"lexical": 0}}) == [("lexical", "0 (256 or 0, unless it was given)")]
    assert chosen({**old, "model": {"lexical": 256, "items": "id"}}) == []  # no text is read


def test_the_members_of_a_mixture() -> None:
    """Each by itself; one that validation left out has no weight."""
    alone = {name: {"R@10": value, "N@10": 0.5} for name, value in (("both", 0.12345), ("ease", 0.11), ("tfidf", 0.05))}
    mixture = {"weights": {"both": 1.0, "ease": 0.23456}, "alone": alone, "valid": {"R@10": 0.13, "N@10": 0.07}}
    assert chosen(_choices(teacher=mixture))[3:] == [
        ("teacher both", "R@10 0.1235 alone, weight 1"), ("teacher ease", "R@10 0.1100 alone, weight 0.235"),
        ("teacher tfidf", "R@10 0.0500 alone, left out"), ("teachers together", "R@10 0.1300"),
    ]  # fmt: skip


def test_the_page_has_both(make_bundle: Callable[..., Path], tmp_path: Path, data: Dataset) -> None:
    """Users of the fixture have ten interactions each, split 8:1:1 at one time for all."""
    found = gather(load(make_bundle(tmp_path / "b")), None, data)
    groups = {title: dict(rows) for title, rows in found.facts}
    said = groups["Ranking, in validation and test"]
    assert said[SEEN] == "left out" and said[WHY].endswith("(as the data decide)")
    x = data.interactions
    for split, name in ((1, "validation cases"), (2, "test cases")):
        count = re.match(r"\d+", said[name])
        assert count is not None and int(count[0]) == int((x.split == split).sum())
    assert groups["Chosen on validation"]["lexical"].startswith("256 ")
    assert groups["Recommender"]["items known by"] == "both"
    size = (tmp_path / "b" / "factors.safetensors").stat().st_size
    assert [detail for _, label, detail in found.tiles if label == "numbers in U, T, G"] == [f"{size / 1e6:.2f} MB"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranking": {"mask_seen": None, "cases": "all"}}, {"ranking": {"mask_seen": True, "cases": "some"}},
        {"metrics": {"teacher": {"alone": {"both": {}}}}}, {"metrics": {"teacher_way": "far"}},
        {"metrics": {"student_steps": "many"}},
    ],
)  # fmt: skip
def test_a_foreign_manifest_is_refused(make_bundle: Callable[..., Path], tmp_path: Path, wrong: dict[str, Any]) -> None:
    loaded = load(make_bundle(tmp_path / "b"))
    loaded.manifest.update(wrong)
    with pytest.raises(FosterError, match=r"bundle\.json holds something else"):
        gather(loaded, None, "gone")
