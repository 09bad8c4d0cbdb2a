"""The artifact: a folder with the synthetic set (or a coreset) and all that is needed to train on it elsewhere.

    bundle.json               settings, identities of data and encoder, learning rate, metrics, versions
    factors.safetensors       U (M, d1), T (L, d2), G (d1, d2, d); with goals of their own: T (2L, d2), and
                              reads (r,) int64, the items that positions read
    windows.safetensors       in a coreset, in the place of the factors: items (M, L+1) int64, indices into V padded
                              with -1 on the right, and lengths (M,) int64
    item_factor.safetensors   V (n, d)
    items.parquet             item_id, title of the n items, in the order of V
    log.csv, checks.csv       a row per outer step; a row per validation
    SHA256SUMS                sha256 of each of the above

`load` verifies every byte. The format is 2 with factors, 3 with windows.
This module needs torch, safetensors and pyarrow, not the command line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.ops import tucker
from foster_cli.ops.reading import Reading, mixed
from foster_cli.runtime import generator, save_tensors, sha256_file, writing_dir

FORMAT = 2
FILES = (
    "bundle.json",
    "factors.safetensors",
    "item_factor.safetensors",
    "items.parquet",
    "log.csv",
    "checks.csv",
)
#: A coreset has its own format number, so that a foster from before there were any refuses it.
CORESET_FORMAT = 3
WINDOWS = "windows.safetensors"
CORESET_FILES = tuple(WINDOWS if name == "factors.safetensors" else name for name in FILES)
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Batch:
    """One training step's data, B sequences of l positions (B = 2M, l = L by default; M and L-1 as in the paper).

    `items` S (s,) and `targets` (B, l, s): what is to be predicted after each position, a distribution over S.
    `read_items` R (r,) and `inputs` (B, l, r): what is read there, a distribution over R.
    """

    items: Tensor
    targets: Tensor
    read_items: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `manifest` is bundle.json; n items, M sequences, L positions, width d.

    `reading` says how training reads Q: the factors alone do not. A coreset has `windows`, the M real sequences, and
    no factors: what is made of factors raises FosterError for it.
    """

    path: Path
    manifest: dict[str, Any]
    factors: dict[str, Tensor]
    V: Tensor
    item_ids: list[str]
    titles: list[str]
    reading: Reading
    windows: Windows | None = None

    @property
    def Q(self) -> Tensor:
        """(M, L, d), or (M, 2L, d) with goals of their own: the Tucker product of the factors."""
        if self.windows is not None:
            raise FosterError(f"{self.path}: holds real sequences, no distributions", "read its `windows`")
        return tucker(self.factors["U"], self.factors["T"], self.factors["G"])

    @property
    def own_goals(self) -> bool:
        """Whether what a position reads and what is predicted there are two distributions."""
        return self.reading.own

    @property
    def learning_rate(self) -> float:
        """AdamW rate that validation was done with."""
        return float(self.manifest["student"]["lr"])

    def probabilities(self, rows: slice | None = None, items: Tensor | None = None) -> Tensor:
        """P (m, L, s): each position's distribution over `items` (s,), by default over all n.

        With goals of their own: what is read, over all n items alone (0 outside the items that are read).
        """
        Q = self.Q[rows if rows is not None else slice(None)]
        if self.reading.items is None:
            V = self.V if items is None else self.V[items]
            return torch.softmax(Q @ V.T, dim=-1)
        read = torch.softmax(self.reading.parts(Q)[0] @ self.V[self.reading.items].T, dim=-1)
        P = torch.zeros(*read.shape[:2], len(self.V)).index_copy_(2, self.reading.items, read)
        return P if items is None else P[..., items]

    def goals(self, rows: slice | None = None, items: Tensor | None = None) -> Tensor:
        """(m, l, s): what is to be predicted after each position that is read, over `items` (s,) or all n.

        l = L with goals of their own; l = L-1 where each position is the goal of the one before it.
        """
        V = self.V if items is None else self.V[items]
        goal = self.reading.parts(self.Q[rows if rows is not None else slice(None)])[1]
        return torch.softmax(goal @ V.T, dim=-1)

    def batches(self, steps: int, seed: int = 0, items_per_step: int | None = 2048) -> Iterator[Batch]:
        """`steps` training batches, a fresh uniform subset S for each (None: all items) and freshly mixed users.

        A recommender reads `inputs @ E_R` (E_R: its own embeddings of `read_items`) and is trained by
        KL(targets || softmax(H E_S^T)) (E_S: those of `items`), AdamW at `learning_rate`.
        """
        rng = generator(seed, "student")
        n = len(self.item_ids)
        read, goal = self.reading.parts(self.Q)
        for _ in range(steps):
            whole = items_per_step is None or items_per_step >= n
            items = torch.arange(n) if whole else torch.randperm(n, generator=rng)[:items_per_step]
            weights = self.reading.draw(len(read), rng)
            over = self.reading.read_over(items)
            inputs = mixed(weights, torch.softmax(read @ self.V[over].T, dim=-1))
            targets = torch.softmax(mixed(weights, goal) @ self.V[items].T, dim=-1)
            yield Batch(items, targets, over, inputs)


def save(
    path: Path,
    manifest: dict[str, Any],
    factors: dict[str, Tensor],
    V: Tensor,
    item_ids: list[str],
    titles: list[str],
    log: list[dict[str, float]],
    checks: list[dict[str, float]],
    reads: Tensor | None = None,
) -> None:
    """Write a bundle beside `path`, then rename it. Raises FosterError where the disk does not let it.

    `reads` (r,): the items that positions read, where they have goals of their own; else None.
    """
    tensors = factors | ({} if reads is None else {"reads": reads})
    _save(path, {"format": FORMAT, **manifest}, FILES, tensors, V, item_ids, titles, log, checks)


def save_coreset(
    path: Path,
    manifest: dict[str, Any],
    windows: Windows,
    V: Tensor,
    item_ids: list[str],
    titles: list[str],
    log: list[dict[str, Any]],
) -> None:
    """Write a bundle of real sequences, as `save` does. `log`: a row per window."""
    tensors = {"items": torch.from_numpy(windows.items), "lengths": torch.from_numpy(windows.lengths)}
    _save(path, {"format": CORESET_FORMAT, **manifest}, CORESET_FILES, tensors, V, item_ids, titles, log, [])


def _save(
    path: Path, manifest: dict[str, Any], files: tuple[str, ...], tensors: dict[str, Tensor], V: Tensor,
    item_ids: list[str], titles: list[str], log: list[dict[str, Any]], checks: list[dict[str, float]],
) -> None:  # fmt: skip
    with writing_dir(path) as folder:
        save_tensors(tensors, folder / files[1])
        save_tensors({"V": V}, folder / files[2])
        pd.DataFrame({"item_id": item_ids, "title": titles}).to_parquet(folder / files[3], index=False)
        pd.DataFrame(log).to_csv(folder / files[4], index=False)
        pd.DataFrame(checks).to_csv(folder / files[5], index=False)
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / files[0]).write_text(text, encoding="utf-8")
        sums = "".join(f"{sha256_file(folder / name)}  {name}\n" for name in files)
        (folder / SUMS).write_text(sums)


def _windows(items: Tensor, lengths: Tensor, n: int) -> Windows | None:
    """Windows (M, L+1) over n items; None where the tensors are not such windows."""
    if items.dtype != torch.int64 or lengths.dtype != torch.int64 or items.dim() != 2 or lengths.dim() != 1:
        return None
    found = Windows(items.numpy(), lengths.numpy())
    if not 0 < len(found.items) == len(found.lengths):
        return None
    inside = np.arange(found.items.shape[1]) < found.lengths[:, None]
    known = np.where(inside, (found.items >= 0) & (found.items < n), found.items == -1).all()
    return found if known and found.lengths.min() >= 2 and found.lengths.max() <= found.items.shape[1] else None


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
    files, version = (CORESET_FILES, CORESET_FORMAT) if WINDOWS in stated else (FILES, FORMAT)
    for name in files:
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
        if manifest.get("format") != version:
            raise FosterError(
                f"{path}: bundle format {manifest.get('format')}, this foster reads {version}",
                "upgrade foster-cli",
            )
        factors = load_file(path / files[1])
        reads = factors.pop("reads", None)
        V = load_file(path / FILES[2])["V"]
        items = pd.read_parquet(path / FILES[3])
        ids, titles = items["item_id"].tolist(), items["title"].tolist()
        if WINDOWS in stated:
            windows = _windows(factors["items"], factors["lengths"], len(V))
            if windows is None or V.dim() != 2 or len(items) != len(V):
                raise FosterError(f"{path}: its real sequences do not fit its items", "distill again")
            return Bundle(path, manifest, {}, V, ids, titles, Reading(), windows)
        U, T, G = factors["U"], factors["T"], factors["G"]
        fits = (U.shape[1], T.shape[1], V.shape[1]) == tuple(G.shape) and len(items) == len(V)
        if reads is not None:
            named = reads.dtype == torch.int64 and reads.dim() == 1 and len(reads) > 0
            fits = fits and named and 0 <= int(reads.min()) <= int(reads.max()) < len(V) and len(T) % 2 == 0
        mix = bool(manifest.get("distill", {}).get("mix", False))
    except (ValueError, KeyError, SafetensorError, OSError, IndexError) as error:
        raise FosterError(f"{path}: cannot be read ({type(error).__name__}: {error})", "distill again") from error
    if not fits:
        raise FosterError(f"{path}: the shapes of its factors do not fit together", "distill again")
    reading = Reading(reads is not None, reads, 2 * len(U) if mix else 0)
    return Bundle(path, manifest, factors, V, ids, titles, reading)
