"""Training on real sequences: one plain loop, validated every epoch, the best state kept (epoch 0 included).

In: training windows (W, L+1), validation cases, a fresh recommender. Out: the same recommender in its best
state and a `Fit` with the trajectory. Batches gather windows of like length, so that little is padding.
With a place to keep it, the training's state is written after epochs, and an interrupted training goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.config import TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Cases, Windows
from foster_cli.errors import NotFinite
from foster_cli.evaluate.metrics import ndcg, recall
from foster_cli.evaluate.ranking import score_model
from foster_cli.models.losses import bce, sampled_softmax
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import adamw, stream_seed
from foster_cli.train.average import Average

#: Fewest steps between two validations.
LEAST_STEPS = 20


@dataclass
class Fit:
    """How a training went. `history`: a dict per validation; `anchors`: learnable state per validation, if kept."""

    history: list[dict[str, float]] = field(default_factory=list)
    anchors: list[dict[str, Tensor]] = field(default_factory=list)
    best: int = 0
    best_value: float = 0.0
    seconds: float = 0.0


def batches(windows: Windows, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A shuffled epoch: indices (B,) of windows of like length, random within it, batches in random order."""
    order = rng.permutation(len(windows))
    order = order[np.argsort(windows.lengths[order], kind="stable")]
    parts = np.array_split(order, max(1, round(len(order) / size)))
    return [parts[i] for i in rng.permutation(len(parts))]


@dataclass(frozen=True)
class RealBatch:
    """A batch on the device. `unique` (u,) items; `inputs`, `targets` (B, l) index into it; `valid` (B, l)
    bool: the positions that are predicted; `negatives` (K,) index into `unique`, or (P,) for BCE, one per valid
    position (`per_position`)."""

    unique: Tensor
    inputs: Tensor
    targets: Tensor
    valid: Tensor
    negatives: Tensor
    per_position: bool = False


def some_positions(valid: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Of the positions in each row of `valid` (B, l), `share` drawn at random, to the nearest number, at least one."""
    count = np.maximum(1, np.rint(share * valid.sum(1))).astype(np.int64)
    order = np.where(valid, rng.random(valid.shape), 2.0).argsort(1).argsort(1)
    return order < count[:, None]


def real_batch(
    windows: Windows, n: int, loss: str, negatives: int, rng: np.random.Generator, device: torch.device,
    predicted: float = 1.0,
) -> RealBatch:  # fmt: skip
    """Windows (B) with their sampled negatives, uniform over the n items (shared ones without replacement).

    `predicted`: the share of each window's positions that is predicted (see `Backbone.predicted`).
    """
    size = int(windows.lengths.max())
    items = windows.items[:, :size]
    valid = items[:, 1:] >= 0
    if predicted < 1.0:
        valid = some_positions(valid, predicted, rng)
    per_position = loss == "bce"
    drawn = rng.integers(0, n, int(valid.sum())) if per_position else rng.choice(n, min(negatives, n), replace=False)
    unique, index = np.unique(np.concatenate([items[items >= 0], drawn]), return_inverse=True)
    place = np.zeros(items.shape, np.int64)
    count = int((items >= 0).sum())
    place[items >= 0] = index[:count]

    def on(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    return RealBatch(on(unique), on(place[:, :-1]), on(place[:, 1:]), on(valid), on(index[count:]), per_position)


def real_outputs(model: Recommender, batch: RealBatch) -> tuple[Tensor, Tensor]:
    """H (P, d) at the valid positions, and E (u, d) of the batch's items."""
    E = model.embed(batch.unique)
    return model.at(E[batch.inputs], batch.valid), E


def real_loss(H: Tensor, E: Tensor, batch: RealBatch, loss: str) -> Tensor:
    """The training loss of a batch, in nats, a mean over its valid positions."""
    goal = batch.targets[batch.valid]
    if loss == "bce":
        return bce(H, E[goal], E[batch.negatives])
    return sampled_softmax(H, E[goal], E[batch.negatives], goal[:, None] == batch.negatives[None, :])


def validate(model: Recommender, cases: Cases) -> dict[str, float]:
    """R@10 and N@10 on `cases`, all of them, against all items."""
    rank = score_model(model, cases)
    return {"R@10": float(recall(rank, 10).mean()), "N@10": float(ndcg(rank, 10).mean())}


def check_finite(value: float, what: str) -> None:
    """NotFinite for NaN or Inf."""
    if not np.isfinite(value):
        raise NotFinite(f"{what} became {value}", "use a lower learning rate")


class Best:
    """Keeps the best validated state of a training; `stale` counts validations without a better one."""

    def __init__(self, model: Recommender, cases: Cases, fit: Fit) -> None:
        self.model, self.cases, self.fit = model, cases, fit
        self.state: dict[str, Tensor] = {}
        self.stale = 0

    def check(self, at: int, **extra: float) -> float:
        """Validate now; returns R@10."""
        try:
            found = validate(self.model, self.cases)
        except ValueError as error:  # rank_counts: NaN or Inf
            raise NotFinite(str(error), "use a lower learning rate") from error
        self.fit.history.append({"at": float(at), **found, **extra})
        self.stale += 1
        if not self.state or found["R@10"] > self.fit.best_value:
            self.fit.best, self.fit.best_value, self.stale = at, found["R@10"], 0
            self.state = self.model.learnables()
        return found["R@10"]


class Keeper(Protocol):
    """Where a training is kept between epochs."""

    def due(self) -> bool:
        """Whether to write now."""
        ...

    def write(self, tree: dict[str, Any]) -> None:
        """Keep the tree in the place of the one before."""
        ...

    def read(self) -> dict[str, Any] | None:
        """The tree written last, or None."""
        ...


@dataclass
class _Training:
    """All that an epoch of `fit_real` changes."""

    model: Recommender
    average: Average
    optimizer: torch.optim.Optimizer
    warmup: torch.optim.lr_scheduler.LambdaLR
    rng: np.random.Generator
    fit: Fit
    best: Best

    def state_dict(self) -> dict[str, Any]:
        f = self.fit
        return {
            "model": self.model.learnables(), "dropout": self.model.sequence.source[0].get_state(),
            "average": self.average.model.learnables(), "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(), "warmup": self.warmup.state_dict(),
            "rng": numpy_state(self.rng), "history": f.history, "best": f.best, "best_value": f.best_value,
            "best_state": self.best.state, "stale": self.best.stale,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.restore(state["model"])
        self.model.sequence.source[0].set_state(state["dropout"])
        self.average.model.restore(state["average"])
        self.average.steps = state["average_steps"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.warmup.load_state_dict(state["warmup"])
        set_numpy(self.rng, state["rng"])
        self.fit.history, self.fit.best, self.fit.best_value = state["history"], state["best"], state["best_value"]
        self.best.state, self.best.stale = state["best_state"], state["stale"]


def fit_real(
    model: Recommender,
    windows: Windows,
    valid: Cases,
    config: TrainConfig,
    seed: int,
    console: Console = SILENT,
    label: str = "training",
    on_check: Callable[[int, Recommender], None] | None = None,
    check_every: int | None = None,
    keeper: Keeper | None = None,
) -> Fit:
    """Train `model` on real windows; it ends in its best validated state. `on_check` sees every state
    that is validated.

    `keeper`: reads where an interrupted training was (a state `on_check` has seen is not shown again), and keeps it.

    A step predicts the backbone's share of each window's positions (`Backbone.predicted`), all of them where every step
    sees all windows, such as those of a coreset.

    A state is the average of the weights over the last epoch, or `config.average` steps where an epoch has fewer.

    Validated every `check_every` epochs (None: every epoch, or every 20 steps where an epoch has fewer);
    `config.epochs` and `config.patience` count validations.
    """
    began = time.perf_counter()
    rng = np.random.default_rng(stream_seed(seed, "fit"))
    fit = Fit()
    total = max(1, round(len(windows) / config.batch))
    average = Average(model, max(config.average, total))
    best = Best(average.model, valid, fit)
    optimizer = adamw(model.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, config.warmup)))
    predicted = model.sequence.predicted if len(windows) > config.batch else 1.0  # a few windows cost little
    check_every = check_every or -(-LEAST_STEPS // total)
    epochs = config.epochs * check_every
    training = _Training(model, average, optimizer, warmup, rng, fit, best)
    kept = keeper.read() if keeper else None
    done, earlier = 0, 0.0
    if kept is not None:
        training.load_state_dict(kept["state"])
        done, earlier = kept["epoch"], kept["seconds"]
        console.note(f"{label}: going on after epoch {done}")
    else:
        best.check(0)
        if on_check:
            on_check(0, average.model)
    with console.progress(label, epochs * total) as bar:
        for epoch in range(done + 1, epochs + 1):
            if best.stale >= config.patience:  # it was interrupted after its last epoch
                break
            model.train()
            losses = []
            for i, index in enumerate(batches(windows, config.batch, rng)):
                batch = real_batch(
                    windows.take(index), model.n, config.loss, config.negatives, rng, model.device,
                    predicted,
                )  # fmt: skip
                loss = real_loss(*real_outputs(model, batch), batch, config.loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                warmup.step()
                average.update()
                losses.append(loss.item())
                check_finite(losses[-1], f"{label}: the loss")
                bar.at(
                    (epoch - 1) * total + i + 1,
                    f"loss {losses[-1]:.3f} valid R@10 {fit.history[-1]['R@10']:.4f}",
                )
            model.eval()
            if epoch % check_every:
                continue
            if on_check:
                on_check(epoch, average.model)
            best.check(epoch, loss=float(np.mean(losses)))
            if keeper is not None and keeper.due():
                seconds = earlier + time.perf_counter() - began
                keeper.write({"epoch": epoch, "seconds": seconds, "state": training.state_dict()})
            if best.stale >= config.patience:
                break
    model.restore(best.state)
    fit.seconds = earlier + time.perf_counter() - began
    return fit
