"""A bundle's files: whatever was changed on the way is refused, and a save that fails leaves nothing half done."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bundles import sign
from safetensors.torch import load_file, save_file
from small_set import IDS, TITLES, D, L, M, N, write_own, write_set

from foster_cli import bundle
from foster_cli.bundle import FILES, SUMS, load
from foster_cli.errors import FosterError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return write_set(tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_is_seen(folder: Path, name: str, place: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(FosterError, match=f"{name} was changed"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["gone", "link", "folder", "longer", "empty"])
def test_a_file_that_is_not_itself_is_refused(folder: Path, tmp_path: Path, name: str, how: str) -> None:
    data = (folder / name).read_bytes()
    if how in ("longer", "empty"):
        (folder / name).write_bytes(data + b"\n" if how == "longer" else b"")
    else:
        (folder / name).unlink()
    if how == "link":
        (tmp_path / "elsewhere").write_bytes(data)  # the very same bytes
        (folder / name).symlink_to(tmp_path / "elsewhere")
    if how == "folder":
        (folder / name).mkdir()
    with pytest.raises(FosterError, match=name):
        load(folder)


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\xff\xfe\x00"])
def test_sums_must_be_there_and_whole(folder: Path, content: bytes | None) -> None:
    (folder / SUMS).unlink()
    if content is not None:
        (folder / SUMS).write_bytes(content)
    with pytest.raises(FosterError):
        load(folder)


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FosterError, match="no bundle"):
        load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FosterError, match="no bundle"):
        load(tmp_path / "file")


@pytest.mark.parametrize("number", [0, 1, 3, 5, "2", "4", None])
def test_another_format_is_refused(folder: Path, number: Any) -> None:
    manifest = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    (folder / FILES[0]).write_text(json.dumps({**manifest, "format": number}))
    sign(folder)
    with pytest.raises(FosterError, match=r"format.*distill again" if number == 1 else r"format.*upgrade"):
        load(folder)


def _tensors(folder: Path, name: str, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / name)
    tensors.update({k: v for k, v in changes.items() if v is not None})
    save_file({k: v for k, v in tensors.items() if changes.get(k, v) is not None}, folder / name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (FILES[1], {"U": torch.zeros(M, 3)}), (FILES[1], {"T": torch.zeros(L, 2)}), (FILES[1], {"U": torch.zeros(M)}),
        (FILES[1], {"G": torch.zeros(2, 3)}), (FILES[1], {"G": torch.zeros(2, 3, D + 1)}), (FILES[1], {"T": None}),
        (FILES[2], {"V": torch.zeros(N, D + 1)}), (FILES[2], {"V": torch.zeros(N + 1, D)}),
        (FILES[2], {"V": torch.zeros(N)}), (FILES[2], {"V": None, "W": torch.zeros(N, D)}),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(folder: Path, name: str, changes: dict[str, Any]) -> None:
    _tensors(folder, name, **changes)
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content"), [(FILES[0], b"{"), (FILES[1], b"junk"), (FILES[2], b""), (FILES[3], b"junk")]
)
def test_what_cannot_be_read_is_said(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    sign(folder)
    with pytest.raises(FosterError, match="cannot be read"):
        load(folder)


def test_a_manifest_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / FILES[0]).write_text("[]")
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


def test_items_without_ids_are_refused(folder: Path) -> None:
    pd.DataFrame({"title": TITLES}).to_parquet(folder / FILES[3], index=False)
    sign(folder)
    with pytest.raises(FosterError):
        load(folder)


@pytest.mark.parametrize(
    "reads",
    [torch.tensor([], dtype=torch.int64), torch.tensor([N]), torch.tensor([-1]), torch.ones(2), torch.tensor([[1]])],
)
def test_items_that_cannot_be_read_are_refused(tmp_path: Path, reads: torch.Tensor) -> None:
    folder = write_own(tmp_path / "own")
    _tensors(folder, FILES[1], reads=reads)
    sign(folder)
    with pytest.raises(FosterError, match=r"do not fit|none that foster writes"):
        load(folder)


@pytest.mark.parametrize("fault", ["tensors", "parquet", "csv", "text", "rename"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target, name = {
        "tensors": (bundle, "save_tensors"), "parquet": (pd.DataFrame, "to_parquet"), "csv": (pd.DataFrame, "to_csv"),
        "text": (Path, "write_text"), "rename": (Path, "rename"),
    }[fault]  # fmt: skip
    monkeypatch.setattr(target, name, full)
    with pytest.raises(FosterError, match="disk is full"):
        write_set(tmp_path / "deep" / "run")
    assert list((tmp_path / "deep").iterdir()) == []


def test_safetensors_own_word_for_a_full_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FosterError, match="disk is full"):
        write_set(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / SUMS).read_bytes()
    with pytest.raises(ValueError):
        write_set(folder, manifest={"value": math.nan})  # JSON knows no NaN
    assert (folder / SUMS).read_bytes() == before
    assert load(folder).item_ids == IDS
    assert [p.name for p in folder.parent.iterdir()] == ["run"]


def test_a_save_replaces_the_old_bundle(folder: Path) -> None:
    (folder / "stray").write_text("x")
    write_set(folder, titles=["new"] * N)
    assert load(folder).titles == ["new"] * N
    assert {p.name for p in folder.iterdir()} == {*FILES, SUMS}
