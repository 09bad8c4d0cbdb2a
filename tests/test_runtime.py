"""Atomic files and folders, seeds, devices, hashes."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from foster_cli import runtime
from foster_cli.errors import FosterError
from foster_cli.runtime import (
    cache_dir,
    generator,
    pick_device,
    save_tensors,
    sha256_file,
    sha256_json,
    stream_seed,
    writing,
    writing_dir,
)


def _left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# --- files ---------------------------------------------------------------------------------------------------------


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


# --- folders -------------------------------------------------------------------------------------------------------


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


# --- seeds, devices, hashes ----------------------------------------------------------------------------------------


def test_streams_are_independent_and_stable() -> None:
    names: list[tuple[object, ...]] = [(), ("fit",), ("student",), ("check", 0), ("check", 1), ("reset", 100)]
    seeds = {(s, n): stream_seed(s, *n) for s in range(50) for n in names}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= v < 2**63 for v in seeds.values())
    # a seed in a bundle must mean the same on every machine and in every release
    digest = hashlib.sha256(b"7:check:1").digest()
    assert stream_seed(7, "check", 1) == int.from_bytes(digest[:8], "little") // 2
    low = [stream_seed(s, "fit") % 16 for s in range(1600)]
    assert stats.chisquare(np.bincount(low, minlength=16)).pvalue > 1e-4


def test_generators_of_two_streams_do_not_correlate() -> None:
    import torch

    def draw(seed: int, name: str) -> Any:
        return torch.randn(4000, generator=generator(seed, name)).numpy()

    assert np.array_equal(draw(0, "a"), draw(0, "a"))
    for other in (draw(0, "b"), draw(1, "a")):
        assert abs(np.corrcoef(draw(0, "a"), other)[0, 1]) < 0.08  # 5 standard errors


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:cpu", "meta", "CUDA", "cpu; rm"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(FosterError, match="--device"):
        pick_device(name)


@pytest.mark.parametrize(("name", "there"), [("cuda", False), ("cuda:0", False), ("cuda:2", True), ("mps", False)])
def test_a_device_that_is_not_there_is_refused(name: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(FosterError, match=f"--device {name}.*(cpu|cuda:0)"):
        pick_device(name)


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto") == torch.device(expected)
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_hashes(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert sha256_json({"a": 1, "b": ["é"]}) == sha256_json({"b": ["é"], "a": 1})
    assert len({sha256_json(v) for v in ([1, 2], [2, 1], ["1", 2], [12], [[1], 2])}) == 5


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("FOSTER_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "foster"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_dir() == tmp_path / ".cache" / "foster"


def test_peak_memory_counts_from_the_reset() -> None:
    import torch

    cpu = torch.device("cpu")
    runtime.reset_peak()
    before = runtime.peak_memory_mb(cpu)
    block = np.ones(64 << 20, dtype=np.uint8)
    assert runtime.peak_memory_mb(cpu) >= before + 60
    assert block.sum() == 64 << 20
