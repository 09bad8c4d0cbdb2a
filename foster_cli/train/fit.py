"""Training on real sequences: a plain loop with a validation after every epoch; the best state wins (epoch 0 included).

In: training windows (W, L+1), validation cases, a fresh recommender. Out: the same recommender in its best state, and
a `Fit` with the trajectory. A batch holds windows of similar length, so that there is little padding.
With a `ResumeStore`, the training's state is written after epochs, and an interrupted training resumes from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.console import TRAINING, Stage
from foster_cli.data.windows import Cases, Windows
from foster_cli.errors import NotFinite
from foster_cli.models.losses import bce, sampled_softmax
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import score_model
from foster_cli.ranking.metrics import ndcg, recall
from foster_cli.runtime import adamw, stream_seed
from foster_cli.settings import TrainConfig
from foster_cli.train.average import Average

#: The smallest number of steps between two validations.
LEAST_STEPS = 20


@dataclass
class Fit:
    """The course of a training. `history`: a dict per validation; `best`: the epoch or step of the best one."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    best_value: float = 0.0
    seconds: float = 0.0


def batches(windows: Windows, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The batches of an epoch: indices (B,) of windows of similar length, shuffled; batches are in random order."""
    order = rng.permutation(len(windows))
    order = order[np.argsort(windows.lengths[order], kind="stable")]
    parts = np.array_split(order, max(1, round(len(order) / size)))
    return [parts[i] for i in rng.permutation(len(parts))]


@dataclass(frozen=True)
class RealBatch:
    """A batch on the device. `unique` (u,): its items. `inputs`, `targets` (B, l): indices into `unique`. `valid`
    (B, l), bool: the positions to predict. `negatives` (K,): indices into `unique`, shared by the batch; for BCE (P,),
    one for each valid position (`per_position`)."""

    unique: Tensor
    inputs: Tensor
    targets: Tensor
    valid: Tensor
    negatives: Tensor
    per_position: bool = False


def some_positions(valid: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random `share` of the True positions in each row of `valid` (B, l), rounded to a whole number, at least one."""
    count = np.maximum(1, np.rint(share * valid.sum(1))).astype(np.int64)
    order = np.where(valid, rng.random(valid.shape), 2.0).argsort(1).argsort(1)
    return order < count[:, None]


def real_batch(
    windows: Windows, n: int, loss: str, negatives: int, rng: np.random.Generator, device: torch.device,
    predicted: float = 1.0,
) -> RealBatch:  # fmt: skip
    """The B windows as a batch, with negatives drawn uniformly over the n items (shared ones without replacement).

    `predicted`: the share of each window's positions to predict (see `Backbone.predicted`).
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
    """The training loss of a batch in nats: the mean over its valid positions."""
    goal = batch.targets[batch.valid]
    if loss == "bce":
        return bce(H, E[goal], E[batch.negatives])
    return sampled_softmax(H, E[goal], E[batch.negatives], goal[:, None] == batch.negatives[None, :])


def validate(model: Recommender, cases: Cases) -> dict[str, float]:
    """R@10 and N@10 over all `cases`, ranking all items."""
    rank = score_model(model, cases)
    return {"R@10": float(recall(rank, 10).mean()), "N@10": float(ndcg(rank, 10).mean())}


def check_finite(value: float, what: str) -> None:
    """Raise NotFinite, which names `what`, if `value` is NaN or Inf."""
    if not np.isfinite(value):
        raise NotFinite(f"{what} became {value}", "use a lower learning rate")


class Best:
    """Holds the best validated state of a training; `stale` counts the validations since then."""

    def __init__(self, model: Recommender, cases: Cases, fit: Fit) -> None:
        self.model, self.cases, self.fit = model, cases, fit
        self.state: dict[str, Tensor] = {}
        self.stale = 0

    def check(self, at: int, **extra: float) -> float:
        """Validate now; return R@10. Raises NotFinite for NaN or Inf in the scores."""
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


class ResumeStore:
    """Stores a training between epochs, so that it can be resumed. This base class stores nothing."""

    def saw(self, epoch: int, model: Recommender) -> None:
        """Called once for every validated state, even if the training is interrupted and resumed."""

    def due(self) -> bool:
        """Whether to write now."""
        return False

    def write(self, tree: dict[str, Any]) -> None:
        """Replace the stored tree by `tree`."""

    def read(self) -> dict[str, Any] | None:
        """The tree written last, or None."""
        return None


NOWHERE = ResumeStore()


@dataclass
class _Training:
    """The state of `fit_real`: all that an epoch changes."""

    model: Recommender
    average: Average
    optimizer: torch.optim.Optimizer
    warmup: torch.optim.lr_scheduler.LambdaLR
    rng: np.random.Generator
    best: Best

    @classmethod
    def fresh(cls, model: Recommender, config: TrainConfig, per_epoch: int, valid: Cases, seed: int) -> _Training:
        """The state before the first step; an epoch has `per_epoch` steps."""
        average = Average(model, max(config.average, per_epoch))
        optimizer = adamw(model.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, config.warmup)))
        rng = np.random.default_rng(stream_seed(seed, "fit"))
        return cls(model, average, optimizer, warmup, rng, Best(average.model, valid, Fit()))

    def step(self, batch: RealBatch, loss: str) -> float:
        """Take one optimizer step; return the loss."""
        value = real_loss(*real_outputs(self.model, batch), batch, loss)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.warmup.step()
        self.average.update()
        return value.item()

    def state_dict(self) -> dict[str, Any]:
        f = self.best.fit
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
        f = self.best.fit
        f.history, f.best, f.best_value = state["history"], state["best"], state["best_value"]
        self.best.state, self.best.stale = state["best_state"], state["stale"]


def fit_real(
    model: Recommender, windows: Windows, valid: Cases, config: TrainConfig, seed: int,
    stage: Stage = TRAINING, store: ResumeStore = NOWHERE,
) -> Fit:  # fmt: skip
    """Train `model` on real windows and leave it in its best validated state.

    A state is the average of the weights over the last epoch, or over `config.average` steps if an epoch has fewer. It
    is validated every epoch, or every 20 steps if an epoch has fewer; `config.epochs` and `config.patience` count
    validations. A step predicts the backbone's share of each window's positions (`Backbone.predicted`), or all of them
    if every step sees all windows, as with a coreset. `store` holds the state of an interrupted training.
    """
    began = time.perf_counter()
    total = max(1, round(len(windows) / config.batch))
    predicted = model.sequence.predicted if len(windows) > config.batch else 1.0  # a few windows are cheap
    check_every = -(-LEAST_STEPS // total)
    epochs = config.epochs * check_every
    training = _Training.fresh(model, config, total, valid, seed)
    best, rng, fit = training.best, training.rng, training.best.fit
    stored = store.read()
    done, earlier = 0, 0.0
    if stored is not None:
        training.load_state_dict(stored["state"])
        done, earlier = stored["epoch"], stored["seconds"]
        stage.note(f"continuing after epoch {done}")
    else:
        best.check(0)
        store.saw(0, best.model)
    with stage.progress(epochs * total) as bar:
        for epoch in range(done + 1, epochs + 1):
            if best.stale >= config.patience:
                break
            model.train()
            losses = []
            for i, index in enumerate(batches(windows, config.batch, rng)):
                some = windows.take(index)
                batch = real_batch(some, model.n, config.loss, config.negatives, rng, model.device, predicted)
                losses.append(training.step(batch, config.loss))
                check_finite(losses[-1], f"{stage.label}: the loss")
                bar.at((epoch - 1) * total + i + 1, f"loss {losses[-1]:.3f} valid R@10 {fit.history[-1]['R@10']:.4f}")
            model.eval()
            if epoch % check_every:
                continue
            store.saw(epoch, best.model)
            best.check(epoch, loss=float(np.mean(losses)))
            if store.due():
                seconds = earlier + time.perf_counter() - began
                store.write({"epoch": epoch, "seconds": seconds, "state": training.state_dict()})
    model.restore(best.state)
    fit.seconds = earlier + time.perf_counter() - began
    return fit
