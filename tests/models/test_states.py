"""The file of hidden states: what it is, how it is interrupted, damaged, refused; rows of it against slices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.console import SILENT
from foster_cli.errors import FosterError
from foster_cli.models import states
from foster_cli.models.states import ChunkedRows, Ragged

WIDTH = 6
SIZES = [3, 1, 4, 2]
ENDS = np.cumsum(SIZES).tolist()


class Source:
    """Gives the chunks of a fixed tensor (10, 6); `stop`: raises before this chunk; notes from where it was asked."""

    def __init__(self, error: type[BaseException] | None = None, stop: int = 99) -> None:
        rng = torch.Generator().manual_seed(0)
        self.x = torch.randn(ENDS[-1], WIDTH, generator=rng)
        self.asked: list[int] = []
        self.error, self.stop = error, stop

    def __call__(self, first: int) -> Iterator[Tensor]:
        self.asked.append(first)
        for k, rows in enumerate(self.x.split(SIZES)):
            if k >= first:
                if k == self.stop and self.error is not None:
                    raise self.error
                yield rows


def _rows(source: Source, dtype: torch.dtype = torch.bfloat16) -> ChunkedRows:
    return ChunkedRows(ENDS, WIDTH, dtype, source)


def _mapped(path: Path, source: Source, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return _rows(source, dtype).mapped(path, {}, SILENT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_file_is_safetensors_and_is_read_once_made(tmp_path: Path, dtype: torch.dtype) -> None:
    source, path = Source(), tmp_path / "texts" / "key.safetensors"
    for _ in range(2):
        found = _mapped(path, source, dtype)
        assert found.dtype == dtype and torch.equal(found, source.x.to(dtype))
    assert source.asked == [0]
    assert torch.equal(load_file(path)["x"], source.x.to(dtype))  # by another reader
    names = ["key.safetensors", "key.safetensors.about.json", "key.safetensors.lock"]
    assert sorted(p.name for p in path.parent.iterdir()) == names
    assert torch.equal(_rows(source, dtype).in_memory(), found)
    assert source.asked == [0, 0]


def test_rows_are_read_from_the_file_not_from_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    found = _mapped(path, Source(), torch.float32)
    size = path.stat().st_size
    rows = np.memmap(path, np.float32, "r+", offset=size - 4 * WIDTH * ENDS[-1], shape=(ENDS[-1], WIDTH))
    rows[7] = 42.0
    rows.flush()
    assert found[7].tolist() == [42.0] * WIDTH


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_run_is_no_whole_one_and_goes_on(tmp_path: Path, error: type[BaseException], stop: int) -> None:
    path, whole = tmp_path / "key.safetensors", tmp_path / "whole.safetensors"
    with pytest.raises(error):
        _mapped(path, Source(error, stop))
    assert not path.exists()
    source = Source()
    assert torch.equal(_mapped(path, source), _mapped(whole, Source()))
    assert source.asked == [stop]  # what was finished is not computed again
    assert path.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("cut", [1, 2 * WIDTH * 1, 2 * WIDTH * 4 + 5, 10_000])
def test_a_chunk_that_was_cut_off_is_made_again(tmp_path: Path, cut: int) -> None:
    path, part = tmp_path / "key.safetensors", tmp_path / "key.safetensors.part"
    with pytest.raises(KeyboardInterrupt):
        _mapped(path, Source(KeyboardInterrupt, 3))
    part.write_bytes(part.read_bytes()[:-cut])
    source = Source()
    assert torch.equal(_mapped(path, source), source.x.to(torch.bfloat16))
    assert source.asked == [{1: 2, 12: 2, 53: 1, 10_000: 0}[cut]]


def test_a_part_of_another_form_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    with pytest.raises(KeyboardInterrupt):
        _mapped(path, Source(KeyboardInterrupt, 2), torch.float32)
    source = Source()
    assert torch.equal(_mapped(path, source, torch.bfloat16), source.x.to(torch.bfloat16))
    assert source.asked == [0]


@pytest.mark.parametrize("damage", ["empty", "junk", "short", "long", "other"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "key.safetensors"
    _mapped(path, Source())
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "junk": b"junk", "short": whole[:-1], "long": whole + b"x", "other": b"x" + whole[1:]}[damage]
    )
    source = Source()
    assert torch.equal(_mapped(path, source), source.x.to(torch.bfloat16))
    assert source.asked == [0] and path.read_bytes() == whole


def test_too_small_a_disk_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * WIDTH * ENDS[-1] - 1
    monkeypatch.setattr(states.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    source = Source()
    with pytest.raises(FosterError, match=r"GiB are free.*FOSTER_CACHE"):
        _mapped(tmp_path / "key.safetensors", source)
    assert source.asked == []
    free += 1
    assert len(_mapped(tmp_path / "key.safetensors", source)) == ENDS[-1]


def test_only_what_is_missing_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.safetensors"
    with pytest.raises(KeyboardInterrupt):
        _mapped(path, Source(KeyboardInterrupt, 3))
    missing = 2 * WIDTH * SIZES[3]
    for free in (missing - 1, missing):
        monkeypatch.setattr(states.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if free < missing:
            with pytest.raises(FosterError, match="are free"):
                _mapped(path, Source())
    source = Source()
    assert torch.equal(_mapped(path, source), source.x.to(torch.bfloat16))


def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"

    class Full(OSError):
        def __init__(self) -> None:
            super().__init__(28, "No space left on device")

    with pytest.raises(FosterError, match=r"No space left on device; make room.*continues"):
        _mapped(path, Source(Full, 2))
    assert not path.exists()
    source = Source()
    assert torch.equal(_mapped(path, source), source.x.to(torch.bfloat16))
    assert source.asked == [2]


def test_without_a_cache_there_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    size = 2 * WIDTH * ENDS[-1]
    monkeypatch.setattr(states, "MEMORY_BYTES", size)
    assert len(_rows(Source()).in_memory()) == ENDS[-1]
    monkeypatch.setattr(states, "MEMORY_BYTES", size - 1)
    source = Source()
    with pytest.raises(FosterError, match="too much to hold in memory; leave out --no-cache"):
        _rows(source).in_memory()
    assert source.asked == [] and not list(tmp_path.iterdir())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_padded_rows_are_slices(sizes: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(sizes))))  # how rows lie in the file
    rows = [torch.full((size, 2), float(10 * i)) + torch.arange(size)[:, None] for i, size in enumerate(sizes)]
    start = torch.empty(len(sizes), dtype=torch.int64)
    place = 0
    for i in order:
        start[i] = place
        place += sizes[i]
    ragged = Ragged(torch.cat([rows[i] for i in order]), start, torch.tensor(sizes))
    items = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, max_size=6))
    found, mask = ragged.padded(torch.tensor(items))
    assert found.shape[1] == max(sizes[i] for i in items)
    for b, i in enumerate(items):
        assert torch.equal(found[b, : sizes[i]], rows[i]) and not found[b, sizes[i] :].any()
        assert mask[b].tolist() == [1] * sizes[i] + [0] * (found.shape[1] - sizes[i])
