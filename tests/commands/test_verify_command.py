"""`foster verify`: a line for each check; what is wrong is named, and the code is 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from bundles import sign
from calling import Foster

from foster_cli.bundle import SUMS


@pytest.fixture
def bundle(foster: Foster, data: Path, tmp_path: Path) -> Path:
    said = foster("distill", data, "--out", "b", "--items", "id", "--width", "16", "--budget", "2", "--length", "5",
                  "--steps", "2", "--epochs", "1", "--student-steps", "5", "--draws", "1", "--keep-state")  # fmt: skip
    assert said.code == 0, said.err
    return tmp_path / "work" / "b"


def _checks(foster: Foster, *args: object) -> tuple[int, dict[str, bool | None]]:
    said = foster("verify", *args, "--json")
    return said.code, {row["check"]: row["ok"] for row in map(json.loads, said.out.splitlines())}


def test_a_whole_bundle(foster: Foster, bundle: Path, data: Path, tmp_path: Path) -> None:
    code, found = _checks(foster, bundle)
    assert code == 0 and all(found.values())
    names = {"contents", "manifest", "log", "validations", "state", "data", SUMS, "bundle.json", "state.safetensors"}
    assert names <= set(found)
    said = foster("verify", bundle)
    assert said.code == 0 and "WRONG" not in said.out and "2 sequences x 5 positions over 25 items" in said.out
    moved = data.rename(tmp_path / "moved.csv")
    code, found = _checks(foster, bundle)
    assert code == 0 and found["data"] is None  # not here: nothing to hold against it
    moved.write_text(moved.read_text().replace("red", "blue"))
    code, found = _checks(foster, bundle, "--data", moved)
    assert code == 2 and found["data"] is False


def _manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        change(manifest)
        (folder / "bundle.json").write_text(json.dumps(manifest))

    return apply


def _checks_say(steps: float) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        rows = pd.read_csv(folder / "checks.csv")
        rows.loc[rows["KL"].idxmin(), "student_steps"] = steps
        rows.to_csv(folder / "checks.csv", index=False)

    return apply


def _cut(name: str, lines: int) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        kept = (folder / name).read_text().splitlines()[:lines]
        (folder / name).write_text("\n".join(kept) + "\n")

    return apply


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a metric": ("validations", _manifest(lambda m: m["metrics"].update({"valid_R@10": 0.9}))),
    "the best step": ("validations", _manifest(lambda m: m["metrics"].update({"best_step": 7}))),
    "student steps": ("validations", _manifest(lambda m: m["metrics"].update({"student_steps": 4}))),
    "no student steps": ("validations", _manifest(lambda m: m["metrics"].pop("student_steps"))),
    "student steps of the best check": ("validations", _checks_say(4.0)),
    "no seed": ("manifest", _manifest(lambda m: m.pop("seed"))),
    "an unknown setting": ("manifest", _manifest(lambda m: m["model"].update({"depth": 3}))),
    "budget": ("manifest", _manifest(lambda m: m["distill"].update({"budget": 3}))),
    "shape": ("manifest", _manifest(lambda m: m["item_factor"].update({"shape": [1, 2]}))),
    "log": ("log", lambda folder: (folder / "log.csv").write_text("step,q\n1,nan\n") and None),
    "log words": ("log", lambda folder: (folder / "log.csv").write_text("step,q\n1,x\n") and None),
    "log ragged": ("log", lambda folder: (folder / "log.csv").write_text("step,q\n1,2,3\n") and None),
    "checks": ("validations", lambda folder: (folder / "checks.csv").write_text('step,R@10\n"1') and None),
    "no checks": ("validations", _cut("checks.csv", 1)),
    "no R@10": ("validations", lambda folder: (folder / "checks.csv").write_text("step,N@10\n0,0.1\n") and None),
    "state": ("state", lambda folder: (folder / "state.json").write_text("{}") and None),
    "factors": ("contents", lambda folder: (folder / "factors.safetensors").write_bytes(b"x" * 90) and None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_named(foster: Foster, bundle: Path, name: str) -> None:
    check, change = FAULTS[name]
    change(bundle)
    sign(bundle)
    code, found = _checks(foster, bundle)
    assert code == 2 and [k for k, ok in found.items() if ok is False] == [check]
    said = foster("verify", bundle)
    assert said.code == 2 and said.out.count("WRONG") == 1 and said.err.startswith("foster: ")
    assert said.err.count("\n") == 1 and "Traceback" not in said.err


def test_the_missing_validations_are_named(foster: Foster, bundle: Path) -> None:
    _cut("checks.csv", 1)(bundle)
    sign(bundle)
    assert "WRONG       validations: checks.csv has no validation" in foster("verify", bundle).out


def test_an_earlier_set_need_not_say_how_long_to_train(foster: Foster, bundle: Path) -> None:
    """Its table of validations says it, as a mean over models; the manifest of format 2 does not."""
    _manifest(lambda m: (m.update({"format": 2}), m["metrics"].pop("student_steps")))(bundle)
    _checks_say(2.5)(bundle)
    sign(bundle)
    code, found = _checks(foster, bundle)
    assert code == 0 and found["validations"] is True


def test_a_changed_byte_and_no_bundle(foster: Foster, bundle: Path, tmp_path: Path) -> None:
    (bundle / "log.csv").write_text("changed")
    code, found = _checks(foster, bundle)
    assert code == 2 and found["log.csv"] is False and found["contents"] is None
    assert found["factors.safetensors"] is True
    for args in (("nowhere",), (tmp_path,)):
        assert _checks(foster, *args) == (2, {SUMS: False})
