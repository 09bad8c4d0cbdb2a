"""Reads a folder that `foster export --format torch` wrote. Needs only torch and safetensors.

    synthetic = load("FOLDER")                       # or load(), if this file is in that folder
    for batch in synthetic.batches(seed=0):
        read = batch.inputs @ embed(batch.read_items)       # (B, l, d): your embeddings of these items, started at V
        scores = model(read) @ embed(batch.items).T         # (B, l, s)
        loss = -(batch.targets * scores.log_softmax(-1)).sum(-1).mean()

On the CPU the batches equal those of foster's `Bundle.batches` with the same seed, bit for bit. Apache-2.0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file


class Batch(NamedTuple):
    """The data of one step: B sequences of l positions. Items are indices into `Synthetic.item_ids`.

    `targets` (B, l, s): for each position, the distribution over `items` (s,) to predict after it.
    `inputs` (B, l, r): for each position, the distribution over `read_items` (r,) to read there.
    """

    items: torch.Tensor
    targets: torch.Tensor
    read_items: torch.Tensor
    inputs: torch.Tensor


class Synthetic(NamedTuple):
    """The synthetic set. Its distributions over the n items are softmax(Q V^T), with Q (M, rows, d) and V (n, d).

    With `own`, the first half of the rows is the inputs, over the items `reads`, and the second half the targets.
    Otherwise each row is the target of the row before it. `mix`: users mixed from the M at every step; 0: no mixing.
    `factors`: U, T and G, whose Tucker product is Q. `learning_rate` (AdamW), `steps` and `items_per_step` are what
    validation chose when the set was made, for item embeddings that start at V. `steps` is 0 where a model that starts
    there was best before it trained.
    """

    Q: torch.Tensor
    V: torch.Tensor
    factors: dict[str, torch.Tensor]
    reads: torch.Tensor | None
    own: bool
    mix: int
    learning_rate: float
    item_ids: list[str]
    titles: list[str]
    steps: int
    items_per_step: int

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the inputs and of the targets, (M, l, d) each."""
        if self.own:
            half = self.Q.shape[1] // 2
            return self.Q[:, :half], self.Q[:, half:]
        return self.Q[:, :-1], self.Q[:, 1:]

    def batches(self, steps: int | None = None, seed: int = 0, items_per_step: int | None = None) -> Iterator[Batch]:
        """Yield `steps` batches. Each draws `items_per_step` items uniformly, at most all of them, and mixes the users
        anew. None: as many as the set says, which may be none at all."""
        digest = hashlib.sha256(f"{seed}:student".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        n = len(self.item_ids)
        read, goal = self.parts()
        size = self.items_per_step if items_per_step is None else items_per_step
        for _ in range(self.steps if steps is None else steps):
            items = torch.arange(n) if size >= n else torch.randperm(n, generator=rng)[:size]
            weights = self._draw(rng)
            over = items if self.reads is None else self.reads
            inputs = _mixed(weights, torch.softmax(read @ self.V[over].T, dim=-1))
            targets = torch.softmax(_mixed(weights, goal) @ self.V[items].T, dim=-1)
            yield Batch(items, targets, over, inputs)

    def _draw(self, rng: torch.Generator) -> torch.Tensor | None:
        """Weights (mix, M): each mixed user is a weighted mean of two of the M. None without mixing."""
        if self.mix == 0:
            return None
        M = len(self.Q)
        row = torch.arange(self.mix)
        first = row % M
        second = (first + torch.randint(1, max(M, 2), (self.mix,), generator=rng)) % M
        share = torch.rand(self.mix, generator=rng)
        weights = torch.zeros(self.mix, M)
        weights[row, first] += share
        weights[row, second] += 1.0 - share
        return weights


def _mixed(weights: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return x if weights is None else torch.einsum("bm,mld->bld", weights, x)


def load(folder: str | Path = Path(__file__).parent) -> Synthetic:
    """The synthetic set in `folder`. Raises ValueError for a folder of another format."""
    folder = Path(folder)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    if settings["format"] != 2:
        raise ValueError(f"{folder}: format {settings['format']}, this loader reads 2")
    named = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "tensors.safetensors")
    Q, V, reads = tensors.pop("Q"), tensors.pop("V"), tensors.pop("reads", None)
    return Synthetic(
        Q, V, tensors, reads, bool(settings["own"]), int(settings["mix"]), float(settings["learning_rate"]),
        named["item_ids"], named["titles"], int(settings["steps"]), int(settings["items_per_step"]),
    )  # fmt: skip
