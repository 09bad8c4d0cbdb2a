"""Arrays with an element per interaction, which may be more than memory should hold.

`empty_rows` gives an array in memory, or for more than `IN_MEMORY` elements one that is mapped from a temporary file,
which has no name and ends with the array. `release` takes the pages of such an array out of the process's memory;
`blocks` reads an array piece by piece.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foster_cli.data.schema import Interactions
from foster_cli.files import disk_error

#: What to do where temporary files have no room.
ROOM = "make room there, or name another folder with TMPDIR"
#: An array of more elements is mapped from a file.
IN_MEMORY = 1 << 22
_BLOCK = 1 << 20


def empty_rows(size: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array (size,) of any content. Raises FosterError if the disk has no room for it."""
    if size <= IN_MEMORY:
        return np.empty(size, kind)
    try:
        with tempfile.TemporaryFile(prefix="foster-") as file:
            bytes_ = size * np.dtype(kind).itemsize
            if sys.platform == "darwin":
                file.truncate(bytes_)
            else:  # a full disk is an error now, and not the end of the process at the first write
                os.posix_fallocate(file.fileno(), 0, bytes_)
            return np.frombuffer(mmap.mmap(file.fileno(), 0), kind)
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir()), ROOM) from error


def empty_interactions(size: int) -> Interactions:
    """Interactions (size,) of any content."""
    return Interactions(*(empty_rows(size, kind) for kind in (np.int64, np.int64, np.int64, np.int8)))


def release(array: npt.NDArray[Any]) -> None:
    """Let the pages of an array of `empty_rows`, or of a slice of one, leave the memory; its content stays."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def blocks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The array in pieces."""
    for begin in range(0, len(array), _BLOCK):
        yield array[begin : begin + _BLOCK]
        release(array)
