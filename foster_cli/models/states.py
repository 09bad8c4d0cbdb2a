"""Hidden states below the layers that learn: rows by index, from a memory-mapped file in the cache folder.

In: the number of rows of each chunk of texts, and what computes the chunks. Out: a tensor (total, w), mapped. The
file is safetensors with one tensor `x`, written chunk after chunk into `FILE.part`, which becomes FILE once it is
whole. An interrupted run leaves whole chunks there, and the next one goes on behind them.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.runtime import cache_lock

#: Hidden states up to this size are copied to a GPU; larger ones stay in the file, and rows are sent when asked for.
DEVICE_BYTES = 2 << 30
#: Without a cache folder to write to, hidden states are held in memory, up to this size.
MEMORY_BYTES = 8 << 30
_DTYPES: dict[torch.dtype, tuple[str, np.dtype[Any]]] = {
    torch.bfloat16: ("BF16", np.dtype(np.int16)),
    torch.float32: ("F32", np.dtype(np.float32)),
}

#: Gives the rows (r, w) of chunk k, of chunk k + 1, and so on to the last.
Read = Callable[[int], Iterator[Tensor]]


class Ragged:
    """Rows of different length without padding: row i is values[start[i] : start[i] + size[i]].

    `values` (total,) or (total, w); `start` and `size` (n,). Values may lie on the disk while start and size are on a
    GPU: what is asked for is then sent there.
    """

    def __init__(self, values: Tensor, start: Tensor, size: Tensor) -> None:
        self.values, self.start, self.size = values, start, size

    def padded(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `items` (B,) as (B, l, ...) with zeros behind, and the mask (B, l) int64."""
        start, size = self.start[items], self.size[items]
        column = torch.arange(int(size.max()), device=items.device)
        mask = column[None, :] < size[:, None]
        index = torch.where(mask, start[:, None] + column[None, :], 0)
        values = self.values[index.to(self.values.device)].to(items.device)
        shape = mask if values.dim() == 2 else mask.unsqueeze(-1)
        return values * shape.to(values.dtype), mask.to(torch.int64)

    def to(self, device: torch.device) -> Ragged:
        """The same rows on `device`."""
        return Ragged(self.values.to(device), self.start.to(device), self.size.to(device))


def kept_states(
    path: Path, ends: list[int], width: int, dtype: torch.dtype, read: Read, use_cache: bool, console: Console
) -> Tensor:
    """(total, w), total = ends[-1]: mapped from `path`, made and written there first if it is not there.

    `ends` (c,): how many rows there are after each chunk. `use_cache` False: made in memory. Raises FosterError where
    the disk or the memory is too small, before anything is computed.
    """
    if not use_cache:
        return _in_memory(ends, width, dtype, read)
    header = _header(ends[-1], width, dtype)
    with cache_lock(path):
        if path.exists():
            try:
                return _mapped(path, header, (ends[-1], width), dtype)
            except ValueError:
                console.note(f"a damaged cache entry is made again: {path}")
                path.unlink()
        _write(path, header, ends, width, dtype, read, console)
        return _mapped(path, header, (ends[-1], width), dtype)


def _header(rows: int, width: int, dtype: torch.dtype) -> bytes:
    """What a safetensors file with one tensor `x` begins with."""
    name, item = _DTYPES[dtype]
    entry = {"x": {"dtype": name, "shape": [rows, width], "data_offsets": [0, rows * width * item.itemsize]}}
    text = json.dumps(entry, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(path: Path, header: bytes, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The tensor of `path`, read only, in no memory until it is used. ValueError for a file of another form or size."""
    item = _DTYPES[dtype][1]
    with path.open("rb") as f:
        begins = f.read(len(header)) == header
    if not begins or path.stat().st_size != len(header) + shape[0] * shape[1] * item.itemsize:
        raise ValueError(f"{path} is not whole")
    rows = np.memmap(path, item, "r", offset=len(header), shape=shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows).view(dtype)  # nothing writes to it


def _write(
    path: Path, header: bytes, ends: list[int], width: int, dtype: torch.dtype, read: Read, console: Console
) -> None:
    """Make `path`, going on behind the chunks that an interrupted run has left."""
    part = path.with_name(f"{path.name}.part")
    row = width * _DTYPES[dtype][1].itemsize
    done = _whole_chunks(part, header, [len(header) + end * row for end in ends])
    size = len(header) + (ends[done - 1] * row if done else 0)
    missing = len(header) + ends[-1] * row - size
    free = shutil.disk_usage(path.parent).free
    if missing > free:
        raise FosterError(
            f"the hidden states of the item texts take {_gib(missing)} more in {path.parent}; {_gib(free)} are free",
            "set FOSTER_CACHE to a folder with more room, lower --max-tokens, or use --train-layers none",
        )
    if done:
        console.note(f"going on behind {ends[done - 1] / ends[-1]:.0%} of the hidden states, from {part}")
    try:
        with part.open("r+b" if done else "wb") as f:
            f.truncate(size)
            f.seek(0)
            f.write(header)
            f.seek(size)
            for rows in read(done):
                f.write(_numpy(rows, dtype).data.cast("B"))
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
    except OSError as error:
        raise FosterError(
            f"cannot write {part}: {error.strerror or error}",
            "make room or set FOSTER_CACHE to another folder; the same command then goes on where it was",
        ) from error


def _whole_chunks(part: Path, header: bytes, ends: list[int]) -> int:
    """How many chunks of `part` are whole; `ends`: its size in bytes after each chunk. 0 for another file."""
    if not part.exists():
        return 0
    with part.open("rb") as f:
        if f.read(len(header)) != header:
            return 0
    size = part.stat().st_size
    return sum(end <= size for end in ends)


def _numpy(rows: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Rows (r, w) as the file holds them."""
    rows = rows.detach().to(dtype).cpu().contiguous()
    return (rows.view(torch.int16) if dtype == torch.bfloat16 else rows).numpy()


def _in_memory(ends: list[int], width: int, dtype: torch.dtype, read: Read) -> Tensor:
    """The rows of all chunks (total, w)."""
    size = ends[-1] * width * _DTYPES[dtype][1].itemsize
    if size > MEMORY_BYTES:
        raise FosterError(
            f"the hidden states of the item texts take {_gib(size)}, too much to hold in memory",
            "leave out --no-cache, so that they are read from a file; or use --train-layers none",
        )
    out = torch.empty(ends[-1], width, dtype=dtype)
    for begin, end, rows in zip([0, *ends[:-1]], ends, read(0), strict=True):
        out[begin:end] = rows.to(dtype).cpu()
    return out


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
