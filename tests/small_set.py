"""A small set that tests save, spoil and read: its factors, its manifest, awkward ids and titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.numpy
import torch
from bundles import items

from foster_cli.bundle import Contents, save
from foster_cli.settings import DistillConfig, Settings, StudentConfig

M, L, D, N = 3, 4, 5, 11
STUDENT = StudentConfig(lr=3e-4, steps=9, items_per_step=4)
MANIFEST: dict[str, Any] = {
    **Settings(student=STUDENT, distill=DistillConfig(mix=False)).sections(), "method": "foster", "seed": 5,
    "data": {"name": "Zoë's shop", "path": [], "prepare": {}}, "metrics": {"student_steps": 6},
}  # fmt: skip
TITLES = ["plain", "", 'comma, and "quote', "naïve 漢字 🙂", "line\nbreak", *[f"t{i}" for i in range(6)]]
IDS = ["1", "01", "1.0", "NA", "None", *[f"i{i}" for i in range(6)]]
#: The items of the inputs, where targets are separate.
READS = torch.tensor([1, 4, 9])


def parts() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """U (M, 2), T (L, 3), G (2, 3, D), and V (N, D)."""
    rng = torch.Generator().manual_seed(0)
    factors = {k: torch.randn(*s, generator=rng) for k, s in (("U", (M, 2)), ("T", (L, 3)), ("G", (2, 3, D)))}
    return factors, torch.randn(N, D, generator=rng)


def write_set(path: Path, **changes: Any) -> Path:
    """The set as a bundle. `changes`: manifest, V, titles, log, reads, stored or factors instead of its own."""
    factors, V = parts()
    given = {"manifest": MANIFEST, "factors": factors, "V": V, "titles": TITLES, "reads": None, "stored": None}
    given |= {"log": [{"step": 1.0, "q": 0.5}], **changes}
    checks = [{"step": 0.0, "R@10": 0.1}]
    named = items(IDS, given["titles"])
    contents = Contents(given["manifest"], given["V"], named, given["log"], checks, given["stored"])
    save(path, contents, given["factors"], given["reads"])
    return path


def write_own(path: Path, mix: bool = True) -> Path:
    """The set with separate targets, read over `READS`."""
    return write_set(path, reads=READS, manifest={**MANIFEST, "distill": {"mix": mix}})


def numbers(folder: Path, name: str) -> dict[str, Any]:
    """The arrays of a safetensors file, as numpy reads them."""
    return dict(safetensors.numpy.load_file(folder / name))
