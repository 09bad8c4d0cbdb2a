"""How long `foster eval` trains on a set, what it reads meanwhile, and what it says of bytes and costs.

Alone: `pytest tests/commands/made_once/test_eval_steps.py`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import sign
from calling import Foster, ok, read_json
from spying import spy

from foster_cli.bundle import FILES
from foster_cli.data.windows import Cases
from foster_cli.distill import algorithm1
from foster_cli.evaluate import bundle_rows
from foster_cli.evaluate.economics import line
from foster_cli.train.task import Task

QUICK = ("--budget", "3", "--length", "6", "--steps", "0", "--epochs", "1", "--draws", "1", "--student-steps", "60",
         "--check-seeds", "1", "--k-core", "2", "--width", "8", "--items", "id")  # fmt: skip
#: As many steps as no validation chose: students are validated after 0, 50 and 60.
STEPS = 7


@pytest.fixture
def bundle(folder: Path, foster: Foster, shop: Path) -> Path:
    """A bundle that says to take `STEPS` steps."""
    path = folder / "bundle"
    if not path.exists():
        ok(foster("distill", shop, *QUICK, "--out", path))
        manifest = read_json(path / "bundle.json")
        manifest["metrics"]["student_steps"] = STEPS
        (path / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
        sign(path)
    return path


class Watched:
    """Cases that record what is read of them."""

    def __init__(self, cases: Cases) -> None:
        self.cases, self.read = cases, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.append(name)
        return getattr(self.cases, name)

    def __len__(self) -> int:
        self.read.append("len")
        return len(self.cases)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The validation cases of every evaluation from now on."""
    found: list[Watched] = []
    original = bundle_rows.bundle_task

    def task(*args: Any) -> Task:
        made = original(*args)
        found.append(Watched(made.valid))
        cases: Any = found[-1]
        return replace(made, valid=cases)

    monkeypatch.setattr(bundle_rows, "bundle_task", task)
    return found


def test_a_set_is_trained_on_as_it_says_without_a_validation_case(
    foster: Foster, bundle: Path, monkeypatch: pytest.MonkeyPatch, watched: list[Watched]
) -> None:
    taken: list[int] = []
    spy(monkeypatch, algorithm1, "inner_steps", lambda given: taken.append(given["count"]))
    asked = ("eval", bundle, "--rows", "synthetic", "--seeds", "2", "--json")
    found = json.loads(ok(foster(*asked)))
    assert taken == [STEPS] * 2 and [cases.read for cases in watched] == [[]]
    student = found["student"]
    assert (student["steps"], student["validated"], student["item_start"]) == (STEPS, False, "V")
    assert found["rows"]["synthetic"]["chosen"] == [f"step {STEPS}"] * 2
    assert found["economics"] is None  # nothing to compare with

    taken.clear()
    found = json.loads(ok(foster(*asked, "--validate")))
    assert taken == [50, 10] * 2 and len(watched[1].read) > 0
    assert (found["student"]["steps"], found["student"]["validated"]) == (60, True)
    assert set(found["rows"]["synthetic"]["chosen"]) <= {"step 0", "step 50", "step 60"}


def test_a_set_that_is_best_without_training_is_evaluated(foster: Foster, bundle: Path, folder: Path) -> None:
    path = folder / "zero"
    shutil.copytree(bundle, path, dirs_exist_ok=True)
    manifest = read_json(path / "bundle.json")
    manifest["metrics"]["student_steps"] = 0
    (path / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    sign(path)
    found = json.loads(ok(foster("eval", path, "--rows", "synthetic,untrained", "--seeds", "1", "--json")))
    assert found["student"]["steps"] == 0 and found["rows"]["synthetic"]["chosen"] == ["step 0"]


def test_the_row_without_the_factor_reads_no_validation_case_either(
    foster: Foster, bundle: Path, monkeypatch: pytest.MonkeyPatch, watched: list[Watched]
) -> None:
    asked: list[dict[str, Any]] = []
    spy(monkeypatch, bundle_rows, "rows", lambda given: asked.append(given))
    found = json.loads(ok(foster("eval", bundle, "--rows", "synthetic,without_factor", "--seeds", "1", "--json")))
    assert list(found["rows"]) == ["synthetic", "without_factor"] and "synthetic-without_factor" in found["paired"]
    assert found["rows"]["without_factor"]["chosen"] == ["step 600"] and watched[0].read == []
    assert asked[0]["student"].config.steps == STEPS and not asked[0]["student"].validated


def test_bytes_and_costs(foster: Foster, bundle: Path, shop: Path) -> None:
    """The bytes of what a row needs, as the file system counts them, and one line that says what pays."""
    asked = ("eval", bundle, "--rows", "synthetic,full,untrained,item_factor,popularity", "--seeds", "1")
    found = json.loads(ok(foster(*asked, "--json")))
    size = {name: (bundle / name).stat().st_size for name in FILES}
    whole, raw = sum(size.values()), shop.stat().st_size
    assert {name: row["bytes"] for name, row in found["rows"].items()} == {
        "synthetic": whole, "full": raw, "popularity": raw, "untrained": size["items.parquet"],
        "item_factor": size["items.parquet"] + size["item_factor.safetensors"],
    }  # fmt: skip
    costs, metrics = found["economics"], read_json(bundle / "bundle.json")["metrics"]
    assert costs["full"] == found["rows"]["full"]["train_seconds"]
    assert costs["own"] == found["rows"]["synthetic"]["train_seconds"]
    assert costs["make"] == pytest.approx(metrics["teacher_seconds"] + metrics["seconds_distill"])
    assert (costs["bytes"], costs["data_bytes"]) == (whole, raw)
    said = " ".join(ok(foster(*asked)).split())
    assert f"{whole / 1e6:.2f} MB instead of {raw / 1e6:.2f} MB" in said and line(costs).split(" takes")[0] in said
    assert "one training takes" not in ok(foster("eval", bundle, "--rows", "synthetic,untrained", "--seeds", "1"))
