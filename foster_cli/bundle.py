"""The artifact: a folder with the synthetic set and all that is needed to train on it elsewhere.

    bundle.json               settings, identities of data and encoder, learning rate, metrics, versions
    factors.safetensors       U (M, d1), T (L, d2), G (d1, d2, d)
    item_factor.safetensors   V (n, d)
    items.parquet             item_id, title of the n items, in the order of V
    log.csv, checks.csv       a row per outer step; a row per validation
    SHA256SUMS                sha256 of each of the above

`load` verifies every byte. This module needs torch, safetensors and pyarrow, not the command line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.errors import FosterError
from foster_cli.ops import tucker
from foster_cli.runtime import generator, save_tensors, sha256_file, writing_dir

FORMAT = 1
FILES = (
    "bundle.json",
    "factors.safetensors",
    "item_factor.safetensors",
    "items.parquet",
    "log.csv",
    "checks.csv",
)
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Batch:
    """One training step's data: `items` S (s,), `inputs` and `targets` (M, L-1, s), rows summing to 1 over S."""

    items: Tensor
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `manifest` is bundle.json; n items, M sequences, L positions, width d."""

    path: Path
    manifest: dict[str, Any]
    factors: dict[str, Tensor]
    V: Tensor
    item_ids: list[str]
    titles: list[str]

    @property
    def Q(self) -> Tensor:
        """(M, L, d): the Tucker product of the factors."""
        return tucker(self.factors["U"], self.factors["T"], self.factors["G"])

    @property
    def learning_rate(self) -> float:
        """AdamW rate that validation was done with."""
        return float(self.manifest["student"]["lr"])

    def probabilities(self, rows: slice | None = None, items: Tensor | None = None) -> Tensor:
        """P (m, L, s): each position's distribution over `items` (s,), by default over all n."""
        V = self.V if items is None else self.V[items]
        return torch.softmax(self.Q[rows if rows is not None else slice(None)] @ V.T, dim=-1)

    def batches(self, steps: int, seed: int = 0, items_per_step: int | None = 512) -> Iterator[Batch]:
        """`steps` training batches, a fresh uniform subset S for each (None: all items).

        A recommender reads `inputs @ E_S` (E_S: its own embeddings of `items`) and is trained by
        KL(targets || softmax(H E_S^T)), AdamW at `learning_rate`.
        """
        rng = generator(seed, "student")
        n = len(self.item_ids)
        for _ in range(steps):
            whole = items_per_step is None or items_per_step >= n
            items = torch.arange(n) if whole else torch.randperm(n, generator=rng)[:items_per_step]
            P = self.probabilities(items=items)
            yield Batch(items, P[:, :-1], P[:, 1:])


def save(
    path: Path,
    manifest: dict[str, Any],
    factors: dict[str, Tensor],
    V: Tensor,
    item_ids: list[str],
    titles: list[str],
    log: list[dict[str, float]],
    checks: list[dict[str, float]],
) -> None:
    """Write a bundle beside `path`, then rename it. Raises FosterError where the disk does not let it."""
    with writing_dir(path) as folder:
        save_tensors(factors, folder / FILES[1])
        save_tensors({"V": V}, folder / FILES[2])
        pd.DataFrame({"item_id": item_ids, "title": titles}).to_parquet(folder / FILES[3], index=False)
        pd.DataFrame(log).to_csv(folder / FILES[4], index=False)
        pd.DataFrame(checks).to_csv(folder / FILES[5], index=False)
        text = json.dumps({"format": FORMAT, **manifest}, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / FILES[0]).write_text(text, encoding="utf-8")
        sums = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in FILES)
        (folder / SUMS).write_text(sums)


def load(path: str | Path) -> Bundle:
    """Read and verify a bundle. Raises FosterError for anything missing, changed or of another format."""
    path = Path(path)
    if not (path / SUMS).is_file():
        what = "no such folder" if not path.exists() else f"no bundle (it holds no {SUMS})"
        raise FosterError(f"{path}: {what}", "make one with `foster distill DATA`")
    stated: dict[str, str] = {}
    for line in (path / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        stated[name] = digest
    for name in FILES:
        if not (path / name).is_file() or (path / name).is_symlink():
            raise FosterError(f"{path}: {name} is missing", "copy the bundle again, or distill again")
        if stated.get(name) != sha256_file(path / name):
            raise FosterError(
                f"{path}: {name} was changed (its sha256 differs)", "copy the bundle again, or distill again"
            )
    try:
        manifest = json.loads((path / FILES[0]).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("bundle.json holds no object")
        if manifest.get("format") != FORMAT:
            raise FosterError(
                f"{path}: bundle format {manifest.get('format')}, this foster reads {FORMAT}",
                "upgrade foster-cli",
            )
        factors = load_file(path / FILES[1])
        V = load_file(path / FILES[2])["V"]
        items = pd.read_parquet(path / FILES[3])
        U, T, G = factors["U"], factors["T"], factors["G"]
        ids, titles = items["item_id"].tolist(), items["title"].tolist()
        fits = (U.shape[1], T.shape[1], V.shape[1]) == tuple(G.shape) and len(items) == len(V)
    except (ValueError, KeyError, SafetensorError, OSError, IndexError) as error:
        raise FosterError(f"{path}: cannot be read ({type(error).__name__}: {error})", "distill again") from error
    if not fits:
        raise FosterError(f"{path}: the shapes of its factors do not fit together", "distill again")
    return Bundle(path, manifest, factors, V, ids, titles)
