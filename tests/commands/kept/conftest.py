"""For the commands that keep finished work: `foster` in one folder with one cache, and one shop, for a whole module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own folder."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def foster(folder: Path, monkeypatch: pytest.MonkeyPatch, call_foster: Call) -> Call:
    """`call_foster`, in one folder with one cache."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FOSTER_CACHE", str(folder / "cache"))
    return call_foster


@pytest.fixture
def shop(folder: Path, foster: Call) -> Path:
    """Generated data, made once for the module."""
    path = folder / "shop.parquet"
    if not path.exists():
        assert foster("sample", "--out", path, "--users", "60", "--items", "40")[0] == 0
    return path
