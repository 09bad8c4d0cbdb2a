"""Files and folders that appear whole or not at all, and the hashes of what they hold."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from foster_cli.errors import FosterError
from foster_cli.files import save_tensors, sha256_file, sha256_json, writing, writing_dir


def _left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    with writing(path) as tmp:
        assert not path.exists() and tmp.parent == path.parent  # the same disk, so that a rename is enough
        tmp.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and _left(path.parent) == {"x.txt"}


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with writing(tmp_path / "x") as tmp:
            tmp.write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_fault_leaves_the_old_file(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(FosterError if isinstance(fault, OSError) else type(fault)), writing(path) as tmp:
        tmp.write_text("half")
        raise fault
    assert path.read_text() == "old" and _left(tmp_path) == {"x"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("kind", [writing, writing_dir])
def test_a_full_disk_is_named(tmp_path: Path, kind: Any, code: int) -> None:
    with pytest.raises(FosterError) as caught, kind(tmp_path / "x"):
        raise OSError(code, os.strerror(code))
    assert "disk is full" in str(caught.value) and str(tmp_path / "x") in str(caught.value)
    assert _left(tmp_path) == set()


@pytest.mark.parametrize("kind", [writing, writing_dir])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FosterError, match="cannot write"), kind(tmp_path / "file" / "x"):
        pytest.fail("there is no such folder")
    assert _left(tmp_path) == {"file"}


@pytest.mark.parametrize("kind", [writing, writing_dir])
def test_a_failed_rename_leaves_nothing(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(FosterError, match="disk is full"), kind(tmp_path / "x"):
        pass
    assert _left(tmp_path) == set()


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with writing_dir(tmp_path / "out") as tmp:
            (tmp / name).write_text(name)
            (tmp / "sub").mkdir()
            assert not (tmp_path / "out" / name).exists()
        assert _left(tmp_path) == {"out"} and _left(tmp_path / "out") == {name, "sub"}


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_fault_leaves_the_old_folder(tmp_path: Path, fault: BaseException) -> None:
    with writing_dir(tmp_path / "out") as tmp:
        (tmp / "old").write_text("old")
    with (
        pytest.raises(FosterError if isinstance(fault, OSError) else type(fault)),
        writing_dir(tmp_path / "out") as tmp,
    ):
        (tmp / "half").write_text("")
        raise fault
    assert _left(tmp_path) == {"out"} and _left(tmp_path / "out") == {"old"}


def test_the_old_folder_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing_dir(tmp_path / "out") as tmp:
        (tmp / "old").write_text("old")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Any) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(FosterError), writing_dir(tmp_path / "out"):
        pass
    assert _left(tmp_path) == {"out"} and _left(tmp_path / "out") == {"old"}


def test_tensors_that_cannot_be_written_are_an_os_error(tmp_path: Path) -> None:
    import torch

    with pytest.raises(OSError):
        save_tensors({"x": torch.zeros(2)}, tmp_path / "no" / "such" / "folder" / "x")


def test_tensors_survive_whatever_their_layout(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    save_tensors({"x": x.T, "row": x[1]}, tmp_path / "x")
    found = load_file(tmp_path / "x")
    assert found["x"].tolist() == [[0, 3], [1, 4], [2, 5]] and found["row"].tolist() == [3, 4, 5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="disk is full"), writing(tmp_path / "x") as tmp:
        tmp.unlink()
        tmp.symlink_to("/dev/full")
        tmp.write_bytes(b"x" * 10_000)
    assert _left(tmp_path) == set()


def test_hashes(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert sha256_json({"a": 1, "b": ["é"]}) == sha256_json({"b": ["é"], "a": 1})
    assert len({sha256_json(v) for v in ([1, 2], [2, 1], ["1", 2], [12], [[1], 2])}) == 5
