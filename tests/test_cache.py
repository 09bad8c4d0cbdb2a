"""The cache: which folder it is, and that an entry is read, or made where there is none or a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from foster_cli.cache import cache_dir, discard, read_or_make
from foster_cli.console import Console
from foster_cli.errors import FosterError


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("FOSTER_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "foster"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_dir() == tmp_path / ".cache" / "foster"


class _Notes(Console):
    """Remembers what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def _entry(path: Path, error: Exception | None = None) -> tuple[str, list[str]]:
    """What `read_or_make` gives for the text at `path`, and its notes; reading raises `error`, if there is one."""
    console = _Notes()

    def read() -> str:
        if error is not None:
            raise error
        return path.read_text()

    def make() -> str:
        assert path.exists() == (error is not None)  # what is damaged stays until it is replaced
        path.write_text("made")
        return "made"

    return read_or_make(path, read, make, console, "text", lock=path.parent.name == "locked"), console.said


@pytest.mark.parametrize("folder", ["locked", "alone"])
def test_an_entry_is_made_once(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "x"
    path.parent.mkdir()
    (path.parent / ".x.half").write_text("of a process that was killed")
    assert _entry(path) == ("made", [])
    path.write_text("as it was")
    assert _entry(path) == ("as it was", [])
    assert (path.parent / ".x.half").exists() == (folder == "alone")  # only who holds the lock may clear it


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("its sha256 differs"), "ValueError: its sha256 differs"),
        (FosterError("it was changed", "copy it"), "it was changed"), (KeyError("x"), "KeyError: 'x'"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (SafetensorError("no header"), "SafetensorError: no header"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_made_again(tmp_path: Path, error: Exception, why: str) -> None:
    path = tmp_path / "locked" / "x"
    path.parent.mkdir()
    path.write_text("damaged")
    assert _entry(path, error) == ("made", [f"a damaged text is made again: {path} ({why})"])


def test_a_damaged_entry_stays_if_making_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("damaged")

    def read() -> str:
        raise ValueError("its sha256 differs")

    def make() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_or_make(path, read, make, _Notes(), "text", lock=False)
    assert path.read_text() == "damaged"


def test_a_fault_of_ours_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("whole")
    with pytest.raises(TypeError):
        _entry(tmp_path / "x", TypeError("wrong"))
    assert (tmp_path / "x").read_text() == "whole"


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for _ in range(2):  # there is nothing to remove the second time
        discard(tmp_path / "link")
    assert (tmp_path / "mine" / "file").read_text() == "mine" and not (tmp_path / "link").is_symlink()
