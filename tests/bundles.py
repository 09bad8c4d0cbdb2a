"""Bundles that tests write by hand, and new sums for those that they change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foster_cli.bundle import CORESET_FILES, FILES, STATE_FILES, SUMS, Contents, save_coreset
from foster_cli.data.schema import Catalogue
from foster_cli.data.windows import Windows
from foster_cli.files import sha256_file


def items(ids: Sequence[str], titles: Sequence[str] | None = None) -> Catalogue:
    """The items of a bundle. A bundle holds no texts; titles are the ids unless they are given."""
    return Catalogue(list(ids), list(ids if titles is None else titles), [""] * len(ids))


def write_coreset(folder: Path, manifest: dict[str, Any], windows: Windows, n: int) -> Path:
    """A bundle of real windows over the items i0 … i(n-1)."""
    import torch

    contents = Contents(manifest, torch.zeros(n, 2), items([f"i{k}" for k in range(n)]), [{"window": 1}])
    save_coreset(folder, contents, windows)
    return folder


def sign(folder: Path) -> None:
    """Fresh SHA256SUMS over what is there, as one who changes a bundle on purpose would write them."""
    names = [n for n in dict.fromkeys((*FILES, *CORESET_FILES, *STATE_FILES)) if (folder / n).is_file()]
    (folder / SUMS).write_text("".join(f"{sha256_file(folder / n)}  {n}\n" for n in names))
