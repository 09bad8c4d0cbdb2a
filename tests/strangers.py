"""A small bundle and a small coreset for tests that spoil them as a stranger would, and what must follow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import items, write_coreset

from foster_cli import bundle
from foster_cli.bundle import Contents, load
from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.synthetic.quantise import restored, stored
from foster_cli.verify import verify

N, D = 9, 4
IDS = [f"i{k}" for k in range(N)]
MANIFEST = {"method": "foster", "student": {"lr": 1e-3}, "data": {"name": "x", "path": ["a"], "hash": "h"}, "seed": 0}


def whole(folder: Path, bits: int = 32) -> Path:
    """A bundle whose item factor has `bits` bits per number."""
    rng = torch.Generator().manual_seed(0)
    factors = {k: torch.randn(*s, generator=rng) for k, s in (("U", (3, 2)), ("T", (4, 2)), ("G", (2, 2, D)))}
    V = torch.randn(N, D, generator=rng)
    reads, state = torch.tensor([1, 4]), {"outer": {"step": 3, "x": torch.ones(3)}}
    rows = [{"step": 0.0, "R@10": 0.1}]
    tensors = stored(V, bits)
    contents = Contents(
        MANIFEST, restored(tensors), items(IDS, [f"title {k}" for k in range(N)]), rows, rows, tensors
    )  # fmt: skip
    bundle.save(folder, contents, factors, reads, state)
    return folder


def coreset(folder: Path) -> Path:
    """Two real windows."""
    windows = Windows(np.array([[1, 2, 3], [4, 5, -1]]), np.array([3, 2]))
    return write_coreset(folder, MANIFEST, windows, N)


def refused(folder: Path, word: str = "") -> None:
    """It is refused in a FosterError, `foster verify` says the same without raising, and memory stays small."""
    tracemalloc.start()
    with pytest.raises(FosterError, match=word or None) as caught:
        load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert str(folder) in str(caught.value)
    assert any(f.ok is False for f in verify(folder))
