"""The bundle: a folder with the synthetic set (or a coreset) and all that is needed to train on it elsewhere.

    bundle.json               settings, identities of data and encoder, learning rate, metrics, versions
    factors.safetensors       U (M, d1), T (L, d2), G (d1, d2, d), in 16 or 32 bits; with separate targets: T (2L, d2),
                              and reads (r,) int64, the items of the inputs
    windows.safetensors       in a coreset, instead of the factors: items (M, L+1) int64, indices into V padded with -1
                              on the right, and lengths (M,) int64
    item_factor.safetensors   V (n, d), in 16 or 32 bits, or as codes of 8 (`synthetic/quantise.py`)
    items.parquet             item_id, title of the n items, in the order of V
    log.csv, checks.csv       a row per outer step; a row per validation
    state.json, state.safetensors   the state from which more outer steps continue (`checkpoint.py`), if it was kept
    SHA256SUMS                sha256 of each of the above

`load` verifies every byte that it reads. The format is 4 with factors (2: always in 32 bits), 3 with windows.
This module needs torch, safetensors and pyarrow, but not the command line.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from foster_cli.checkpoint import from_bytes, to_bytes
from foster_cli.data.schema import Catalogue
from foster_cli.data.windows import Windows
from foster_cli.distrust import MOST_JSON, read_items, read_manifest, read_small, read_tensors
from foster_cli.errors import FosterError
from foster_cli.files import quoted, real_path, save_tensors, sha256_file, writing_dir
from foster_cli.ops import tucker
from foster_cli.runtime import generator
from foster_cli.settings import SECTIONS, PrepareSettings, Settings, StudentConfig
from foster_cli.synthetic.quantise import restored
from foster_cli.synthetic.reading import Reading, mixed

FORMAT = 4
#: The formats with factors that are read.
READABLE = (2, FORMAT)
FILES = (
    "bundle.json",
    "factors.safetensors",
    "item_factor.safetensors",
    "items.parquet",
    "log.csv",
    "checks.csv",
)
#: A coreset has another format number, so that a foster older than coresets refuses it.
CORESET_FORMAT = 3
WINDOWS = "windows.safetensors"
CORESET_FILES = tuple(WINDOWS if name == "factors.safetensors" else name for name in FILES)
SUMS = "SHA256SUMS"
#: The sections of settings in a manifest.
SETTINGS: dict[str, type] = {"data.prepare": PrepareSettings, **SECTIONS}
#: The AdamW learning rate, at least, of recommenders of another backbone than the set was made with (**ours**): seven
#: of eight learn more from a set of MovieLens at this rate than at 1e-3 (docs/rank.md).
OTHER_LR = 3e-3
#: The largest number of elements of Q that is read: 4 GiB in fp32.
MOST_NUMBERS = 1 << 30
#: Optional files: a bundle has both or neither.
STATE_FILES = ("state.json", "state.safetensors")
#: What other commands write into a bundle, beside exports, whose names begin with `synthetic`.
LATER_FILES = ("eval.json", "report.html")


@dataclass(frozen=True)
class Batch:
    """The data of one training step: B sequences of l positions (B = 2M, l = L by default; M and L-1 in the paper).

    `items` S (s,) and `targets` (B, l, s): the distribution over S to predict after each position.
    `read_items` R (r,) and `inputs` (B, l, r): the distribution over R to read at each position.
    """

    items: Tensor
    targets: Tensor
    read_items: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `manifest` is bundle.json; n items, M sequences, L positions, width d.

    `reading` says how training reads Q. A coreset has `windows`, the M real sequences, instead of factors: everything
    that is computed from factors then raises FosterError.
    """

    path: Path
    manifest: dict[str, Any]
    factors: dict[str, Tensor]
    V: Tensor
    item_ids: list[str]
    titles: list[str]
    reading: Reading
    windows: Windows | None = None

    @cached_property
    def made(self) -> Settings:
        """The settings that it was made with. Raises FosterError if its manifest lacks some, or names unknown ones."""
        try:
            return Settings.of_manifest(self.manifest)
        except FosterError as error:
            raise FosterError(f"{self.path}: {error.message}", error.hint) from error

    @property
    def Q(self) -> Tensor:
        """The Tucker product of the factors: (M, L, d), or (M, 2L, d) with separate targets."""
        if self.windows is not None:
            raise FosterError(f"{self.path}: holds real sequences, no distributions", "read its `windows`")
        return tucker(self.factors["U"], self.factors["T"], self.factors["G"])

    @property
    def own_goals(self) -> bool:
        """Whether the input and the target of a position are two separate distributions."""
        return self.reading.own

    @property
    def recipe(self) -> StudentConfig:
        """How to train on the set: rate, items per step, averaging, and the number of steps that validation chose when
        it was made; 0 where a fresh model was best before it trained. A set of an earlier version has the largest
        number of steps that was tried."""
        made = self.made.student
        return replace(made, steps=self.manifest.get("metrics", {}).get("student_steps", made.steps))

    def recipe_for(self, backbone: str) -> StudentConfig:
        """How a recommender of this backbone trains on the set: the `recipe`, at `OTHER_LR` at least if it is another
        backbone than the set was made with."""
        own = self.recipe
        return own if backbone == self.made.model.backbone else replace(own, lr=max(own.lr, OTHER_LR))

    @property
    def learning_rate(self) -> float:
        """The AdamW learning rate that validation was done with."""
        return float(self.manifest["student"]["lr"])

    def probabilities(self, rows: slice | None = None, items: Tensor | None = None) -> Tensor:
        """P (m, L, s): each position's distribution over `items` (s,), by default over all n.

        With separate targets: the inputs, which are 0 outside R; `items` then selects columns without renormalising.
        """
        Q = self.Q[rows if rows is not None else slice(None)]
        if self.reading.items is None:
            V = self.V if items is None else self.V[items]
            return torch.softmax(Q @ V.T, dim=-1)
        read = torch.softmax(self.reading.parts(Q)[0] @ self.V[self.reading.items].T, dim=-1)
        P = torch.zeros(*read.shape[:2], len(self.V)).index_copy_(2, self.reading.items, read)
        return P if items is None else P[..., items]

    def goals(self, rows: slice | None = None, items: Tensor | None = None) -> Tensor:
        """(m, l, s): the target of each input position, a distribution over `items` (s,), by default over all n.

        l = L with separate targets; l = L-1 if each position is the target of the one before it.
        """
        V = self.V if items is None else self.V[items]
        goal = self.reading.parts(self.Q[rows if rows is not None else slice(None)])[1]
        return torch.softmax(goal @ V.T, dim=-1)

    def batches(self, steps: int | None = None, seed: int = 0, items_per_step: int | None = None) -> Iterator[Batch]:
        """Yield `steps` training batches, each with a fresh uniform subset S of `items_per_step` items, at most all of
        them, and fresh mixed users. None: as many as `recipe` says, which may be none at all.

        A recommender reads `inputs @ E_R` and is trained with AdamW at `learning_rate` on the loss
        KL(targets || softmax(H E_S^T)). E_R and E_S are its own embeddings of `read_items` and `items`, which start at
        V best.
        """
        rng = generator(seed, "student")
        n = len(self.item_ids)
        read, goal = self.reading.parts(self.Q)
        recipe = self.recipe
        size = recipe.items_per_step if items_per_step is None else items_per_step
        size = n if size is None else size
        for _ in range(recipe.steps if steps is None else steps):
            items = torch.arange(n) if size >= n else torch.randperm(n, generator=rng)[:size]
            mixing = self.reading.draw(len(read), rng)
            over = self.reading.read_over(items)
            inputs = mixed(mixing, torch.softmax(read @ self.V[over].T, dim=-1))
            targets = torch.softmax(mixed(mixing, goal) @ self.V[items].T, dim=-1)
            yield Batch(items, targets, over, inputs)


@dataclass(frozen=True)
class Contents:
    """What a bundle holds: its manifest, the item factor V (n, d), the items of V's rows, and the two tables."""

    manifest: dict[str, Any]
    V: Tensor
    items: Catalogue
    log: Sequence[dict[str, Any]]
    checks: Sequence[dict[str, float]] = ()
    stored: dict[str, Tensor] | None = None
    """The tensors that store V (`synthetic/quantise.py`); None: V itself."""


def save(
    path: Path, contents: Contents, factors: dict[str, Tensor], reads: Tensor | None = None,
    state: dict[str, Any] | None = None, beside: Path | None = None, replace: bool = True,
) -> None:  # fmt: skip
    """Write a bundle beside `path` (or in the folder `beside`), then rename it. Raises FosterError if the disk fails
    or, with `replace` False, if something is at `path` by then.

    The factors have 16 bits if V does not have 32 and 16 hold them. `reads` (r,): the items of the inputs, with
    separate targets; else None. `state`: the tree for more outer steps.
    """
    exact = contents.stored is None or contents.stored.get("V") is contents.V
    exact = exact or not all(torch.isfinite(x.half()).all() for x in factors.values())  # 16 bits end at 65,504
    tensors = factors if exact else {name: x.half() for name, x in factors.items()}
    tensors = tensors | ({} if reads is None else {"reads": reads})
    with _saving(path, contents, FORMAT, tensors, beside, replace) as tmp:
        if state is not None:
            for name, content in zip(STATE_FILES, to_bytes(state), strict=True):
                (tmp / name).write_bytes(content or b"")


def read_state(path: Path) -> dict[str, Any]:
    """The tree from which more outer steps of the bundle continue. Raises FosterError if it is missing or damaged."""
    stated = stated_sums(path)
    if STATE_FILES[0] not in stated:
        raise FosterError(
            f"{path}: does not hold where its last step ended",
            "distill with --method foster --keep-state to add steps later",
        )
    check_files(path, stated, STATE_FILES)
    try:
        tree = from_bytes(*((path / name).read_bytes() for name in STATE_FILES))
        if not isinstance(tree, dict):
            raise ValueError("no such tree")
        return tree
    except (ValueError, OSError) as error:
        raise FosterError(f"{path}: {STATE_FILES[0]} cannot be read ({error})", "distill again") from error


def save_coreset(path: Path, contents: Contents, windows: Windows, replace: bool = True) -> None:
    """Write a bundle of real sequences, like `save`. Its log has a row per window."""
    tensors = {"items": torch.from_numpy(windows.items), "lengths": torch.from_numpy(windows.lengths)}
    with _saving(path, contents, CORESET_FORMAT, tensors, None, replace):
        pass


@contextmanager
def _saving(
    path: Path, contents: Contents, version: int, tensors: dict[str, Tensor], beside: Path | None, replace: bool
) -> Iterator[Path]:
    """Write all files and yield the folder; then write the sums, also of state files added in the meantime."""
    files = CORESET_FILES if version == CORESET_FORMAT else FILES
    with writing_dir(path, beside, replace) as folder:
        save_tensors(tensors, folder / files[1])
        save_tensors(contents.stored or {"V": contents.V}, folder / files[2])
        items = pd.DataFrame({"item_id": contents.items.ids, "title": contents.items.titles})
        items.to_parquet(folder / files[3], index=False, compression="gzip", use_dictionary=False)
        pd.DataFrame(contents.log).to_csv(folder / files[4], index=False)
        pd.DataFrame(contents.checks).to_csv(folder / files[5], index=False)
        text = json.dumps({"format": version, **contents.manifest}, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / files[0]).write_text(text, encoding="utf-8")
        yield folder
        names = [*files, *(name for name in STATE_FILES if (folder / name).exists())]
        (folder / SUMS).write_text("".join(f"{sha256_file(folder / name)}  {name}\n" for name in names))


def _windows(tensors: dict[str, Tensor], n: int) -> Windows:
    """Windows (M, L+1) over n items. Raises ValueError if the tensors are no such windows."""
    items, lengths = tensors["items"], tensors["lengths"]
    if items.dtype == lengths.dtype == torch.int64 and len(items) == len(lengths):
        found = Windows(items.numpy(), lengths.numpy())
        inside = np.arange(found.items.shape[1]) < found.lengths[:, None]
        known = np.where(inside, (found.items >= 0) & (found.items < n), found.items == -1).all()
        if known and found.lengths.min() >= 2 and found.lengths.max() <= found.items.shape[1]:
            return found
    raise ValueError("its real sequences do not fit its items")


def run_kept(path: Path) -> bool:
    """Whether the state of an interrupted distillation into `path` is kept beside it (`distill.run_folder`)."""
    folder = real_path(path)
    return any(folder.with_name(folder.name + ".run").glob("run-*.json"))


def check_replaceable(path: Path) -> None:
    """Raise FosterError unless `path` is a bundle's folder that holds nothing else than what foster writes there."""
    if path.is_symlink() or not path.is_dir() or not (path / SUMS).is_file() or not (path / FILES[0]).is_file():
        raise FosterError(f"--out {path}: is no bundle", "give another name, or remove it first")
    known = {*FILES, *CORESET_FILES, *STATE_FILES, SUMS, *LATER_FILES}
    others = sorted(p.name for p in path.iterdir() if p.name not in known and not p.name.startswith("synthetic"))
    if others:
        raise FosterError(f"--out {path}: holds {others[0]} too, which is no part of a bundle", "move that away first")


def stated_sums(path: Path) -> dict[str, str]:
    """The sha256 of each file by SHA256SUMS. Raises FosterError if that is missing or has a line that no bundle has."""
    sums = path / SUMS
    if not sums.is_file():
        if not path.exists() and run_kept(path):
            raise FosterError(f"{path}: is not finished", f"continue it with `foster distill --resume {quoted(path)}`")
        what = "no such folder" if not path.exists() else f"no bundle (it holds no {SUMS})"
        raise FosterError(f"{path}: {what}", "make one with `foster distill DATA`")
    stated: dict[str, str] = {}
    known = {*FILES, *CORESET_FILES, *STATE_FILES}
    try:
        text = read_small(sums, 1 << 16).decode("utf-8")
    except (OSError, ValueError) as error:
        raise FosterError(f"{path}: {SUMS} cannot be read ({error})", "copy the bundle again") from error
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None or match[2] not in known or match[2] in stated:
            raise FosterError(f"{path}: {SUMS} holds a line that no bundle has", "copy the bundle again")
        stated[match[2]] = match[1]
    return stated


def check_files(path: Path, stated: dict[str, str], files: Iterable[str]) -> None:
    """Raise FosterError if one of `files` is missing, no plain file, too large, or not of its stated sha256."""
    for name in files:
        try:
            found = (path / name).lstat()
            plain = stat.S_ISREG(found.st_mode)
        except OSError:
            plain = False
        if not plain:
            raise FosterError(f"{path}: {name} is missing", "copy the bundle again, or distill again")
        if name.endswith(".json") and found.st_size > MOST_JSON:
            raise FosterError(f"{path}: {name} is larger than {MOST_JSON:,} bytes", "distill again")
        if stated.get(name) != sha256_file(path / name):
            raise FosterError(
                f"{path}: {name} was changed (its sha256 differs)", "copy the bundle again, or distill again"
            )


def load(path: str | Path) -> Bundle:
    """Read and verify a bundle, which may come from a stranger.

    Raises FosterError if a part is missing, changed, malformed, absurdly large or of another format.
    """
    path = Path(path)
    stated = stated_sums(path)
    coreset = WINDOWS in stated
    files, versions = (CORESET_FILES, (CORESET_FORMAT,)) if coreset else (FILES, READABLE)
    check_files(path, stated, files)
    try:
        manifest = read_manifest(path / FILES[0], SETTINGS)
        check_format(path, manifest, versions)
        V = _factor(path / FILES[2])
        dims = {"items": 2, "lengths": 1} if coreset else {"U": 2, "T": 2, "G": 3, "reads": 1}
        tensors = read_tensors(path / files[1], dims, optional=() if coreset else ("reads",))
        tensors = {name: x.float() if x.dtype == torch.float16 else x for name, x in tensors.items()}
        ids, titles = read_items(path / FILES[3], len(V))
        if coreset:
            return Bundle(path, manifest, {}, V, ids, titles, Reading(), _windows(tensors, len(V)))
        reads = tensors.pop("reads", None)
        _check_factors(tensors, reads, V)
    except FosterError:
        raise
    except (ValueError, KeyError, OSError) as error:
        raise FosterError(f"{path}: cannot be read ({error})", "copy the bundle again, or distill again") from error
    mix = bool(manifest.get("distill", {}).get("mix", False))
    return Bundle(
        path, manifest, tensors, V, ids, titles, Reading(reads is not None, reads, 2 * len(tensors["U"]) if mix else 0)
    )


def _factor(path: Path) -> Tensor:
    """V (n, d). Raises ValueError for tensors that `quantise.stored` does not make."""
    dims = {"V": 2, "codes": 2, "low": 1, "step": 1}
    found = read_tensors(path, dims, optional=dims)  # V, or its codes
    if set(found) == {"V"}:
        return restored(found)
    if set(found) != {"codes", "low", "step"} or not found["codes"].shape[1] == len(found["low"]) == len(found["step"]):
        raise ValueError(f"{path.name}: neither V nor its codes")
    V = restored(found)
    if not torch.isfinite(V).all():
        raise ValueError(f"{path.name}: its codes stand for infinite numbers")
    return V


def check_format(path: Path, manifest: dict[str, Any], versions: tuple[int, ...]) -> None:
    """Raise FosterError if the bundle has none of the formats `versions`."""
    found = manifest.get("format")
    if found in versions and not isinstance(found, bool):
        return
    older = found == 1 and not isinstance(found, bool)
    hint = "distill again (what format 1 held was trained on in another way)" if older else "upgrade foster-cli"
    raise FosterError(f"{path}: bundle format {str(found)[:40]}, this foster reads {versions[-1]}", hint)


def _check_factors(tensors: dict[str, Tensor], reads: Tensor | None, V: Tensor) -> None:
    """Raise ValueError if U, T, G, `reads` and V do not fit together, or are too large."""
    U, T, G = (tensors[name] for name in ("U", "T", "G"))
    fits = (U.shape[1], T.shape[1], V.shape[1]) == tuple(G.shape) and U.dtype == T.dtype == G.dtype == V.dtype
    if reads is not None:
        named = reads.dtype == torch.int64 and len(reads) > 0
        fits = fits and named and 0 <= int(reads.min()) <= int(reads.max()) < len(V) and len(T) % 2 == 0
    if not fits:
        raise ValueError("the shapes of its factors do not fit together")
    if len(U) * len(T) * V.shape[1] > MOST_NUMBERS:
        raise ValueError(f"{len(U)} sequences of {len(T)} positions are more than foster makes")
