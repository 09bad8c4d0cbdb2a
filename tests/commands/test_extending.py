"""docs/extending.md, done word for word in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert len(patches) == 2
    for name, text in files:
        assert not (folder / name).exists()
        (folder / name).write_text(text, encoding="utf-8")
    for patch in patches:
        subprocess.run(["git", "apply", "-"], input=patch, text=True, check=True, cwd=folder)
    return folder


def _run(package: Path, work: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package), "FOSTER_CACHE": str(work / "cache")}
    done = subprocess.run([sys.executable, *command], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_and_a_backbone(package: Path, tmp_path: Path, data: Path, encoder: Path) -> None:
    foster = ("-m", "foster_cli")
    options = ("--encoder", str(encoder), "--epochs", "1", "--length", "4", "--device", "cpu")
    chosen = ("--method", "longest", "--budget", "3", "--backbone", "running_mean", "--out", "chosen")
    _run(package, tmp_path, *foster, "distill", str(data), *chosen, *options)
    manifest = json.loads((tmp_path / "chosen" / "bundle.json").read_text(encoding="utf-8"))
    assert (manifest["method"], manifest["model"]["backbone"]) == ("longest", "running_mean")
    log = (tmp_path / "chosen" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[2] for line in log[1:]] == ["5"] * 3  # windows of all L + 1 items
    found = json.loads(_run(package, tmp_path, *foster, "eval", "chosen", "--seeds", "1", "--json"))
    assert found["method"] == "longest" and set(found["rows"]) >= {"synthetic", "full"}


def test_the_backbone_keeps_the_contract(package: Path) -> None:
    contract = ROOT / "tests" / "models" / "backbones" / "test_contract.py"
    # from the copy alone: neither the installed package nor this folder's conftest
    _run(package, package, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--noconftest",
         f"--rootdir={package}", str(contract), "-k", "running_mean")  # fmt: skip
