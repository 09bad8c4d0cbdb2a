"""Batches of real windows: which are in an epoch, what a step predicts, among which items, and its loss.

In: training windows (W, L+1) and a recommender. Out: `RealBatch`es on the device, and the loss of one. A batch holds
windows of similar length, so that there is little padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.data.windows import Int, Windows
from foster_cli.models.losses import bce, candidate_softmax
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import sent
from foster_cli.settings import TrainConfig

Float = npt.NDArray[np.float64]

#: Candidates of the softmax if none are asked for: items that are cheap to embed, and items whose text layers learn.
CANDIDATES, ENCODED = 4096, 512


@dataclass(frozen=True)
class Pool:
    """The items that may be negatives: `items` (k,), those that occur in training. `share` (n,): each item's share of
    the targets of the training windows, for the correction of in-batch negatives."""

    items: Int
    share: Float

    @classmethod
    def of(cls, model: Recommender, windows: Windows) -> Pool:
        """The pool of `model`; nobody could have had the other items, so that they are not pushed down."""
        targets = windows.items[:, 1:][target_positions(windows)]
        count = np.bincount(targets, minlength=model.n)
        return cls(trained_items(model), count / max(1, count.sum()))


def target_positions(windows: Windows) -> npt.NDArray[np.bool_]:
    """(W, L): the positions whose next item is a target."""
    found = windows.items[:, 1:] >= 0
    return found if windows.first is None else found & (np.arange(found.shape[1]) >= windows.first[:, None])


def trained_items(model: Recommender) -> Int:
    """The items that occur in training, sorted."""
    return np.arange(model.n) if model.known is None else np.flatnonzero(model.known.cpu().numpy())


def kept(windows: Windows, recency: float | None) -> Float:
    """(W,): the probability of each window to be in an epoch, exp(-age / recency); 1 without `recency`, or an age."""
    if recency is None or windows.age is None:
        return np.ones(len(windows))
    return np.exp(-windows.age / recency)


def batch_count(windows: Windows, size: int, recency: float | None = None) -> int:
    """The number of batches of an epoch, at least 1: its expected windows by `size`."""
    return max(1, round(float(kept(windows, recency).sum()) / size))


def batches(windows: Windows, size: int, rng: np.random.Generator, recency: float | None = None) -> list[np.ndarray]:
    """The batches of an epoch: indices (B,) of windows of similar length, shuffled; batches are in random order.

    With `recency`, an epoch is a random part of the windows (`kept`), at least the latest one; the number of batches is
    always the same, unless there are fewer windows.
    """
    order = rng.permutation(len(windows))
    if recency is not None:
        probability = kept(windows, recency)
        drawn = rng.random(len(order)) < probability[order]
        drawn |= order == probability.argmax()
        order = order[drawn]
    order = order[np.argsort(windows.lengths[order], kind="stable")]
    parts = [part for part in np.array_split(order, batch_count(windows, size, recency)) if len(part)]
    return [parts[i] for i in rng.permutation(len(parts))]


@dataclass(frozen=True)
class RealBatch:
    """A batch on the device. `unique` (u,): its items. `inputs`, `targets` (B, l): indices into `unique`. `valid`
    (B, l), bool: the positions to predict; `places` (P,): these as indices into all B l ones; `counts` (B,): how many
    each window has, as an array. `negatives`: indices into `unique`; (P,), one for each valid position, for BCE
    (`per_position`), else (C,) candidates, shared by the batch, among them all targets. `goals` (B, l): the targets as
    indices into the candidates; `inclusion` (C,): see `candidate_softmax`."""

    unique: Tensor
    inputs: Tensor
    targets: Tensor
    valid: Tensor
    places: Tensor
    counts: Int
    negatives: Tensor
    per_position: bool = False
    goals: Tensor | None = None
    inclusion: Tensor | None = None


def some_positions(valid: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random `share` of the True positions in each row of `valid` (B, l), rounded to a whole number, at least one."""
    count = np.maximum(1, np.rint(share * valid.sum(1))).astype(np.int64)
    order = np.where(valid, rng.random(valid.shape), 2.0).argsort(1).argsort(1)
    return order < count[:, None]


def candidates(pool: Pool, targets: Int, count: int, rng: np.random.Generator) -> tuple[Int, Float | None]:
    """Candidates (C,), sorted: `count` of the pool's items at random without replacement, and all `targets` (P,).

    Also how likely each was to be among them (C,): 1 - (1 - count / k)(1 - share)^P. None if they are the whole pool.
    """
    k = len(pool.items)
    if count >= k:
        return np.union1d(pool.items, targets), None
    found = np.union1d(rng.choice(pool.items, count, replace=False), targets)
    return found, 1.0 - (1.0 - count / k) * (1.0 - pool.share[found]) ** len(targets)


def real_batch(
    windows: Windows, pool: Pool, loss: str, negatives: int, rng: np.random.Generator, device: torch.device,
    predicted: float = 1.0,
) -> RealBatch:  # fmt: skip
    """The B windows as a batch. `loss` `softmax`: with `negatives` candidates and the targets; `bce`: with a uniform
    negative for each position. `predicted`: the share of each window's positions to predict (`Backbone.predicted`).
    """
    size = int(windows.lengths.max())
    items = windows.items[:, :size]
    valid = target_positions(windows)[:, : size - 1]
    if predicted < 1.0:
        valid = some_positions(valid, predicted, rng)
    targets = items[:, 1:][valid]
    inclusion = None
    if loss == "bce":
        drawn = rng.choice(pool.items, len(targets))
    else:
        drawn, inclusion = candidates(pool, targets, negatives, rng)
    unique, index = np.unique(np.concatenate([items[items >= 0], drawn]), return_inverse=True)
    place = np.zeros(items.shape, np.int64)
    count = int((items >= 0).sum())
    place[items >= 0] = index[:count]

    def on(x: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(np.ascontiguousarray(x)), device)

    batch = RealBatch(
        on(unique), on(place[:, :-1]), on(place[:, 1:]), on(valid), on(np.flatnonzero(valid)), valid.sum(1),
        on(index[count:]), loss == "bce",
    )  # fmt: skip
    if loss == "bce":
        return batch
    goals = np.searchsorted(drawn, items[:, 1:].clip(0)).clip(0, len(drawn) - 1)
    return replace(batch, goals=on(goals), inclusion=None if inclusion is None else on(inclusion.astype(np.float32)))


def real_outputs(model: Recommender, batch: RealBatch) -> tuple[Tensor, Tensor]:
    """H (P, d) at the valid positions, and E (u, d) of the batch's items."""
    E = model.embed(batch.unique)
    return model.at(E[batch.inputs], batch.places), E


def real_loss(H: Tensor, E: Tensor, batch: RealBatch, loss: str) -> Tensor:
    """The training loss of a batch in nats: the mean over its valid positions."""
    if loss == "bce":
        return bce(H, E[batch.targets.flatten()[batch.places]], E[batch.negatives])
    assert batch.goals is not None
    inclusion = None if batch.inclusion is None else batch.inclusion.to(H.dtype)
    return candidate_softmax(H, E[batch.negatives], batch.goals.flatten()[batch.places], inclusion)


def candidate_count(model: Recommender, config: TrainConfig) -> int:
    """The number of candidates of the softmax: that of `config`, or by what an item's embedding costs."""
    learns = model.text is not None and model.text.top is not None
    return config.negatives or (ENCODED if learns else CANDIDATES)
