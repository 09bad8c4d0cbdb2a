"""Training on real sequences: a plain loop with a validation after every epoch; the best state wins (epoch 0 included).

In: training windows (W, L+1), validation cases, a fresh recommender. Out: the same recommender in its best state, and
a `Fit` with the trajectory. With a `ResumeStore`, the training's state is written after epochs, and an interrupted
training resumes from it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.console import TRAINING, Stage
from foster_cli.data.windows import Cases, Windows
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import adamw, stream_seed
from foster_cli.settings import TrainConfig
from foster_cli.train.average import Average
from foster_cli.train.batch import (
    Pool,
    RealBatch,
    batch_count,
    batches,
    candidate_count,
    real_batch,
    real_loss,
    real_outputs,
)
from foster_cli.train.best import FINALISTS, WAYS, Best, Candidate, Fit, check_finite

#: The smallest number of steps between two validations.
LEAST_STEPS = 20
#: The share of the learning rate that is left at the end of a training.
LAST_RATE = 0.05
#: A training has settled, and patience counts, where an epoch lowers the loss by less than this share.
SETTLED = 0.01


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


def rate_at(step: int, warmup: int, done: float) -> float:
    """The learning rate as a share of the given one: a linear warm-up, then half a cosine down to `LAST_RATE`.

    `step` counts from 0; `done`: the share of the training that is done.
    """
    decay = LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return min(1.0, (step + 1) / max(1, warmup)) * decay


@dataclass
class _Training:
    """The state of `fit_real`: all that an epoch changes."""

    model: Recommender
    average: Average
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    best: Best
    warmup: int
    steps: int = 0

    @classmethod
    def fresh(cls, model: Recommender, config: TrainConfig, per_epoch: int, valid: Cases, seed: int) -> _Training:
        """The state before the first step; an epoch has `per_epoch` steps."""
        average = Average(model, max(config.average, per_epoch))
        optimizer = adamw(model.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
        rng = np.random.default_rng(stream_seed(seed, "fit"))
        return cls(model, average, optimizer, rng, Best(average.model, valid, Fit(), FINALISTS, WAYS), config.warmup)

    def step(self, batch: RealBatch, loss: str, done: float) -> float:
        """Take one optimizer step; return the loss. `done`: the share of the training that is done."""
        value = real_loss(*real_outputs(self.model, batch), batch, loss)
        self.optimizer.zero_grad()
        value.backward()
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * rate_at(self.steps, self.warmup, done)
        self.optimizer.step()
        self.steps += 1
        self.average.update()
        return value.item()

    def settled(self) -> bool:
        """Whether the last epoch hardly lowered the loss, so that patience counts."""
        losses = [row["loss"] for row in self.best.fit.history if "loss" in row]
        return len(losses) > 1 and losses[-1] > (1.0 - SETTLED) * losses[-2]

    def state_dict(self) -> dict[str, Any]:
        f = self.best.fit
        return {
            "model": self.model.learnables(), "dropout": self.model.sequence.source[0].get_state(),
            "average": self.average.model.learnables(), "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(), "steps": self.steps,
            "rng": numpy_state(self.rng), "history": f.history, "best": f.best, "best_value": f.best_value,
            "untrained": f.untrained, "processor": f.processor,
            "kept": [vars(one) for one in self.best.kept], "stale": self.best.stale,
            "floors": [None if x is None else x.floor for x in (self.best.offset, self.best.offset_of_all)],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.restore(state["model"])
        self.model.sequence.source[0].set_state(state["dropout"])
        self.average.model.restore(state["average"])
        self.average.steps = state["average_steps"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.steps = state["steps"]
        set_numpy(self.rng, state["rng"])
        f = self.best.fit
        f.history, f.best, f.best_value = state["history"], state["best"], state["best_value"]
        f.untrained, f.processor = state["untrained"], state["processor"]
        self.best.kept, self.best.stale = [Candidate(**one) for one in state["kept"]], state["stale"]
        for offset, floor in zip((self.best.offset, self.best.offset_of_all), state["floors"], strict=True):
            if offset is not None:
                offset.floor = floor


def fit_real(
    model: Recommender, windows: Windows, valid: Cases, config: TrainConfig, seed: int,
    stage: Stage = TRAINING, store: ResumeStore = NOWHERE, seconds: float = math.inf,
) -> Fit:  # fmt: skip
    """Train `model` on real windows and leave it in its best validated state.

    A state is the average of the weights over the last epoch, or over `config.average` steps if an epoch has fewer. It
    is validated every epoch, or every 20 steps if an epoch has fewer; `config.epochs` and `config.patience` count
    validations. A step predicts the backbone's share of each window's positions (`Backbone.predicted`), or all of them
    if every step sees all windows, as with a coreset. `store` holds the state of an interrupted training.

    `seconds`: the training also ends after this much processor time, validations left out, and the learning rate falls
    accordingly.
    """
    began = time.perf_counter()
    total = batch_count(windows, config.batch, config.recency)
    predicted = model.sequence.predicted if len(windows) > config.batch else 1.0  # a few windows are cheap
    check_every = -(-LEAST_STEPS // total)
    epochs = config.epochs * check_every
    training, pool = _Training.fresh(model, config, total, valid, seed), Pool.of(model, windows)
    negatives, best, rng, fit = candidate_count(model, config), training.best, training.rng, training.best.fit
    stored = store.read()
    done, earlier = 0, 0.0
    if stored is not None:
        training.load_state_dict(stored["state"])
        done, earlier = stored["epoch"], stored["seconds"]
        stage.note(f"continuing after epoch {done}")
    else:
        best.begin()
        store.saw(0, best.model)
    losses: list[float] = []
    with stage.progress(epochs * total) as bar:
        for epoch in range(done + 1, epochs + 1):
            if best.stale >= config.patience or fit.processor >= seconds:
                break
            model.train()
            before = time.process_time()
            for i, index in enumerate(batches(windows, config.batch, rng, config.recency)):
                at = (epoch - 1) * total + i
                some = windows.take(index)
                batch = real_batch(some, pool, config.loss, negatives, rng, model.device, predicted)
                share = max(at / (epochs * total), (fit.processor + time.process_time() - before) / seconds)
                losses.append(training.step(batch, config.loss, share))
                check_finite(losses[-1], f"{stage.label}: the loss")
                bar.at(at + 1, f"loss {losses[-1]:.3f} valid R@10 {fit.history[-1]['R@10']:.4f}")
                if share >= 1.0:
                    break
            model.eval()
            fit.processor += time.process_time() - before
            if epoch % check_every and fit.processor < seconds:
                continue
            stale = best.stale
            best.check(epoch, loss=float(np.mean(losses)))
            store.saw(epoch, best.model)
            losses = []
            if not training.settled():
                best.stale = min(best.stale, stale)
            if store.due():
                taken = earlier + time.perf_counter() - began
                store.write({"epoch": epoch, "seconds": taken, "state": training.state_dict()})
    best.finish(model)
    fit.seconds = earlier + time.perf_counter() - began
    if best.sample:
        stage.note(best.sampled())
    return fit
