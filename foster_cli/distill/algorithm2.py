"""Algorithm 2: one outer step. `outer_step` follows the paper line by line; `loop.py` repeats it.

In: a `Problem` (teacher, V (n, d), real windows, settings) and a `State` (phi, D~). It takes only first derivatives.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.checkpoint import Store, load_optimizer, numpy_state, set_numpy
from foster_cli.data.windows import Windows
from foster_cli.distill.algorithm1 import inner_loss, inner_steps
from foster_cli.distill.alignment import alignment_loss
from foster_cli.distill.barrier import direction, multiplier
from foster_cli.models.recommender import Factory, Recommender
from foster_cli.runtime import adamw, generator, stream_seed
from foster_cli.settings import DistillConfig, TrainConfig
from foster_cli.synthetic.factors import Synthetic
from foster_cli.synthetic.reading import PAPER, Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.anchors import Teacher
from foster_cli.train.fit import Pool, batches, candidate_count, real_batch
from foster_cli.train.micro import Micro, outer_real
from foster_cli.train.mixture import View


@dataclass(frozen=True)
class Problem:
    """The constants of a run: teacher, V (n, d), real windows, how S is drawn, settings, seed, how D~ is read.

    `store` holds the run's state between steps (None: not stored). `micro`: how many real windows a part has.
    `view`: who answers in L_DH and what it reads; None: the teacher, which reads V.
    """

    teacher: Teacher
    fresh: Factory
    V: Tensor
    windows: Windows
    subset: Subset
    config: DistillConfig
    train: TrainConfig
    seed: int
    reading: Reading = PAPER
    store: Store | None = None
    micro: Micro = field(default_factory=Micro)
    view: View | None = None

    @cached_property
    def pool(self) -> Pool:
        """The items that may be negatives in the outer loss."""
        return Pool.of(self.teacher.model, self.windows)

    @property
    def negatives(self) -> int:
        """The number of candidates of a softmax in the outer loss."""
        return candidate_count(self.teacher.model, self.train)


@dataclass
class State:
    """The variables of a run: phi and D~, each with its optimizer, and the random generators. A `Resumable`."""

    phi: Recommender
    phi_optimizer: torch.optim.Optimizer
    synthetic: Synthetic
    synthetic_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    numpy_rng: np.random.Generator

    @classmethod
    def fresh(cls, problem: Problem, synthetic: Synthetic, stream: str = "distill") -> State:
        """The state before the first outer step on `synthetic`. `stream` names the run's random stream."""
        c, phi = problem.config, problem.fresh(stream_seed(problem.seed, "phi"))
        over = adamw(synthetic.parameters(), lr=c.synthetic_lr, weight_decay=c.synthetic_weight_decay)
        numpy_rng = np.random.default_rng(stream_seed(problem.seed, "outer"))
        return cls(phi, phi_optimizer(problem, phi), synthetic, over, generator(problem.seed, stream), numpy_rng)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, with the generator of phi's dropout."""
        return {
            "phi": self.phi.learnables(), "dropout": self.phi.sequence.source[0].get_state(),
            "phi_optimizer": self.phi_optimizer.state_dict(), "synthetic": self.synthetic.factors(),
            "synthetic_optimizer": self.synthetic_optimizer.state_dict(), "rng": self.rng.get_state(),
            "numpy_rng": numpy_state(self.numpy_rng),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state` in place. If it holds no phi (see `loop.last_state`), phi is left unchanged."""
        if "phi" in state:
            self.phi.restore(state["phi"])
            self.phi.sequence.source[0].set_state(state["dropout"])
            load_optimizer(self.phi_optimizer, state["phi_optimizer"])
        self.synthetic.restore(state["synthetic"])
        load_optimizer(self.synthetic_optimizer, state["synthetic_optimizer"])
        self.rng.set_state(state["rng"])
        set_numpy(self.numpy_rng, state["numpy_rng"])


def phi_optimizer(problem: Problem, phi: Recommender) -> torch.optim.Optimizer:
    """A new AdamW for phi's outer steps."""
    rate = problem.config.model_lr
    return adamw(phi.groups(rate, rate), weight_decay=problem.train.weight_decay)


def resets(config: DistillConfig, k: int) -> bool:
    """Whether step k (from 0) begins with a reset of phi (lines 6 and 7)."""
    return k == 0 or (config.reset != "never" and k % config.reset_every == 0)


def reset(problem: Problem, state: State, step: int) -> None:
    """Set phi to a random anchor (or a fresh model) and give it a new optimizer (3.2)."""
    if problem.config.reset == "random":
        state.phi.restore(problem.fresh(stream_seed(problem.seed, "reset", step)).learnables())
    else:
        chosen = int(torch.randint(len(problem.teacher.anchors), (1,), generator=state.rng))
        state.phi.restore(problem.teacher.anchors[chosen])
    state.phi_optimizer = phi_optimizer(problem, state.phi)


@dataclass(frozen=True)
class OuterLoss:
    """The parts of L_out, and its gradients to phi's trainable parameters and to Q (None if no part reads D~)."""

    parts: dict[str, float]
    to_phi: list[Tensor]
    to_Q: Tensor | None


def outer_loss(problem: Problem, state: State, Q: Tensor, S: Tensor) -> OuterLoss:
    """L_out = L_BCE(phi) + alpha |h_phi - h_real|^2 + lambda L_DH(D~) (Eq. 11, 16, 17) on a fresh real batch."""
    c, teacher = problem.config, problem.teacher.model
    windows = problem.windows.take(batches(problem.windows, c.real_batch, state.numpy_rng)[0])
    share, rng = state.phi.sequence.predicted, state.numpy_rng
    real = real_batch(windows, problem.pool, c.outer_loss, problem.negatives, rng, Q.device, share)
    found = outer_real(state.phi, teacher, real, c.outer_loss, c.alpha, problem.micro)
    if c.dh_weight <= 0:
        return OuterLoss({**found.parts, "outer_dh": 0.0}, found.gradients, None)
    answers, inputs = (teacher, None) if problem.view is None else (problem.view.outputs, problem.view.inputs)
    dh = alignment_loss(answers, Q, problem.V, S, c, state.rng, problem.reading, inputs)
    (to_Q,) = torch.autograd.grad(c.dh_weight * dh, Q)
    return OuterLoss({**found.parts, "outer_dh": dh.item()}, found.gradients, to_Q)


def outer_step(problem: Problem, state: State, k: int) -> dict[str, float]:
    """Carry out lines 5 to 12 of Algorithm 2; return the step's row of the log."""
    c, V, reading = problem.config, problem.V, problem.reading
    began = time.perf_counter()
    if resets(c, k):  # lines 6, 7
        reset(problem, state, k)
    Q = state.synthetic()
    ahead = state.phi.clone()  # line 8: phi^T, T inner steps from phi, a fresh S each
    optimizer = adamw(ahead.groups(c.inner_lr, c.inner_lr), weight_decay=problem.train.weight_decay)
    inner_steps(ahead, SyntheticSet(Q.detach(), V, problem.subset, reading), c.inner_steps, optimizer, state.rng)

    S, mixing = problem.subset(state.rng), reading.draw(len(Q), state.rng)  # line 9: q on one S
    phi = [p for p in state.phi.parameters() if p.requires_grad]
    factors = list(state.synthetic.parameters())
    before = inner_loss(state.phi, Q, V, S, reading, mixing)
    for p in ahead.parameters():
        p.requires_grad_(False)
    after = inner_loss(ahead, Q, V, S, reading, mixing)  # stop-gradient of phi^T: only D~ gets a gradient
    q = before - after
    grad_q = gradient(q, phi + factors)

    Q = state.synthetic()  # computed again: the gradient of q has freed the graph from D~ to the first Q
    f = outer_loss(problem, state, Q, S)  # line 10
    to_factors = [torch.zeros_like(p) for p in factors] if f.to_Q is None else gradient(Q, factors, f.to_Q)
    grad_f = f.to_phi + to_factors
    lam = multiplier(grad_f, grad_q, c.eta, c.barrier, q.item(), before.item())
    step = direction(grad_f, grad_q, lam)  # line 11
    for p, g in zip(phi + factors, step, strict=True):
        p.grad = g
    state.phi_optimizer.step()  # line 12
    state.synthetic_optimizer.step()
    return {
        "step": float(k + 1), "inner_before": before.item(), "inner_after": after.item(), "q": q.item(),
        "q_sign": float(np.sign(q.item())), "lambda": lam, **f.parts,
        "entropy": entropy(reading.predicted(Q.detach()), V[S]), "gradient_phi": norm(step[: len(phi)]),
        "gradient_synthetic": norm(step[len(phi) :]), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def gradient(of: Tensor, over: list[torch.nn.Parameter], up: Tensor | None = None) -> list[Tensor]:
    """The gradient of `of` to each parameter, or zeros without a path to it. `up`: upstream gradient, if no scalar."""
    found = torch.autograd.grad(of, over, up, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(over, found, strict=True)]


def norm(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all entries together, computed in float64."""
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


@torch.no_grad()
def entropy(Q: Tensor, V_S: Tensor) -> float:
    """The mean entropy of P = softmax(Q V_S^T) over all positions, in nats."""
    log_p = torch.log_softmax(Q @ V_S.T, dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())
