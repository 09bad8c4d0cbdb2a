"""Training on real sequences: a plain loop with a validation after every epoch; the best state wins (epoch 0 included).

In: training windows (W, L+1), validation cases, a fresh recommender. Out: the same recommender in its best state, and
a `Fit` with the trajectory. A batch holds windows of similar length, so that there is little padding.
With a `ResumeStore`, the training's state is written after epochs, and an interrupted training resumes from it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.console import TRAINING, Stage
from foster_cli.data.windows import Cases, Int, Windows
from foster_cli.errors import NotFinite
from foster_cli.models.losses import bce, candidate_softmax
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import score_model
from foster_cli.ranking.metrics import at_ten
from foster_cli.ranking.offset import OffsetChoice
from foster_cli.ranking.sample import SAMPLE, sample
from foster_cli.runtime import adamw, sent, stream_seed
from foster_cli.settings import TrainConfig
from foster_cli.train.average import Average

Float = npt.NDArray[np.float64]

#: The smallest number of steps between two validations.
LEAST_STEPS = 20
#: Candidates of the softmax if none are asked for: items that are cheap to embed, and items whose text layers learn.
CANDIDATES, ENCODED = 4096, 512
#: The share of the learning rate that is left at the end of a training.
LAST_RATE = 0.05
#: The best states on a sample of the cases among which all cases choose at the end of a training.
FINALISTS = 3
#: A training has settled, and patience counts, where an epoch lowers the loss by less than this share.
SETTLED = 0.01


@dataclass
class Fit:
    """The course of a training. `history`: a dict per validation; `best`: the epoch or step of the best one.

    `untrained`, `valid`: R@10 and N@10 over all validation cases before the training, and of its best state; `value`:
    the latter's R@10 with new targets weighted as `OffsetChoice` does, by which trainings are compared.
    `seconds` includes validation; `processor` is the processor time of the training steps alone, in seconds.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    best_value: float = -1.0
    seconds: float = 0.0
    processor: float = 0.0
    untrained: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] = field(default_factory=dict)
    value: float = -1.0


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


def batches(windows: Windows, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The batches of an epoch: indices (B,) of windows of similar length, shuffled; batches are in random order."""
    order = rng.permutation(len(windows))
    order = order[np.argsort(windows.lengths[order], kind="stable")]
    parts = np.array_split(order, max(1, round(len(order) / size)))
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


def validate(model: Recommender, cases: Cases) -> dict[str, float]:
    """R@10 and N@10 over all `cases`."""
    return at_ten(score_model(model, cases))


def check_finite(value: float, what: str) -> None:
    """Raise NotFinite, which names `what`, if `value` is NaN or Inf."""
    if not np.isfinite(value):
        raise NotFinite(f"{what} became {value}", "use a lower learning rate")


class Best:
    """Validates a training and holds its best state; `stale` counts the validations since then.

    Cases beyond `SAMPLE` are sampled, the same ones at every validation. `begin` and `finish` rank all of them, and
    choose the offset of new items on all of them; `finish` also chooses among the `finalists` best states.
    """

    def __init__(self, model: Recommender, cases: Cases, fit: Fit, finalists: int = 1) -> None:
        self.model, self.cases, self.fit = model, cases, fit
        self.some = sample(cases, "validation sample", most=SAMPLE)
        self.sample = self.some is not cases
        self.offset = OffsetChoice.of(model, self.some)
        self.offset_of_all = OffsetChoice.of(model, cases) if self.sample else self.offset
        self.finalists = finalists if self.sample else 1
        self.kept: list[tuple[float, int, dict[str, Tensor]]] = []  # value, when, state; the best first
        self.stale = 0

    def check(self, at: int, **extra: float) -> float:
        """Validate now; return R@10. Raises NotFinite for NaN or Inf in the scores."""
        found = self._validate(self.some, self.offset)
        self.fit.history.append({"at": float(at), **found, **extra})
        self.stale += 1
        value = found.get("weighted", found["R@10"])
        if not self.kept or value > self.fit.best_value:
            self.fit.best, self.fit.best_value, self.stale = at, value, 0
        if len(self.kept) < self.finalists or value > self.kept[-1][0]:
            kept = [*self.kept, (value, at, self.model.learnables())]
            self.kept = sorted(kept, key=lambda one: -one[0])[: self.finalists]
        return found["R@10"]

    def begin(self) -> None:
        """Validate the untrained state, and leave the model with the offset that all cases choose."""
        if not self.sample:
            self.check(0)
            self.fit.untrained = self._all(0)
            return
        self.fit.untrained = self._all(0)
        own = self.model.learnables()
        if self.offset is not None:
            self.offset.hold(self.model)
        self.check(0)
        self.model.restore(own)

    def finish(self, model: Recommender) -> None:
        """Give `model` the best state by all cases."""
        fit, found = self.fit, []
        for value, at, state in self.kept:
            self.model.restore(state)
            valid = self._all(at)
            found.append((fit.value, value, at, valid, self.model.learnables()))
        fit.value, fit.best_value, fit.best, fit.valid, state = max(found, key=lambda one: one[0])
        self.model.restore(state)
        model.restore(state)
        model.eval()

    def sampled(self) -> str:
        """What the sampled cases said of the best state, with the standard error, and what all cases say."""
        value = next(row["R@10"] for row in self.fit.history if row["at"] == self.fit.best)
        error = math.sqrt(value * (1.0 - value) / len(self.some))
        return (
            f"validation R@10 {value:.4f} ± {error:.4f} on the {len(self.some):,} cases that chose the state, "
            f"{self.fit.valid['R@10']:.4f} on all {len(self.cases):,}"
        )

    def _all(self, at: int) -> dict[str, float]:
        """R@10 and N@10 of the present state, validated after `at` epochs, over all cases."""
        if self.sample:
            found = self._validate(self.cases, self.offset_of_all)
        else:
            found = next(row for row in self.fit.history if row["at"] == at)
        self.fit.value = found.get("weighted", found["R@10"])
        return {name: found[name] for name in ("R@10", "N@10")}

    def _validate(self, cases: Cases, offset: OffsetChoice | None) -> dict[str, float]:
        try:
            chosen = {} if offset is None else offset(self.model)
            return {**validate(self.model, cases), **chosen}
        except ValueError as error:  # rank_counts: NaN or Inf
            raise NotFinite(str(error), "use a lower learning rate") from error


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
        return cls(model, average, optimizer, rng, Best(average.model, valid, Fit(), FINALISTS), config.warmup)

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
            "untrained": f.untrained, "processor": f.processor, "kept": self.best.kept, "stale": self.best.stale,
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
        self.best.kept, self.best.stale = [(v, at, one) for v, at, one in state["kept"]], state["stale"]
        for offset, floor in zip((self.best.offset, self.best.offset_of_all), state["floors"], strict=True):
            if offset is not None:
                offset.floor = floor


def candidate_count(model: Recommender, config: TrainConfig) -> int:
    """The number of candidates of the softmax: that of `config`, or by what an item's embedding costs."""
    learns = model.text is not None and model.text.top is not None
    return config.negatives or (ENCODED if learns else CANDIDATES)


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
    total = max(1, round(len(windows) / config.batch))
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
            for i, index in enumerate(batches(windows, config.batch, rng)):
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
