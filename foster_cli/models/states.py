"""Stores the hidden states below the layers that learn in a memory-mapped file in the cache folder.

In: the number of rows of each chunk of texts, and a function that computes the chunks. Out: a mapped tensor (total, w).
The file is safetensors with one tensor `x`. It is written chunk by chunk to `FILE.part`, which is renamed to FILE when
it is complete. After an interruption, the next run continues after the last complete chunk.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.cache import read_or_make, write_about
from foster_cli.console import Console
from foster_cli.errors import FosterError

#: Hidden states up to this size are copied to a GPU. Larger ones stay in the file, and rows are copied on demand.
DEVICE_BYTES = 2 << 30
#: Without the cache folder, hidden states are held in memory, up to this size.
MEMORY_BYTES = 8 << 30
_DTYPES: dict[torch.dtype, tuple[str, np.dtype[Any]]] = {
    torch.bfloat16: ("BF16", np.dtype(np.int16)),
    torch.float32: ("F32", np.dtype(np.float32)),
}

#: Takes k and yields the rows (r, w) of chunk k, chunk k + 1, and so on to the last.
Read = Callable[[int], Iterator[Tensor]]


class Ragged:
    """Rows of different length without padding: row i is values[start[i] : start[i] + size[i]].

    `values` (total,) or (total, w); `start` and `size` (n,). Values may be on disk while start and size are on a GPU;
    `padded` then copies the rows to the GPU.
    """

    def __init__(self, values: Tensor, start: Tensor, size: Tensor) -> None:
        self.values, self.start, self.size = values, start, size

    def padded(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `items` (B,) as (B, l, ...), padded with zeros on the right, and the mask (B, l) int64."""
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


@dataclass(frozen=True)
class ChunkedRows:
    """Rows (total, w) that are computed chunk by chunk. `ends` (c,): the number of rows up to each chunk's end."""

    ends: list[int]
    width: int
    dtype: torch.dtype
    read: Read

    def mapped(self, path: Path, about: dict[str, Any], console: Console) -> Tensor:
        """The rows (total, w), mapped from `path`. A missing file is made first, with `about` for people.

        Raises FosterError if the disk is too small, before anything is computed.
        """
        header, shape = _header(self.ends[-1], self.width, self.dtype), (self.ends[-1], self.width)

        def make() -> Tensor:
            self._write(path, header, console)
            write_about(path, about)
            return _mapped(path, header, shape, self.dtype)

        return read_or_make(path, lambda: _mapped(path, header, shape, self.dtype), make, console)

    def in_memory(self) -> Tensor:
        """The rows (total, w), computed in memory. Raises FosterError if they exceed MEMORY_BYTES."""
        size = self.ends[-1] * self.width * _DTYPES[self.dtype][1].itemsize
        if size > MEMORY_BYTES:
            raise FosterError(
                f"the hidden states of the item texts take {_gib(size)}, too much to hold in memory",
                "leave out --no-cache, so that they are read from a file; or use --train-layers none",
            )
        out = torch.empty(self.ends[-1], self.width, dtype=self.dtype)
        for begin, end, rows in zip([0, *self.ends[:-1]], self.ends, self.read(0), strict=True):
            out[begin:end] = rows.to(self.dtype).cpu()
        return out

    def _write(self, path: Path, header: bytes, console: Console) -> None:
        """Write `path`, continuing after the complete chunks of an interrupted run."""
        part = path.with_name(f"{path.name}.part")
        ends, row = self.ends, self.width * _DTYPES[self.dtype][1].itemsize
        done = _whole_chunks(part, header, [len(header) + end * row for end in ends])
        size = len(header) + (ends[done - 1] * row if done else 0)
        missing = len(header) + ends[-1] * row - size
        free = shutil.disk_usage(path.parent).free
        if missing > free:
            raise FosterError(
                f"the hidden states of the item texts take {_gib(missing)} more in {path.parent}, where {_gib(free)} "
                "are free",
                "set FOSTER_CACHE to a folder with more room, lower --max-tokens, or use --train-layers none",
            )
        if done:
            console.note(f"continuing after {ends[done - 1] / ends[-1]:.0%} of the hidden states, from {part}")
        try:
            with part.open("r+b" if done else "wb") as f:
                f.truncate(size)
                f.seek(0)
                f.write(header)
                f.seek(size)
                for rows in self.read(done):
                    f.write(_numpy(rows, self.dtype).data.cast("B"))
                f.flush()
                os.fsync(f.fileno())
            part.replace(path)
        except OSError as error:
            raise FosterError(
                f"cannot write {part}: {error.strerror or error}",
                "make room or set FOSTER_CACHE to another folder; the same command then continues from there",
            ) from error


def _header(rows: int, width: int, dtype: torch.dtype) -> bytes:
    """The header of a safetensors file with one tensor `x`."""
    name, item = _DTYPES[dtype]
    entry = {"x": {"dtype": name, "shape": [rows, width], "data_offsets": [0, rows * width * item.itemsize]}}
    text = json.dumps(entry, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(path: Path, header: bytes, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Map the tensor of `path`, read-only and lazily. Raises ValueError for a file with another header or size."""
    item = _DTYPES[dtype][1]
    with path.open("rb") as f:
        begins = f.read(len(header)) == header
    if not begins or path.stat().st_size != len(header) + shape[0] * shape[1] * item.itemsize:
        raise ValueError(f"{path} is not whole")
    rows = np.memmap(path, item, "r", offset=len(header), shape=shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows).view(dtype)  # nothing writes to it


def _whole_chunks(part: Path, header: bytes, ends: list[int]) -> int:
    """The number of complete chunks in `part`; 0 for another file. `ends`: its size in bytes after each chunk."""
    if not part.exists():
        return 0
    with part.open("rb") as f:
        if f.read(len(header)) != header:
            return 0
    size = part.stat().st_size
    return sum(end <= size for end in ends)


def _numpy(rows: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Rows (r, w) as the array that the file stores."""
    rows = rows.detach().to(dtype).cpu().contiguous()
    return (rows.view(torch.int16) if dtype == torch.bfloat16 else rows).numpy()


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
