"""The table is that of the evaluation; one of another bundle, or what is none, is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foster_cli.bundle import load
from foster_cli.errors import FosterError
from foster_cli.evaluate.rows import ROWS
from foster_cli.evaluate.summary import PAIRS
from foster_cli.report.results import read_evaluation, results
from foster_cli.settings import Settings


@pytest.fixture
def made(make_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_the_bundles_own_and_a_named_one(made: Path, evaluation: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(made)
    assert read_evaluation(loaded, None) is None
    (made / "eval.json").write_text(json.dumps(evaluation))
    assert read_evaluation(load(made), None) == evaluation  # and the bundle is still whole
    other = tmp_path / "other.json"
    with pytest.raises(FosterError, match=r"other\.json.*foster eval"):
        read_evaluation(loaded, other)
    other.write_text(json.dumps({**evaluation, "cases": 7}))
    found = read_evaluation(loaded, other)
    assert found is not None and found["cases"] == 7


def _without(*path: str) -> Callable[[dict[str, Any]], Any]:
    def change(found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


def _with(value: Any, *path: str) -> Callable[[dict[str, Any]], Any]:
    def change(found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


#: What a set costs and saves, as an evaluation says it.
COSTS = {"full": 110.0, "own": 10.0, "make": 250.0, "pays_after": 3, "bytes": 500_000, "data_bytes": 4_000_000}


@pytest.mark.parametrize(
    "change",
    [
        _without("rows"), _without("data", "hash"), _without("backbone"), _without("rows", "full", "coverage"),
        _without("rows", "full", "MRR"), _without("paired"), _with({}, "rows"), _with([], "rows"),
        _with("<b>", "rows", "full", "R@10", "low"), _with(float("nan"), "rows", "full", "R@10", "low"),
        _with("many", "cases"), _with(7, "seeds"), _with(True, "rows", "full", "peak_mb"), _with(None, "settings"),
        _with(float("inf"), "paired", "synthetic-full", "MRR", "diff"),
        _with("much", "rows", "full", "bytes"), _with(True, "rows", "full", "bytes"), _with({}, "economics"),
        _with("dear", "economics"), _with({**COSTS, "own": "short"}, "economics"),
        _with({**COSTS, "bytes": None}, "economics"), _with({**COSTS, "pays_after": "soon"}, "economics"),
        _with({**COSTS, "data_bytes": float("nan")}, "economics"), _with({}, "cold"), _with("some", "cold", "cases"),
        _with(float("nan"), "cold", "share"),
    ],
)  # fmt: skip
def test_what_is_no_evaluation(made: Path, evaluation: dict[str, Any], change: Callable[..., Any]) -> None:
    broken = copy.deepcopy(evaluation)
    change(broken)
    (made / "eval.json").write_text(json.dumps(broken))
    with pytest.raises(FosterError, match=r"eval\.json: not what foster eval writes"):
        read_evaluation(load(made), None)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "3"])
def test_what_is_no_json_or_no_object(made: Path, text: str) -> None:
    (made / "eval.json").write_text(text)
    with pytest.raises(FosterError, match=r"eval\.json: no"):
        read_evaluation(load(made), None)


@pytest.mark.parametrize(
    "change", [_with("f" * 64, "data", "hash"), _with("td3", "method"), _with(9, "settings", "distill", "budget")]
)
def test_another_bundles(made: Path, evaluation: dict[str, Any], change: Callable[..., Any]) -> None:
    other = copy.deepcopy(evaluation)
    change(other)
    (made / "eval.json").write_text(json.dumps(other))
    with pytest.raises(FosterError, match="the evaluation of another bundle"):
        read_evaluation(load(made), None)


def test_what_a_set_costs_and_saves_is_a_note(made: Path, evaluation: dict[str, Any]) -> None:
    for costs, words in (
        (COSTS, ("One training takes 110 s", "10 s on the set", "after 3 trainings", "0.50 MB instead of 4.00 MB")),
        ({**COSTS, "pays_after": None, "data_bytes": None}, ("never pays", "0.50 MB.")),
    ):
        (made / "eval.json").write_text(json.dumps({**evaluation, "economics": costs}))
        found = read_evaluation(load(made), None)
        assert found is not None
        cold, note = results(found, real=False, budget=20).notes
        assert cold == "Of the cases, 56 (4.5%) have a target that is not in training."
        assert all(part in note for part in words) and note.endswith(".")


def test_an_evaluation_from_before_sizes_costs_and_cold_targets(made: Path, evaluation: dict[str, Any]) -> None:
    """It is shown as ever."""
    before = copy.deepcopy(evaluation)
    del before["economics"], before["cold"]
    for row in before["rows"].values():
        del row["bytes"]
    (made / "eval.json").write_text(json.dumps(before))
    assert read_evaluation(load(made), None) == before
    found = results(before, real=False, budget=20)
    assert [cells["MB"] for _, _, cells in found.rows] == ["-"] * 3 and found.notes == []


def test_a_bundle_from_before_a_setting_has_its_evaluation(
    make_bundle: Callable[..., Path], evaluation: dict[str, Any], tmp_path: Path
) -> None:
    """`foster eval` writes all settings of today; what the manifest lacks is as it was then."""
    sections = Settings.of_manifest(load(make_bundle(tmp_path / "now")).manifest).sections()
    for part, names in (("student", ["item_start"]), ("train", ["recency"]), ("distill", ["exact", "keep_state"])):
        for name in names:
            del sections[part][name]
    older = load(make_bundle(tmp_path / "before", format=2, **sections))
    settings = json.loads(json.dumps(older.made.sections()))
    (older.path / "eval.json").write_text(json.dumps({**evaluation, "settings": settings}))
    assert read_evaluation(older, None) is not None


def test_every_row_has_words_of_its_own(evaluation: dict[str, Any]) -> None:
    """Names of rows that are no words for a reader, such as `knn_tfidf`, are not shown."""
    every = {**evaluation, "rows": dict.fromkeys(ROWS, evaluation["rows"]["full"]), "paired": {
        f"{a}-{b}": evaluation["paired"]["synthetic-full"] for a, b in PAIRS}}  # fmt: skip
    found = results(every, real=False, budget=20)
    labels = [label for label, _, _ in found.rows]
    assert len(set(labels)) == len(ROWS) and not any("_" in label for label in labels)
    assert labels[ROWS.index("equal_compute")] == "full data, equal compute"
    assert [x for x, _ in found.paired] == [" − ".join(labels[ROWS.index(name)] for name in pair) for pair in PAIRS]


def test_the_table(evaluation: dict[str, Any]) -> None:
    found = results(evaluation, real=False, budget=20)
    assert found.metrics == ["R@10", "N@10", "MRR", "PSP@10"]
    assert [name for name, _, _ in found.rows] == ["20 synthetic", "full data", "untrained"]
    assert found.rows[2][1]["R@10"]["mean"] == 0.1234
    assert found.rows[0][2] == {"coverage": "50.0%", "train s": "12", "MB": "1,234.57", "peak MiB": "512"}
    assert [cells["MB"] for _, _, cells in found.rows[1:]] == ["0.00", "-"]  # of lost data there is no size
    assert [name for name, _ in found.paired] == ["20 synthetic − full data"]
    assert found.share == pytest.approx(0.8)
    assert "1,234 test cases" in found.title and len(found.notes) == 1
    crossed = {
        **evaluation,
        "backbone": {"distilled": "sasrec", "evaluated": "narm"},
        "ranking": {"mask_seen": True, "cases": "first"},
    }
    assert "all of each user" in found.title and "seen items ranked too" in found.title
    other = results(crossed, real=True, budget=20)
    assert "the first of each user" in other.title and "items already seen left out" in other.title
    notes = other.notes
    assert len(notes) == 2 and "narm" in notes[0]
    only = {**evaluation, "rows": {"untrained": evaluation["rows"]["untrained"]}, "paired": {}}
    assert results(only, real=False, budget=20).share is None
