"""FOSTER's bi-level variant (Table 3, first row).

Algorithm 2 with RaT-BPTT instead of the barrier direction. It runs FOSTER's inner steps from phi (Algorithm 1: AdamW at
`inner_lr`, a fresh S for each step), then takes the exact gradient of L_out to D~ through the last `window` of them.
L_out is that of `algorithm2.outer_loss`: the real part, feature matching and L_DH.

In: a `Problem`, a `State` (both of `distill.algorithm2`). Out: gradients to U, T, G, a row of the log, a `Distilled`.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from foster_cli.baselines.bptt import Adam, AutogradInner, Data, Functional, draw_warm_up, joined, rat_bptt
from foster_cli.console import SILENT, Console
from foster_cli.distill.algorithm1 import inner_loss
from foster_cli.distill.algorithm2 import Problem, State, entropy, outer_loss, read, reset, resets
from foster_cli.distill.barrier import norm
from foster_cli.distill.loop import Distilled, Loop, outer_loop
from foster_cli.distill.validation import Check
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import set_gradients
from foster_cli.settings import DistillConfig, Settings
from foster_cli.synthetic.factors import Synthetic


class _FosterInner(AutogradInner):
    """L_in of Algorithm 1. `draws`: S and the mixing weights of each step."""

    def __init__(
        self, functional: Functional, Q: Data, problem: Problem, draws: list[tuple[Tensor, Tensor | None]]
    ) -> None:
        super().__init__(functional, [Q])
        self.problem, self.draws = problem, draws

    def loss(self, model: Recommender, step: int) -> Tensor:
        """L_in of step `step`."""
        S, mixing = self.draws[step]
        return inner_loss(model, self.data[0].value, self.problem.V, S, self.problem.reading, mixing)


def bilevel_gradient(
    problem: Problem, state: State, warm_up: int, window: int
) -> tuple[list[Tensor], dict[str, Tensor | float]]:
    """dL_out/d(U, T, G) through `window` inner steps after `warm_up` plain ones from `state.phi`; the parts of L_out.

    Does not change `state.phi`; draws from `state.rng` and `state.numpy_rng`. Dropout is off.
    """
    c, reading = problem.config, problem.reading
    ahead = state.phi.clone().eval()
    functional = Functional(ahead)
    Q = state.synthetic()
    data = Data(Q)
    draws = [(problem.subset(state.rng), reading.draw(len(Q), state.rng)) for _ in range(warm_up + window + 1)]

    parts: dict[str, Tensor | float] = {}
    direct: list[Tensor] = []

    def outer(weights: Tensor) -> Tensor:
        functional.set(weights)
        leaf = data.value.detach().requires_grad_()
        f = outer_loss(problem, replace(state, phi=ahead), leaf, draws[-1][0])
        parts.update(f.parts)
        direct.extend([] if f.to_Q is None else [f.to_Q])  # L_DH depends on D~ directly
        return joined(f.to_phi, functional.parameters)

    adam = Adam(c.inner_lr, problem.train.weight_decay, decoupled=True)
    rat_bptt(_FosterInner(functional, data, problem, draws), adam, functional.flat(), warm_up, window, outer)
    factors = list(state.synthetic.parameters())
    return list(torch.autograd.grad(Q, factors, sum(direct, data.gradient))), parts


def bilevel_step(problem: Problem, state: State, k: int, steps: int, window: int) -> dict[str, float]:
    """One outer step with 0 … steps - window warm-up steps; returns the row of the log.

    phi is reset every tau steps; apart from that only D~ changes. Raises FosterError unless 1 <= window <= steps.
    """
    c = problem.config
    began = time.perf_counter()
    if resets(c, k):
        reset(problem, state, k)
    warm_up = draw_warm_up(steps, window, state.rng)
    found, parts = bilevel_gradient(problem, state, warm_up, window)
    set_gradients(list(state.synthetic.parameters()), found)
    state.synthetic_optimizer.step()
    with torch.no_grad():
        last = state.synthetic()[:, -1]
    scalars = {
        **parts, "warm_up": float(warm_up), "gradient_synthetic": norm(found),
        "entropy": entropy(last, problem.V[problem.subset(state.rng)]),
    }  # fmt: skip
    return {"step": float(k + 1), **read(scalars), "seconds": time.perf_counter() - began}


def distill_bilevel(
    problem: Problem, synthetic: Synthetic, check: Check, steps: int, window: int, console: Console = SILENT
) -> Distilled:
    """Run `problem.config.steps` outer steps of `bilevel_step` from `synthetic`; returns the D~ that validates best."""
    state = State.fresh(problem, synthetic, "bilevel")
    return outer_loop(
        problem, synthetic, lambda k: bilevel_step(problem, state, k, steps, window), check, console, state
    )


def bilevel_loop(steps: int, window: int) -> Loop:
    """`distill_bilevel` as a `Loop` for the pipeline."""
    return lambda problem, synthetic, check, console: distill_bilevel(problem, synthetic, check, steps, window, console)


def adapt(settings: Settings) -> Settings:
    """FOSTER's settings, with those that the bi-level gradient does not read reset to their defaults: eta, the form of
    the barrier, the learning rate of phi, T."""
    plain = DistillConfig()
    unread = {key: getattr(plain, key) for key in ("eta", "barrier", "model_lr", "inner_steps")}
    return replace(settings, method="bilevel", distill=replace(settings.distill, **unread))
