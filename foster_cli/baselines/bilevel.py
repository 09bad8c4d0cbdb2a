"""FOSTER's bi-level variant (Table 3, first row).

Algorithm 2 with RaT-BPTT in the place of the barrier direction: from phi, FOSTER's own inner steps (Algorithm 1: a
fresh S each, AdamW at `inner_lr`), the last `window` of them differentiated; then L_out at the end, real part,
feature matching and L_DH as in `distill.loop.outer_loss`; its exact gradient to D~.

In: a `Problem`, a `State` (both of `distill.loop`). Out: gradients to U, T, G, a row of the log, a `Distilled`.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foster_cli.baselines.bptt import Adam, AutogradInner, Data, Functional, draw_warm_up, rat_bptt
from foster_cli.console import SILENT, Console
from foster_cli.distill.inner import inner_loss
from foster_cli.distill.loop import Check, Distilled, Problem, State, outer_loop, outer_loss, reset
from foster_cli.distill.pipeline import Loop
from foster_cli.distill.synthetic import Synthetic
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import adamw, generator, stream_seed


class _FosterInner(AutogradInner):
    """L_in of Algorithm 1 with each step's S and mixed users."""

    def __init__(
        self, functional: Functional, Q: Data, problem: Problem, draws: list[tuple[Tensor, Tensor | None]]
    ) -> None:
        super().__init__(functional, [Q])
        self.problem, self.draws = problem, draws

    def loss(self, model: Recommender, step: int) -> Tensor:
        """L_in of step `step`."""
        S, weights = self.draws[step]
        return inner_loss(model, self.data[0].value, self.problem.V, S, self.problem.reading, weights)


def bilevel_gradient(
    problem: Problem, state: State, warm_up: int, window: int
) -> tuple[list[Tensor], dict[str, float]]:
    """dL_out/d(U, T, G) through `window` inner steps after `warm_up` plain ones, all from `state.phi`; L_out's parts.

    `state.phi` stays as it is; `state.rng` and `state.numpy_rng` are drawn from. Without dropout.
    """
    c, reading = problem.config, problem.reading
    ahead = state.phi.clone().eval()
    functional = Functional(ahead)
    Q = state.synthetic()
    data = Data(Q)
    draws = [(problem.subset(state.rng), reading.draw(len(Q), state.rng)) for _ in range(warm_up + window + 1)]

    parts: dict[str, float] = {}
    direct = torch.zeros_like(data.value)

    def outer(weights: Tensor) -> Tensor:
        functional.set(weights)
        leaf = data.value.detach().requires_grad_()
        f, found = outer_loss(problem, replace(state, phi=ahead), leaf, draws[-1][0])
        parts.update(found)
        ahead.zero_grad()
        f.backward()
        if leaf.grad is not None:  # L_DH reads D~ itself
            direct.add_(leaf.grad)
        return functional.gradient()

    adam = Adam(c.inner_lr, problem.train.weight_decay, decoupled=True)
    rat_bptt(_FosterInner(functional, data, problem, draws), adam, functional.flat(), warm_up, window, outer)
    factors = list(state.synthetic.parameters())
    return list(torch.autograd.grad(Q, factors, data.gradient + direct)), parts


def bilevel_step(problem: Problem, state: State, k: int, steps: int, window: int) -> dict[str, float]:
    """One outer step with 0 … steps - window warm-up steps; returns the row of the log.

    phi is reset every tau steps and stays there in between: D~ alone moves. FosterError unless 1 <= window <= steps.
    """
    c = problem.config
    began = time.perf_counter()
    if k == 0 or (c.reset != "never" and k % c.reset_every == 0):
        reset(problem, state, k)
    warm_up = draw_warm_up(steps, window, state.rng)
    found, parts = bilevel_gradient(problem, state, warm_up, window)
    for p, g in zip(state.synthetic.parameters(), found, strict=True):
        p.grad = g
    state.synthetic_optimizer.step()
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in found))
    with torch.no_grad():
        entropy = last_entropy(state.synthetic(), problem.V[problem.subset(state.rng)])
    return {
        "step": float(k + 1), **parts, "warm_up": float(warm_up), "gradient_synthetic": norm, "entropy": entropy,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def distill_bilevel(
    problem: Problem, synthetic: Synthetic, check: Check, steps: int, window: int, console: Console = SILENT
) -> Distilled:
    """`problem.config.steps` outer steps of `bilevel_step` from `synthetic`; the best validated D~."""
    c = problem.config
    phi = problem.fresh(stream_seed(problem.seed, "phi"))
    state = State(
        phi, adamw(phi.parameters()), synthetic,
        adamw(synthetic.parameters(), lr=c.synthetic_lr, weight_decay=c.synthetic_weight_decay),
        generator(problem.seed, "bilevel"), np.random.default_rng(stream_seed(problem.seed, "outer")),
    )  # fmt: skip
    return outer_loop(problem, synthetic, lambda k: bilevel_step(problem, state, k, steps, window), check, console)


@torch.no_grad()
def last_entropy(Q: Tensor, V_S: Tensor) -> float:
    """Mean entropy in nats of P = softmax(Q V_S^T) at the last row of Q (M, rows, d)."""
    log_p = torch.log_softmax(Q[:, -1] @ V_S.T, dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def bilevel_loop(steps: int, window: int) -> Loop:
    """`distill_bilevel` as the pipeline calls it."""
    return lambda problem, synthetic, check, console: distill_bilevel(problem, synthetic, check, steps, window, console)
