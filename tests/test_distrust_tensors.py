"""A stranger's tensors: other names, shapes, types and sizes than foster writes are refused, within bounded memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from bundles import sign
from safetensors.torch import load_file, save_file
from strangers import D, N, coreset, refused, whole

from foster_cli.distrust import read_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return whole(tmp_path / "b")


def _header(folder: Path, name: str, header: bytes, size: int | None = None, data: bytes = b"") -> None:
    (folder / name).write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)
    sign(folder)


@pytest.mark.parametrize(
    ("header", "size", "data"),
    [
        (b"{}", 2**63, b""), (b"{}", 1 << 40, b""), (b" " * 100_000, None, b""), (b"[" * 60_000, None, b""),
        (b"[]", None, b""), (b"\xff" * 8, None, b""),
        (b'{"V":{"dtype":"F32","shape":[1099511627776,4],"data_offsets":[0,16]}}', None, b"\0" * 16),
        (b'{"V":{"dtype":"F32","shape":[-1,4],"data_offsets":[0,16]}}', None, b"\0" * 16),
        (b'{"V":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}', None, b""),
        (b'{"V":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', None, b""),
        (b'{"../V":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', None, b"\0" * 4),
        (b'{"V":{"dtype":"BOOL","shape":[9,4],"data_offsets":[0,36]}}', None, b"\1" * 36),
        (b'{"V":3}', None, b""), (b'{"V":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', None, b"\0" * 4),
    ],
    ids=range(14),
)  # fmt: skip
def test_tensors(folder: Path, header: bytes, size: int | None, data: bytes) -> None:
    _header(folder, "item_factor.safetensors", header, size, data)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"V": torch.full((N, D), float("nan"))}, {"V": torch.full((N, D), float("inf"))},
        {"V": torch.zeros(N, D).bfloat16()}, {"V": torch.zeros(N, D, dtype=torch.int64)}, {"V": torch.zeros(N - 1, D)},
        {"V": torch.zeros(N, D), "W": torch.zeros(1)}, {"V": torch.zeros(N, D).double()},
        {"V": torch.full((N, D), 65504.0).half() * 2}, {"V": torch.zeros(N, D).half()[:-1]}, {},
    ],
    ids=range(10),
)  # fmt: skip
def test_item_factors(folder: Path, change: dict[str, torch.Tensor]) -> None:
    save_file(change, folder / "item_factor.safetensors")
    sign(folder)
    refused(folder)


CODES = torch.zeros(N, D, dtype=torch.uint8)
CODED = {"codes": CODES, "low": torch.zeros(D), "step": torch.ones(D)}


@pytest.mark.parametrize(
    "change",
    [
        {"low": None}, {"step": None}, {"low": None, "step": None}, {"codes": None}, {"V": torch.zeros(N, D)},
        {"V": torch.zeros(N, D), "codes": None}, {"V": torch.zeros(N, D), "codes": None, "step": None},
        {"low": torch.zeros(D + 1)}, {"low": torch.zeros(1)}, {"step": torch.ones(D - 1)}, {"step": torch.ones(N)},
        {"low": torch.zeros(D + 1), "step": torch.ones(D + 1)}, {"low": torch.zeros(1, D)}, {"step": torch.ones(D, 1)},
        {"low": torch.zeros(0), "step": torch.zeros(0), "codes": CODES[:, :0]}, {"low": torch.zeros(D).double()},
        {"codes": CODES.to(torch.int8)}, {"codes": CODES.to(torch.int64)}, {"codes": CODES.float()},
        {"codes": CODES.half()}, {"codes": CODES.bool()}, {"codes": CODES[0]}, {"codes": CODES[None]},
        {"codes": CODES[:-1]}, {"codes": CODES.repeat(2, 1)}, {"low": CODES[0]}, {"step": CODES[0]},
        {"low": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, {"step": torch.full((D,), float("nan"))},
        {"low": torch.full((D,), float("-inf"))}, {"step": torch.full((D,), float("inf"))}, {"W": torch.zeros(D)},
    ],
    ids=range(32),
)  # fmt: skip
def test_codes_of_an_item_factor(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Whatever is no V, or codes with a lowest value and a step for each column, is refused."""
    folder = whole(tmp_path / "b", 8)
    changed = {name: x.clone() for name, x in {**CODED, **change}.items() if x is not None}
    save_file(changed, folder / "item_factor.safetensors")
    sign(folder)
    refused(folder)


def test_codes_that_stand_for_infinite_numbers(tmp_path: Path) -> None:
    """Each of the stored numbers is finite."""
    folder = whole(tmp_path / "b", 8)
    most = torch.finfo(torch.float32).max
    changed = {"codes": CODES + 255, "low": torch.full((D,), most), "step": torch.full((D,), most)}
    save_file(changed, folder / "item_factor.safetensors")
    sign(folder)
    refused(folder)


def test_codes_belong_to_the_item_factor_alone(folder: Path) -> None:
    tensors = load_file(folder / "factors.safetensors")
    for more in (CODED, {"V": torch.zeros(N, D)}, {"U": CODES[:3, :2].contiguous()}):
        save_file({**tensors, **more}, folder / "factors.safetensors")
        sign(folder)
        refused(folder)


def test_factors_of_a_few_megabytes_that_make_terabytes(folder: Path) -> None:
    tensors = load_file(folder / "factors.safetensors")
    tensors |= {"U": torch.ones(200_000, 2), "T": torch.ones(200_000, 2)}
    save_file(tensors, folder / "factors.safetensors")
    sign(folder)
    refused(folder, "more than foster makes")


@pytest.mark.parametrize(
    "change",
    [
        {"items": torch.zeros(2, 3)}, {"items": torch.full((2, 3), N)}, {"lengths": torch.tensor([3, 9])},
        {"lengths": torch.tensor([3, 1])}, {"lengths": torch.tensor([3])}, {"lengths": torch.tensor([-(2**62), 2**62])},
    ],
    ids=range(6),
)  # fmt: skip
def test_coresets(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    folder = coreset(tmp_path / "b")
    tensors = {**load_file(folder / "windows.safetensors"), **change}
    save_file(tensors, folder / "windows.safetensors")
    sign(folder)
    refused(folder)


def test_a_file_may_lack_only_the_tensors_that_its_reader_names(tmp_path: Path) -> None:
    """What one kind of file may lack, another must have."""
    path, dims = tmp_path / "x.safetensors", {"V": 2, "reads": 1}
    save_file({"V": torch.ones(2, 3)}, path)
    assert set(read_tensors(path, dims, optional=("reads",))) == {"V"}
    for optional in ((), ("V",)):
        with pytest.raises(ValueError, match="reads is missing"):
            read_tensors(path, dims, optional)
