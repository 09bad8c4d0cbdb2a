"""TD3 (Zhang et al., WWW 2025): the synthetic set as Tucker factors, learned bi-level by RaT-BPTT.

In: a `Problem` (teacher with anchors, V (n, d), real windows, how S is drawn), `TD3Config`. Out: a `Distilled` with the
best D~ by validation, to be read in the paper's form (`PAPER`: the next position is the goal).

In an outer step the learner starts at the epoch's checkpoint of the real training and takes 0 … inner_steps - window
plain and `window` unrolled steps of Adam on D~. L_out on a batch of real windows is the cross-entropy of the last item
given all before it, plus the mean square between the learner's and the teacher's outputs there. Its exact gradient to
U, T, G through the unrolled steps is clipped and applied by Adam with a cosine schedule.

Our additions, or choices that the paper leaves open: dropout is off in the inner steps by default, so that the unrolled
function is the evaluated one; checkpoints and validation are those of every other method here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foster_cli.baselines.bptt import Adam, Functional, draw_warm_up, joined, rat_bptt
from foster_cli.baselines.td3_inner import Draw, make_inner
from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.console import SILENT, Console
from foster_cli.distill.algorithm2 import Problem, entropy, read
from foster_cli.distill.loop import Distilled, Loop, outer_loop
from foster_cli.distill.validation import Check
from foster_cli.errors import FosterError
from foster_cli.models.losses import candidate_softmax
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import generator, sent, stream_seed
from foster_cli.settings import DistillConfig, Settings, choice, positive
from foster_cli.synthetic.factors import Synthetic, random_start
from foster_cli.train.batch import RealBatch, batches, real_batch
from foster_cli.train.micro import Gradient, Micro, gradient_in_parts


@dataclass(frozen=True)
class TD3Config:
    """TD3's own settings. Budget, length, outer steps, |S| and validations are those of `DistillConfig`."""

    rank_user: int = 8
    """d1, the Tucker rank of the users."""
    rank_time: int = 8
    """d2, the Tucker rank of the positions."""
    inner_steps: int = 200
    """Maximum number of inner steps, warm-up and window together."""
    window: int = 40
    """Number of inner steps, the last ones, that are differentiated through."""
    inner_lr: float = 0.005
    """Adam learning rate of the inner steps."""
    inner_weight_decay: float = 5e-5
    """Adam weight decay of the inner steps (added to the gradient)."""
    inner_batch: int | None = None
    """Synthetic sequences per inner step, taken in a fixed order; None: all."""
    prefix_from: int = 5
    """Lowest position, counted from 0, that may be the target of the random prefix."""
    dropout: bool = False
    """Whether inner steps use the recommender's dropout (a recomputed step uses the same masks)."""
    lr: float = 0.01
    """Adam learning rate of U, T, G (the authors': 0.01 to 0.03); it falls to 0 along a cosine."""
    weight_decay: float = 1e-4
    """Adam weight decay of U, T, G."""
    clip: float = 1.0
    """Maximum norm of the gradient to U, T, G."""
    real_batch: int = 4096
    """Real windows per outer step; an epoch passes over all of them once."""
    outer_items: str = "all"
    """Candidates of the outer cross-entropy: `all` items, or `sampled` ones (`TrainConfig.negatives`)."""
    feature: float = 1.0
    """Weight of the mean square between the learner's and the teacher's last outputs."""
    first_anchor: int = 5
    """Earliest epoch of the real training whose checkpoint may be a start (with fewer epochs: only the last one)."""
    reset: str = "step"
    """Where an outer step starts: `step`, at the epoch's checkpoint; `epoch`, at the end of the previous step."""
    chunk: int = 256
    """Real windows whose activations are in memory at once."""


def check_td3(config: TD3Config, length: int) -> None:
    """Raise FosterError for a value out of range, before anything slow begins. `length` is L."""
    choice("outer_items", config.outer_items, ("all", "sampled"))
    choice("reset", config.reset, ("step", "epoch"))
    for name, count in (("rank_user", config.rank_user), ("rank_time", config.rank_time), ("window", config.window),
                        ("prefix_from", config.prefix_from), ("real_batch", config.real_batch),
                        ("chunk", config.chunk)):  # fmt: skip
        positive(name, count)
    positive("inner_steps", config.inner_steps, config.window)
    positive("inner_batch", 1 if config.inner_batch is None else config.inner_batch)
    positive("first_anchor", config.first_anchor, 0)
    for name, number in (("inner_lr", config.inner_lr), ("inner_weight_decay", config.inner_weight_decay),
                         ("lr", config.lr), ("weight_decay", config.weight_decay), ("clip", config.clip),
                         ("feature", config.feature)):  # fmt: skip
        positive(name, number, 0)
    positive("length", length, 2)


#: TD3's own settings, by name: its sets depend on them and on the settings of the run.
OWN: dict[str, Any] = {"td3": dataclasses.asdict(TD3Config())}
#: The fields of `DistillConfig` that TD3 reads.
READS = ("budget", "length", "steps", "items_per_step", "check_every", "check_seeds", "exact")


def adapt(settings: Settings, typed: Collection[str]) -> Settings:
    """Random start with TD3's ranks, the next position as target, no mixing; all items unless the user gave |S|."""
    own, config = TD3Config(), settings.distill
    size = config.items_per_step if "items_per_step" in typed else None
    return replace(settings, distill=td3_settings(replace(config, items_per_step=size), own))


def td3_settings(config: DistillConfig, own: TD3Config) -> DistillConfig:
    """`config` with the values that TD3 fixes."""
    user, time = min(own.rank_user, config.budget), min(own.rank_time, config.length)
    return replace(config, init="random", targets="next", mix=False, rank_user=user, rank_time=time)


@dataclass
class TD3State:
    """The mutable state: the learner and the weights that a step starts from, D~ with optimizer and schedule, the
    epoch's remaining batches, the random generators of the run."""

    learner: Recommender
    synthetic: Synthetic
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: torch.Generator
    numpy_rng: np.random.Generator
    start: Tensor = field(default_factory=lambda: torch.empty(0))
    epoch: list[np.ndarray] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, including the generator of the learner's dropout."""
        return {
            "learner": self.learner.learnables(), "dropout": self.learner.sequence.source[0].get_state(),
            "synthetic": self.synthetic.factors(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "rng": self.rng.get_state(),
            "numpy_rng": numpy_state(self.numpy_rng), "start": self.start, "epoch": list(self.epoch),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state` in place, into the same parameters."""
        self.learner.restore(state["learner"])
        self.learner.sequence.source[0].set_state(state["dropout"])
        self.synthetic.restore(state["synthetic"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.set_state(state["rng"])
        set_numpy(self.numpy_rng, state["numpy_rng"])
        self.start = state["start"].to(self.learner.device)
        self.epoch = list(state["epoch"])


def td3_state(problem: Problem, settings: TD3Config, synthetic: Synthetic | None = None) -> TD3State:
    """The state before the first outer step; `synthetic` None: U, T, G are drawn as in TD3."""
    c, V = problem.config, problem.V
    if synthetic is None:
        rng = generator(problem.seed, "td3", "init")
        synthetic = random_start(c.budget, c.length, V.shape[1], settings.rank_user, settings.rank_time, rng)
    synthetic = synthetic.to(V.device, V.dtype)
    optimizer = torch.optim.Adam(synthetic.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, c.steps))
    return TD3State(
        problem.fresh(stream_seed(problem.seed, "td3", "learner")), synthetic, optimizer, schedule,
        generator(problem.seed, "td3"), np.random.default_rng(stream_seed(problem.seed, "td3", "outer")),
    )  # fmt: skip


def next_batch(problem: Problem, settings: TD3Config, state: TD3State, functional: Functional) -> np.ndarray:
    """Indices (B,) of real windows. An epoch begins with new batches and the learner at a random checkpoint."""
    if not state.epoch:
        state.epoch = batches(problem.windows, settings.real_batch, state.numpy_rng)
        anchors = problem.teacher.anchors
        first = min(settings.first_anchor, len(anchors) - 1)
        chosen = first + int(torch.randint(len(anchors) - first, (1,), generator=state.rng))
        state.learner.restore(anchors[chosen])
        state.start = functional.flat()
    return state.epoch.pop()


def draw_steps(problem: Problem, settings: TD3Config, count: int, all_items: bool, rng: torch.Generator) -> list[Draw]:
    """The random draws of `count` inner steps: prefix target uniform in prefix_from … L-1, S unless `all_items`."""
    c = problem.config
    low = min(settings.prefix_from, c.length - 1)
    position = torch.randint(low, c.length, (count,), generator=rng).tolist()
    seeds = torch.randint(2**62, (count,), generator=rng).tolist()
    size = min(settings.inner_batch or c.budget, c.budget)
    parts = [slice(a, min(a + size, c.budget)) for a in range(0, c.budget, size)]
    items = [None if all_items else problem.subset(rng) for _ in range(count)]
    return [Draw(position[i], items[i], parts[i % len(parts)], seeds[i]) for i in range(count)]


def last_batch(problem: Problem, index: np.ndarray, sampled: bool, rng: np.random.Generator) -> RealBatch:
    """The windows at `index` (B,). Without `sampled`, all items are candidates and batch indices are item indices."""
    windows, n, device = problem.windows.take(index), len(problem.V), problem.V.device
    if sampled:
        return real_batch(windows, problem.pool, "softmax", problem.negatives, rng, device)
    size = int(windows.lengths.max())
    valid = windows.items[:, 1:size] >= 0
    items = sent(torch.from_numpy(np.ascontiguousarray(windows.items[:, :size])), device)
    filled = items.clamp_min(0)
    return RealBatch(
        torch.arange(n, device=device), filled[:, :-1], filled[:, 1:], items[:, 1:] >= 0,
        sent(torch.from_numpy(np.flatnonzero(valid)), device), valid.sum(1), items.new_empty(0),
    )  # fmt: skip


def outer_gradient(
    learner: Recommender, teacher: Recommender, V: Tensor, batch: RealBatch, settings: TD3Config
) -> Gradient:
    """L_out and its gradient to the trainable weights of `learner`, `settings.chunk` windows at a time.

    L_out = cross-entropy of each window's last item + feature * mean |h - h_teacher|^2, h (d,) the output before it. V
    (n, d) are the teacher's item embeddings. Parts: `outer_real`, `outer_feature`.
    """
    E_teacher, last, (count, length) = V[batch.unique], batch.valid.sum(1) - 1, batch.inputs.shape

    def part_loss(E: Tensor, a: int, b: int) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, at = batch.inputs[a:b], last[a:b]
        goal = batch.targets[a:b].gather(1, at[:, None])[:, 0]
        H = learner.last(F.embedding(inputs, E), at)
        if batch.goals is not None:
            place = batch.goals[a:b].gather(1, at[:, None])[:, 0]
            base = candidate_softmax(H, F.embedding(batch.negatives, E), place, batch.inclusion)
        else:
            base = F.cross_entropy(H @ E.T, goal)
        share = len(at) / len(last)
        loss, parts = share * base, {"outer_real": share * base.detach(), "outer_feature": base.new_zeros(())}
        if settings.feature > 0:
            with torch.no_grad():
                H_teacher = teacher.last(F.embedding(inputs, E_teacher), at)
            distance = (H - H_teacher).square().mean()
            loss = loss + share * settings.feature * distance
            parts["outer_feature"] = share * distance.detach()
        return loss, parts

    return gradient_in_parts(learner, batch.unique, count, length, part_loss, Micro(settings.chunk))


def td3_step(
    problem: Problem, settings: TD3Config, state: TD3State, k: int, warm_up: int | None = None
) -> dict[str, float]:
    """Outer step k (from 0). Returns the row of the log; `entropy` is that of P at the last position.

    `warm_up`: inner steps before the window; None: drawn at random, as in TD3.
    """
    began = time.perf_counter()
    c, V = problem.config, problem.V
    functional = Functional(state.learner)
    index = next_batch(problem, settings, state, functional)
    if warm_up is None:
        warm_up = draw_warm_up(settings.inner_steps, settings.window, state.rng)
    all_items = c.items_per_step is None or c.items_per_step >= len(V)
    draws = draw_steps(problem, settings, warm_up + settings.window, all_items, state.rng)
    Q = state.synthetic()
    inner = make_inner(functional, Q.detach(), V, draws)
    batch = last_batch(problem, index, settings.outer_items == "sampled", state.numpy_rng)
    parts: dict[str, Tensor | float] = {}

    def outer(weights: Tensor) -> Tensor:
        functional.set(weights)
        state.learner.eval()
        found = outer_gradient(state.learner, problem.teacher.model, V, batch, settings)
        parts.update(found.parts)
        parts["inner_cross_entropy"] = inner.value(weights, len(draws) - 1)
        state.learner.train(settings.dropout)
        return joined(found.gradients, functional.parameters)

    state.learner.train(settings.dropout)
    adam = Adam(settings.inner_lr, settings.inner_weight_decay)
    end = rat_bptt(inner, adam, state.start, warm_up, settings.window, outer)
    if settings.reset == "epoch":
        state.start = end
    state.optimizer.zero_grad()
    Q.backward(inner.to_synthetic())
    norm = torch.nn.utils.clip_grad_norm_(state.synthetic.parameters(), settings.clip)
    rate = state.optimizer.param_groups[0]["lr"]
    state.optimizer.step()
    state.schedule.step()
    last = entropy(Q.detach()[:, -1], V if all_items else V[draws[-1].items])
    found = {**parts, "warm_up": float(warm_up), "gradient_synthetic": norm, "lr": rate, "entropy": last}
    return {"step": float(k + 1), **read(found), "seconds": time.perf_counter() - began}


def distill_td3(
    problem: Problem, settings: TD3Config, check: Check, console: Console = SILENT, synthetic: Synthetic | None = None
) -> Distilled:
    """Run `problem.config.steps` outer steps; returns the D~ that validates best, step 0 included.

    NaN or Inf ends the run with the best D~ so far. Raises FosterError for settings out of range, or for a D~ with
    separate goals (`problem.reading`).
    """
    c = problem.config
    check_td3(settings, c.length)
    if problem.reading.own:
        raise FosterError("TD3's set has no goals of its own", "use --targets next")
    state = td3_state(problem, settings, synthetic)
    return outer_loop(problem, state.synthetic, lambda k: td3_step(problem, settings, state, k), check, console, state)


def td3_loop(own: TD3Config) -> Loop:
    """`distill_td3` as a `Loop` for the pipeline."""
    return lambda problem, synthetic, check, console: distill_td3(problem, own, check, console, synthetic)


LOOP = td3_loop(TD3Config())
