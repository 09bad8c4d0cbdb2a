"""docs/extending.md, done word for word in a copy of the package: an option, a method, a backbone.

It takes half a minute; alone: `pytest tests/commands/test_extending.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calling import Foster, Said, headings, ok, one_line, read_json

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^`(foster_cli/[\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```", re.M | re.S)
PATCH = re.compile(r"^```diff\n(.*?)^```", re.M | re.S)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package, and what the page tells to add to it."""
    folder = tmp_path / "copy"
    skip = shutil.ignore_patterns("__pycache__", "_C.*")
    shutil.copytree(ROOT / "foster_cli", folder / "foster_cli", ignore=skip)
    for built in (ROOT / "foster_cli").glob("_C.*"):
        (folder / "foster_cli" / built.name).symlink_to(built)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files, patches = FILE.findall(page), PATCH.findall(page)
    assert [name for name, _ in files] == [
        "foster_cli/baselines/longest.py", "foster_cli/models/backbones/running_mean.py"
    ]  # fmt: skip
    assert len(patches) == 3
    for name, text in files:
        assert not (folder / name).exists()
        (folder / name).write_text(text, encoding="utf-8")
    for patch in patches:
        subprocess.run(["git", "apply", "-"], input=patch, text=True, check=True, cwd=folder)
    return folder


def _run(package: Path, work: Path, *command: str) -> Said:
    """Python in a process of its own, which finds the package in the folder `package`."""
    folders = os.pathsep.join(map(str, (package, ROOT / "tests")))  # the latter holds helpers, and no package
    environment = {**os.environ, "PYTHONPATH": folders, "FOSTER_CACHE": str(work / "cache")}
    done = subprocess.run([sys.executable, *command], cwd=work, env=environment, capture_output=True, text=True)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def extended(package: Path, tmp_path: Path) -> Foster:
    """`foster ARGS…` of the copy."""
    return lambda *args: _run(package, tmp_path, "-m", "foster_cli", *map(str, args))


QUICK = ("--items", "id", "--width", "8", "--budget", "3", "--length", "4", "--steps", "1", "--draws", "1",
         "--student-steps", "5", "--epochs", "1", "--check-seeds", "1", "--device", "cpu")  # fmt: skip


def test_an_option(extended: Foster, tmp_path: Path, data: Path) -> None:
    """One field is an option that --help lists, that a bundle records, and that a settings file may set; a resumed run
    and a method that does not read it refuse it."""
    groups = headings(ok(extended("distill", "--help")))
    assert "norm of the gradient" in groups["Distillation"]["--clip"]
    assert "--clip" not in ok(extended("compare", "--help"))  # it is offered where the field says

    file = tmp_path / "settings.json"
    file.write_text('{"distill": {"clip": 0.5, "gain": 20}}', encoding="utf-8")
    for name, typed, clip in (("typed", ("--clip", "1"), 1.0), ("given", (), 0.5)):
        ok(extended("distill", data, *QUICK, *typed, "--settings", file, "--out", name))
        recorded = read_json(tmp_path / name / "bundle.json")["distill"]
        assert (recorded["clip"], recorded["gain"]) == (clip, 20.0)
    assert extended("distill", "--resume", "typed", "--clip", "1").code == 0
    one_line(extended("distill", "--resume", "typed", "--clip", "2"), "--clip 2.0: the run began with 1.0")
    for method in ("rollout", "td3", "kcenter"):
        said = extended("distill", data, "--method", method, "--clip", "1")
        one_line(said, f"--clip: means nothing with --method {method}")
    file.write_text('{"distill": {"clip": "big"}}', encoding="utf-8")
    one_line(extended("distill", data, "--settings", file), "distill.clip", "a number or null")
    said = extended("distill", data, "--clip", "big")
    assert said.code == 2 and said.err.startswith("foster: ") and "--clip" in said.err


def test_a_method_and_a_backbone(extended: Foster, tmp_path: Path, data: Path, encoder: Path) -> None:
    options = ("--encoder", encoder, "--epochs", "1", "--length", "4", "--device", "cpu")
    chosen = ("--method", "longest", "--budget", "3", "--backbone", "running_mean", "--out", "chosen")
    ok(extended("distill", data, *chosen, *options))
    manifest = read_json(tmp_path / "chosen" / "bundle.json")
    assert (manifest["method"], manifest["model"]["backbone"]) == ("longest", "running_mean")
    log = (tmp_path / "chosen" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[2] for line in log[1:]] == ["5"] * 3  # windows of all L + 1 items
    found = json.loads(ok(extended("eval", "chosen", "--seeds", "1", "--rows", "synthetic,full", "--json")))
    assert found["method"] == "longest" and set(found["rows"]) == {"synthetic", "full"}


def test_the_backbone_keeps_the_contract(package: Path) -> None:
    contract = ROOT / "tests" / "models" / "backbones" / "test_contract.py"
    # from the copy alone: neither the installed package nor this folder's conftest
    said = _run(package, package, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--noconftest",
                f"--rootdir={package}", str(contract), "-k", "running_mean")  # fmt: skip
    assert said.code == 0, said.out + said.err
    assert " passed" in said.out
