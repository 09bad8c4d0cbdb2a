"""Tests of commands whose results are expensive: each result is made once and shared by the tests of its module.

All tests of a module call `foster` in one folder with one cache, so that what an earlier one made is found again. A
fixture that stands for a result makes it where it is missing: every test also runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from calling import Foster, Said, ok


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own folder."""
    return tmp_path_factory.mktemp("made_once")


@pytest.fixture
def foster(folder: Path, monkeypatch: pytest.MonkeyPatch, call_foster: Callable[..., tuple[int, str, str]]) -> Foster:
    """Calls `foster ARGS…` in this process, in the module's folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FOSTER_CACHE", str(folder / "cache"))
    return lambda *args: Said(*call_foster(*args))


@pytest.fixture
def shop(folder: Path, foster: Foster) -> Path:
    """Generated data, made once for the module."""
    path = folder / "shop.parquet"
    if not path.exists():
        ok(foster("sample", "--out", path, "--users", "60", "--items", "40"))
    return path
