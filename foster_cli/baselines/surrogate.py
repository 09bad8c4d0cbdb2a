"""The inputs of the coreset methods: the recommender trained on the real data, its windows, the validation cases.

In: a `Teacher`, windows (W, L+1), cases (C). Out: last-step outputs (W, d) or (C, d), losses of single windows (B,).
One sample is one training window: all items but the last are the history, and every item after the first is a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.console import Console
from foster_cli.data.windows import Cases, Int, Windows
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import last_outputs
from foster_cli.settings import TrainConfig
from foster_cli.train.anchors import Teacher
from foster_cli.train.batch import ENCODED, trained_items


@dataclass(frozen=True)
class Surrogate:
    """The trained recommender with its training windows and validation cases. `users` (W,): the user of each window."""

    teacher: Teacher
    windows: Windows
    users: Int
    valid: Cases
    train: TrainConfig

    @property
    def model(self) -> Recommender:
        """phi, trained on the real data."""
        return self.teacher.model

    def outputs(self, index: Int | None = None) -> Tensor:
        """(B, d) on the CPU: the output after the last history item of windows `index` (B,), by default of all."""
        windows = self.windows if index is None else self.windows.take(index)
        return last_outputs(self.model, self.model.eval().embed_all(), histories(windows)).cpu()

    def valid_outputs(self, index: Int) -> Tensor:
        """(B, d) on the CPU: the output after the history of validation cases `index` (B,)."""
        return last_outputs(self.model, self.model.eval().embed_all(), self.valid.take(index)).cpu()


def histories(windows: Windows) -> Cases:
    """Windows (W, L+1) as cases: the history (W, L) is all items but the last, which is the target."""
    row = np.arange(len(windows))
    last = windows.items[row, windows.lengths - 1]
    return Cases(windows.items[:, :-1], windows.lengths - 1, last, row, row)


def subsample(count: int, most: int, rng: np.random.Generator, console: Console, what: str) -> Int:
    """0…count-1, or a sorted random sample of `most` of them with a note that the others are left out."""
    if count <= most:
        return np.arange(count)
    console.note(f"{what}: {most:,} of {count:,} at random are looked at (memory)")
    return np.sort(rng.choice(count, most, replace=False))


def by_length(windows: Windows, size: int) -> list[Int]:
    """Indices of all windows in batches of about `size`, of similar lengths, so that there is little padding."""
    order = np.argsort(windows.lengths, kind="stable")
    return np.array_split(order, max(1, -(-len(order) // size)))


@dataclass(frozen=True)
class Samples:
    """B windows for per-window losses. `items` (B, l+1), 0 where padded; `valid` (B, l): not padding; `clash` (B, l,
    K): the negative is the position's own target."""

    items: Tensor
    valid: Tensor
    clash: Tensor


def samples(windows: Windows, negatives: Tensor) -> Samples:
    """Windows (B) on the device of `negatives` (K,), cut to the length of the longest."""
    size = int(windows.lengths.max())
    items = torch.from_numpy(np.ascontiguousarray(windows.items[:, :size])).to(negatives.device)
    return Samples(items.clamp_min(0), items[:, 1:] >= 0, items[:, 1:, None] == negatives)


def common_negatives(model: Recommender, train: TrainConfig, rng: np.random.Generator) -> Tensor:
    """(K,): items of training drawn once without replacement, used as the negatives of every window."""
    items = trained_items(model)
    drawn = rng.choice(items, min(train.negatives or ENCODED, len(items)), replace=False)
    return torch.from_numpy(drawn).to(model.device)


def sample_losses(own: Tensor, others: Tensor, batch: Samples, loss: str) -> Tensor:
    """(B,): each window's training loss, a mean over its positions, from logits own (B, l) and others (B, l, K).

    `softmax`: the sampled softmax of training, with the same negatives for every window. `bce`: Eq. 16 averaged over
    the negatives, so that a window's loss does not depend on a single random draw.
    """
    if loss == "bce":
        each = F.softplus(-own) + F.softplus(others).mean(-1)
    else:
        all_of = torch.cat([own[..., None], others.masked_fill(batch.clash, -torch.inf)], dim=-1)
        each = torch.logsumexp(all_of, dim=-1) - own
    weight = batch.valid.to(own.dtype)
    return (each * weight).sum(1) / weight.sum(1)
