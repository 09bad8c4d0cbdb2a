"""Outer steps that follow students (ours): D~ learns to say what its students still lack.

Every tau steps (`reset_every`), phi becomes a student: a fresh recommender trained on D~ by Algorithm 1. A step then
moves phi's backbone by one first-order step towards the teacher's answers to real windows,

    KL( softmax over S of H_teacher V_S^T || softmax over S of H_phi E_S^T ),

and the targets of D~ move as phi's answers to the inputs of D~ have moved since it was a student:

    Q_target = Q_target at the reset + (H_phi - H_student) A,   A = argmin |A V^T - E^T|^2,

where A (d, w) turns answers over phi's item embeddings E into answers over V; it is the identity where E = V. Few
contexts leave a student free between them, and there it differs from its teacher. The next student, trained on the
moved targets, begins where this one ended. As in Algorithm 2, phi restarts regularly, takes first-order steps on real
data, and D~ follows phi; nothing is differentiated through the training of the student.

In: a `Problem` whose reading has separate targets, and D~. Out: D~ with other targets; its inputs stay.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.checkpoint import load_optimizer, numpy_state, set_numpy
from foster_cli.console import SILENT, Console, Stage
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.distill.algorithm2 import Problem, entropy, read
from foster_cli.distill.loop import Distilled, bome, last_state, outer_loop
from foster_cli.distill.validation import Check
from foster_cli.models.recommender import Recommender
from foster_cli.ops import soft_embed, soft_kl
from foster_cli.runtime import adamw, generator, sent, stream_seed
from foster_cli.synthetic.factors import Synthetic, from_tensor
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.train.average import Average
from foster_cli.train.batch import kept, target_positions
from foster_cli.train.mixture import View, recommender_view

Float = npt.NDArray[np.float64]
#: A student in an outer step trains without a word of its own.
QUIET = Stage(SILENT, "student")
#: Steps for which a student trains on D~ before it is moved, at most.
STUDENT_STEPS = 100
#: Real windows in a step.
WINDOWS = 64
#: The smallest share of the largest eigenvalue of V^T V that counts in A.
RIDGE = 1e-6


@dataclass
class Moving:
    """phi on its way from a student to its teacher. `average`: its averaged weights, whose answers count; `E` (n, d):
    its item embeddings, which stay; `A` (d, w): see above; `base` (M, 2L, w): D~ at the reset; `student` (M, L, d): the
    student's answers to the inputs of D~."""

    phi: Recommender
    average: Average
    optimizer: torch.optim.Optimizer
    E: Tensor
    A: Tensor
    base: Tensor
    student: Tensor


def to_factor(E: Tensor, V: Tensor) -> Tensor:
    """A (d, w), the least squares solution of A V^T = E^T for E (n, d) and V (n, w): the identity if E = V."""
    if torch.equal(E, V):
        return torch.eye(V.shape[1]).to(V)
    X, Y = V.double(), E.double()
    gram = X.T @ X
    gram.diagonal().add_(RIDGE * torch.linalg.matrix_norm(gram, 2))
    return torch.linalg.solve(gram, X.T @ Y).T.to(V)


@dataclass
class Following:
    """The variables of a run: D~, phi and the random generators. A `Resumable`. `share` (W,): the probability with
    which a real window is drawn, higher for later ones (`TrainConfig.recency`); `teacher`: who answers to them."""

    problem: Problem
    synthetic: Synthetic
    rng: torch.Generator
    numpy_rng: np.random.Generator
    share: Float
    teacher: View
    moving: Moving | None = None

    @classmethod
    def fresh(cls, problem: Problem, synthetic: Synthetic) -> Following:
        """The state before the first outer step on `synthetic`."""
        rng, numpy_rng = generator(problem.seed, "follow"), np.random.default_rng(stream_seed(problem.seed, "follow"))
        weight = kept(problem.windows, problem.train.recency)
        teacher = problem.view or recommender_view("own", problem.teacher.model)
        return cls(problem, synthetic, rng, numpy_rng, weight / weight.sum(), teacher)

    def state_dict(self) -> dict[str, Any]:
        """The whole state. phi's item embeddings are stored if they are not V."""
        moving, m = None, self.moving
        if m is not None:
            moving = {
                "phi": dict(m.phi.sequence.state_dict()), "average": dict(m.average.model.sequence.state_dict()),
                "steps": m.average.steps, "optimizer": m.optimizer.state_dict(), "base": m.base, "student": m.student,
                "E": None if torch.equal(m.E, self.problem.V) else m.E,
            }  # fmt: skip
        return {
            "synthetic": self.synthetic.factors(), "moving": moving, "rng": self.rng.get_state(),
            "numpy_rng": numpy_state(self.numpy_rng),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`. If it holds no phi (see `loop.last_state`), the next step makes one."""
        self.synthetic.restore(state["synthetic"])
        self.rng.set_state(state["rng"])
        set_numpy(self.numpy_rng, state["numpy_rng"])
        stored, V = state.get("moving"), self.problem.V
        if stored is not None:
            E = V if stored["E"] is None else stored["E"].to(V)
            phi = self.problem.fresh(self.problem.seed)
            phi.sequence.load_state_dict(stored["phi"])
            self.moving = m = self._moving(phi, E, stored["base"].to(V), stored["student"].to(V))
            m.average.model.sequence.load_state_dict(stored["average"])
            m.average.steps = stored["steps"]
            load_optimizer(m.optimizer, stored["optimizer"])

    def reset(self, k: int) -> None:
        """Make phi a student: a fresh recommender trained on the present D~."""
        problem, config = self.problem, self.problem.student
        seed, Q = stream_seed(problem.seed, "student", k), self.synthetic().detach()
        phi = problem.fresh(seed)
        D = SyntheticSet(Q, problem.V, problem.student_subset or problem.subset, problem.reading)
        fit_synthetic(phi, D, None, replace(config, steps=min(config.steps, STUDENT_STEPS)), seed, QUIET)
        E = phi.embed_all()
        self.moving = self._moving(phi, E, Q, answers(phi, Q, E, problem))

    def _moving(self, phi: Recommender, E: Tensor, base: Tensor, student: Tensor) -> Moving:
        problem = self.problem
        phi.hold_items()
        phi.eval()
        optimizer = adamw(phi.sequence.parameters(), lr=problem.config.model_lr)
        average = Average(phi, problem.student.average)
        return Moving(phi, average, optimizer, E, to_factor(E, problem.V), base, student)

    def step(self, k: int) -> dict[str, float]:
        """Outer step k (from 0); return its row of the log."""
        began, problem, V = time.perf_counter(), self.problem, self.problem.V
        if k % problem.config.reset_every == 0 or self.moving is None:
            self.reset(k)
        m = self.moving
        assert m is not None
        S = problem.subset(self.rng)
        loss = self.real_loss(m, S)
        m.optimizer.zero_grad()
        loss.backward()
        m.optimizer.step()
        m.average.update()
        Q = m.base.clone()
        half = Q.shape[1] // 2
        Q[:, half:] += (answers(m.average.model, m.base, m.E, problem) - m.student) @ m.A
        moved, error = from_tensor(Q, problem.config.rank_user, problem.config.rank_time)
        self.synthetic.restore(dict(moved.named_parameters()))
        found = {
            "outer_real": loss.detach(), "moved": (Q - m.base).norm() / m.base[:, half:].norm(),
            "rank_error": error, "entropy": entropy(Q[:, half:], V[S]),
        }  # fmt: skip
        return {"step": float(k + 1), **read(found), "seconds": time.perf_counter() - began}

    def real_loss(self, m: Moving, S: Tensor) -> Tensor:
        """The mean KL of phi's answers from the teacher's on S, at the targets of real windows."""
        problem, device = self.problem, self.problem.V.device
        windows = problem.windows.take(self.numpy_rng.choice(len(self.share), WINDOWS, p=self.share))
        size = int(windows.lengths.max()) - 1
        items = sent(torch.from_numpy(np.ascontiguousarray(windows.items[:, :size])), device).clamp_min(0)
        places = sent(torch.from_numpy(np.flatnonzero(target_positions(windows)[:, :size])), device)
        with torch.no_grad():
            goal = self.teacher.hard(items).flatten(0, 1)[places]
        return soft_kl(goal, problem.V[S], m.phi.at(m.E[items], places), m.E[S]).mean()


@torch.no_grad()
def answers(phi: Recommender, Q: Tensor, E: Tensor, problem: Problem) -> Tensor:
    """H (M, L, d): the outputs of phi after every position of the inputs of D~, over its item embeddings E (n, d)."""
    items = problem.reading.items
    assert items is not None  # targets are separate
    return phi(soft_embed(problem.reading.parts(Q)[0], problem.V[items], E[items]))


def follow(problem: Problem, synthetic: Synthetic, check: Check, console: Console = SILENT) -> Distilled:
    """Take K outer steps that follow students; return the best validated D~."""
    state = Following.fresh(problem, synthetic)
    out = outer_loop(problem, synthetic, state.step, check, console, state)
    out.last = last_state(problem, out, state, ("moving",))
    return out


def distill(problem: Problem, synthetic: Synthetic, check: Check, console: Console = SILENT) -> Distilled:
    """The outer loop that the settings name: `follow`, or Algorithm 2 (`loop.bome`)."""
    return (follow if problem.config.outer == "follow" else bome)(problem, synthetic, check, console)
