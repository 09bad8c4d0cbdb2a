"""`foster build-ext`: what it needs is said, what was there stays when it fails, and what it builds loads.

It takes half a minute, with a compiler; alone: `pytest tests/test_extension.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from foster_cli import extension
from foster_cli.errors import FosterError

SOURCES = Path(extension.__file__).parents[1] / "csrc"
sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="an installation without a checkout")


def _installation(tmp_path: Path) -> Path:
    """A copy of the package with its sources inside and no extension: what a wheel leaves."""
    for source in (SOURCES.parent / "foster_cli").rglob("*.py"):
        to = tmp_path / "foster_cli" / source.relative_to(SOURCES.parent / "foster_cli")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(source.read_bytes())
    (tmp_path / "foster_cli" / "csrc" / "cpu").mkdir(parents=True)
    return tmp_path / "foster_cli"


def _foster(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foster_cli", *args], capture_output=True, text=True, cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(folder.parent), "FORCE_CUDA": "0", **env},
    )  # fmt: skip


@sources
def test_builds_loads_and_survives_a_failed_build(tmp_path: Path) -> None:
    """On a small extension in place of ours, which takes a minute: the way there is the same."""
    package = _installation(tmp_path)
    none = _foster(package, "build-ext")
    assert none.returncode == 2 and "no C++ sources" in none.stderr
    code = (
        '#include <Python.h>\nPyMODINIT_FUNC PyInit__C() { static PyModuleDef m = {PyModuleDef_HEAD_INIT, "_C"}; '
        "return PyModule_Create(&m); }\n"
    )
    (package / "csrc" / "ops.cpp").write_text(code)
    good = _foster(package, "build-ext")
    assert good.returncode == 0, good.stderr
    assert f"built against torch {torch.__version__}" in good.stdout
    record = json.loads((package / "_C.json").read_text())
    assert record["torch"] == torch.__version__
    before = {p.name: p.read_bytes() for p in package.glob("_C.*")}
    assert len(before) == 2
    (package / "csrc" / "ops.cpp").write_text("#error something is wrong here\n")
    bad = _foster(package, "build-ext")
    assert bad.returncode == 2 and "something is wrong here" in bad.stderr and "Traceback" not in bad.stderr
    assert {p.name: p.read_bytes() for p in package.glob("_C.*")} == before
    compiler = _foster(package, "build-ext", CXX="no-such-compiler")
    assert compiler.returncode == 2 and "no C++ compiler (no-such-compiler)" in compiler.stderr


def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CPU build" in str(extension.cuda_left_out())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("FORCE_CUDA", raising=False)
    assert "FORCE_CUDA=1" in str(extension.cuda_left_out())
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", "/nowhere")
    assert "no nvcc" in str(extension.cuda_left_out())
    monkeypatch.setattr(extension, "_nvcc", lambda home: (12, 4))
    assert "nvcc is of CUDA 12.4, torch was built for 13.0" in str(extension.cuda_left_out())
    monkeypatch.setattr(extension, "_nvcc", lambda home: (13, 0))
    assert extension.cuda_left_out() is None


def test_targets_are_those_nvcc_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", "/nowhere")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    for version, last in (((12, 4), 90), ((13, 0), 100)):
        monkeypatch.setattr(extension, "_nvcc", lambda home, version=version: version)
        flags = extension._targets()
        assert flags[0].endswith("code=sm_80") and flags[-1].endswith(f"code=compute_{last}")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert extension._targets() == []


def test_nvcc_is_asked_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extension._nvcc(str(tmp_path)) is None
    text = "Cuda compilation tools, release 12.8, V12.8.93"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    monkeypatch.setattr(extension.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=text))
    assert extension._nvcc(str(tmp_path)) == (12, 8)


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "setup_arguments", dict)
    monkeypatch.setattr(extension.os, "access", lambda *args: False)
    with pytest.raises(FosterError, match="cannot write"):
        extension.build()
