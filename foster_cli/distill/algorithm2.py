"""Algorithm 2: one outer step. `outer_step` follows the paper line by line; `loop.py` repeats it.

In: a `Problem` (teacher, V (n, d), real windows, settings) and a `State` (phi, D~). It takes only first derivatives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from foster_cli.distill.barrier import direction, multiplier, norm
from foster_cli.distill.graph import StepGraph, step_graph
from foster_cli.models.recommender import Factory, Recommender
from foster_cli.runtime import adamw, generator, sent, set_gradients, stream_seed
from foster_cli.settings import DistillConfig, StudentConfig, TrainConfig
from foster_cli.synthetic.factors import Synthetic
from foster_cli.synthetic.reading import PAPER, Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.anchors import Teacher
from foster_cli.train.batch import Pool, batches, candidate_count, real_batch
from foster_cli.train.micro import Micro, outer_real
from foster_cli.train.mixture import View


@dataclass(frozen=True)
class Problem:
    """The constants of a run: teacher, V (n, d), real windows, how S is drawn, settings, seed, how D~ is read.

    `store` holds the run's state between steps (None: not stored). `micro`: how many real windows a part has.
    `view`: who answers in L_DH and what it reads; None: the teacher, which reads V. `student`, `student_subset`: how a
    fresh recommender trains on D~ (`follow.py`); None: S is drawn as in the outer steps.
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
    student: StudentConfig = field(default_factory=StudentConfig)
    student_subset: Subset | None = None

    @cached_property
    def pool(self) -> Pool:
        """The items that may be negatives in the outer loss."""
        return Pool.of(self.teacher.model, self.windows)

    @property
    def negatives(self) -> int:
        """The number of candidates of a softmax in the outer loss."""
        return candidate_count(self.teacher.model, self.train)


@dataclass(frozen=True)
class Ahead:
    """phi^T: a recommender, the Q that it learns from, its optimizer and, on a GPU, its steps as a graph."""

    phi: Recommender
    D: SyntheticSet
    optimizer: torch.optim.Optimizer
    graph: StepGraph | None


@dataclass
class State:
    """The variables of a run: phi and D~, each with its optimizer, and the random generators. A `Resumable`.

    `ahead` is memory alone: nothing in it lasts from one outer step to the next.
    """

    phi: Recommender
    phi_optimizer: torch.optim.Optimizer
    synthetic: Synthetic
    synthetic_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    numpy_rng: np.random.Generator
    ahead: Ahead | None = None

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

    parts: dict[str, Tensor | float]
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
    return OuterLoss({**found.parts, "outer_dh": dh.detach()}, found.gradients, to_Q)


def look_ahead(problem: Problem, state: State, Q: Tensor) -> Recommender:
    """phi^T (line 8): phi after T inner steps on Q with a fresh optimizer, a fresh S each. Its memory is reused."""
    c = problem.config
    held = state.ahead
    if held is None:
        phi = state.phi.clone()
        D = SyntheticSet(Q.detach().clone(), problem.V, problem.subset, problem.reading)
        optimizer = adamw(phi.groups(c.inner_lr, c.inner_lr), weight_decay=problem.train.weight_decay)
        held = state.ahead = Ahead(phi, D, optimizer, step_graph(phi, problem.micro.note))
    held.D.Q.copy_(Q.detach())
    learned = [p for group in held.optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        torch._foreach_copy_(list(held.phi.parameters()), list(state.phi.parameters()))
        for kept in held.optimizer.state.values():
            for x in kept.values():
                x.zero_()
    for p in learned:
        p.requires_grad_(True)
    inner_steps(held.phi, held.D, c.inner_steps, held.optimizer, state.rng, None, held.graph)
    for p in learned:
        p.requires_grad_(False)
    return held.phi


def outer_step(problem: Problem, state: State, k: int) -> dict[str, float]:
    """Carry out lines 5 to 12 of Algorithm 2; return the step's row of the log, which is read from the device once."""
    c, V, reading = problem.config, problem.V, problem.reading
    began = time.perf_counter()
    if resets(c, k):  # lines 6, 7
        reset(problem, state, k)
    Q = state.synthetic()
    ahead = look_ahead(problem, state, Q)  # line 8

    S, mixing = problem.subset(state.rng), reading.draw(len(Q), state.rng)  # line 9: q on one S
    mixing = None if mixing is None else sent(mixing, V.device)
    phi = [p for p in state.phi.parameters() if p.requires_grad]
    factors = list(state.synthetic.parameters())
    before = inner_loss(state.phi, Q, V, S, reading, mixing)
    after = inner_loss(ahead, Q, V, S, reading, mixing)  # stop-gradient of phi^T: only D~ gets a gradient
    q = before - after
    grad_q = gradient(q, phi + factors)

    Q = state.synthetic()  # computed again: the gradient of q has freed the graph from D~ to the first Q
    f = outer_loss(problem, state, Q, S)  # line 10
    to_factors = [torch.zeros_like(p) for p in factors] if f.to_Q is None else gradient(Q, factors, f.to_Q)
    grad_f = f.to_phi + to_factors
    lam = multiplier(grad_f, grad_q, c.eta, c.barrier, q.detach(), before.detach())
    step = direction(grad_f, grad_q, lam)  # line 11
    set_gradients(phi + factors, step)
    state.phi_optimizer.step()  # line 12
    state.synthetic_optimizer.step()
    found = {
        "inner_before": before, "inner_after": after, "q": q, "q_sign": q.sign(), "lambda": lam, **f.parts,
        "entropy": entropy(reading.predicted(Q.detach()), V[S]), "gradient_phi": norm(step[: len(phi)]),
        "gradient_synthetic": norm(step[len(phi) :]),
    }  # fmt: skip
    return {"step": float(k + 1), **read(found), "seconds": time.perf_counter() - began}


def read(scalars: Mapping[str, Tensor | float]) -> dict[str, float]:
    """The numbers behind scalars on a device, read at once."""
    on = [x for x in scalars.values() if isinstance(x, Tensor)]
    values = iter(torch.stack([x.detach().double() for x in on]).tolist() if on else [])
    return {name: next(values) if isinstance(x, Tensor) else x for name, x in scalars.items()}


def gradient(of: Tensor, over: list[torch.nn.Parameter], up: Tensor | None = None) -> list[Tensor]:
    """The gradient of `of` to each parameter, or zeros without a path to it. `up`: upstream gradient, if no scalar."""
    found = torch.autograd.grad(of, over, up, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(over, found, strict=True)]


@torch.no_grad()
def entropy(Q: Tensor, V_S: Tensor) -> Tensor:
    """The mean entropy of P = softmax(Q V_S^T) over all positions, in nats: a scalar."""
    log_p = torch.log_softmax(Q @ V_S.T, dim=-1)
    return -(log_p.exp() * log_p).sum(-1).mean()
