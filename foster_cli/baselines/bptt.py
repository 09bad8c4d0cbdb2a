"""Differentiating through an inner optimisation: RaT-BPTT (Feng et al. 2023) with exact second derivatives.

In: an `Inner` (the gradient of the inner loss at every step, and its pullback), `Adam`, flat weights (p,). Out: the
weights after the last step; the gradient to the data of the inner loss, which the `Inner` accumulates.

Let (w_k, m_k, v_k) be Adam's state before step k and g_k = dL_in/dw at w_k. `reverse` walks from the last step to the
first with the cotangents of (w, m, v). In each step `Adam.adjoint` maps them, elementwise, to a cotangent c_k of g_k; a
second backward pass then computes c_k^T dg_k/dw and c_k^T dg_k/ddata. No autograd graph lives across steps. Memory
holds Adam's state at the start of every block of steps and, unless `recompute`, the flat g_k. The states inside a block
are recomputed from these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from foster_cli.errors import FosterError
from foster_cli.models.recommender import Recommender

#: Largest size, in bytes, of a window's gradients that stay in memory; larger ones are recomputed.
KEPT_BYTES = 1 << 30


class AdamState(NamedTuple):
    """`weights`, first and second moment `m`, `v` (each (p,)), steps done so far."""

    weights: Tensor
    m: Tensor
    v: Tensor
    steps: int


@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam (or AdamW, `decoupled`) as a function of its state, and the adjoint of that function."""

    lr: float
    """Learning rate."""
    weight_decay: float = 0.0
    """Added to the gradient as weight_decay * w; `decoupled`: w shrinks by lr * weight_decay instead."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    decoupled: bool = False
    """AdamW's weight decay (Loshchilov and Hutter 2019)."""

    def start(self, weights: Tensor) -> AdamState:
        """The state before the first step."""
        return AdamState(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0)

    def _decayed(self, weights: Tensor, gradient: Tensor) -> Tensor:
        if self.decoupled or self.weight_decay == 0.0:
            return gradient
        return gradient.add(weights, alpha=self.weight_decay)

    def _scales(self, count: int) -> tuple[float, float]:
        """lr / (1 - b1^t) and sqrt(1 - b2^t) of step t = count."""
        return self.lr / (1.0 - self.betas[0] ** count), math.sqrt(1.0 - self.betas[1] ** count)

    def step(self, state: AdamState, gradient: Tensor) -> AdamState:
        """The state after one step; `state` is not changed."""
        b1, b2 = self.betas
        g = self._decayed(state.weights, gradient)
        rate, root = self._scales(state.steps + 1)
        m = torch.lerp(state.m, g, 1.0 - b1)
        v = state.v.mul(b2).addcmul_(g, g, value=1.0 - b2)
        denominator = v.sqrt().div_(root).add_(self.eps)
        shrunk = state.weights * (1.0 - self.lr * self.weight_decay) if self.decoupled else state.weights
        return AdamState(shrunk.addcdiv(m, denominator, value=-rate), m, v, state.steps + 1)

    def adjoint(
        self, before: AdamState, after: AdamState, gradient: Tensor, cotangent: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Map the cotangents of (w, m, v) after a step to those of `gradient` and of (w, m, v) before the step.

        The cotangent of w excludes the path through the gradient of the loss. Where v is 0, sqrt'(v) counts as 0: all
        gradients so far were 0, and v depends only on their squares.
        """
        b1, b2 = self.betas
        w, m, v = cotangent
        g = self._decayed(before.weights, gradient)
        rate, root = self._scales(after.steps)
        sigma = after.v.sqrt()
        inverse = sigma.div(root).add_(self.eps).reciprocal_()
        m = torch.addcmul(m, w, inverse, value=-rate)
        through = (w * after.m).mul_(inverse.square_()).mul_(rate / (2.0 * root)).div_(sigma)
        v = v + through.masked_fill_(sigma == 0, 0.0)
        to_g = (v * g).mul_(2.0 * (1.0 - b2)).add_(m, alpha=1.0 - b1)
        if self.decoupled:
            w = w * (1.0 - self.lr * self.weight_decay)
        elif self.weight_decay:
            w = w.add(to_g, alpha=self.weight_decay)
        return to_g, (w, m.mul_(b1), v.mul_(b2))


class Inner(Protocol):
    """An inner loss L_k(weights, data) of step k. It is deterministic: equal k and weights give equal results."""

    def gradient(self, weights: Tensor, step: int) -> Tensor:
        """g = dL_k/dweights (p,), without a graph."""

    def pullback(self, weights: Tensor, step: int, cotangent: Tensor) -> Tensor:
        """Return cotangent^T dg/dweights (p,); add cotangent^T dg/ddata to the gradient accumulated in the data."""


class Functional:
    """A recommender as a function of one flat vector of its trainable weights (p,)."""

    class _Call(nn.Module):
        def __init__(self, model: Recommender) -> None:
            super().__init__()
            self.model = model

        def forward(self, run: Callable[[Recommender], Tensor]) -> Tensor:
            return run(self.model)

    def __init__(self, model: Recommender) -> None:
        learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not learning:
            raise FosterError("nothing in the recommender learns", "use a model with learning weights")
        self.model = model
        self.parameters = [p for _, p in learning]
        self._call = Functional._Call(model)
        self._names = [f"model.{name}" for name, _ in learning]
        self._sizes = [p.numel() for p in self.parameters]

    def flat(self) -> Tensor:
        """A copy of the current weights (p,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    def set(self, weights: Tensor) -> None:
        """Write `weights` (p,) into the recommender."""
        with torch.no_grad():
            for p, x in zip(self.parameters, self.split(weights), strict=True):
                p.copy_(x)

    def split(self, weights: Tensor) -> list[Tensor]:
        """Views of `weights` (p,), one per parameter, in its shape."""
        parts = weights.split(self._sizes)
        return [x.view(p.shape) for x, p in zip(parts, self.parameters, strict=True)]

    def leaves(self, weights: Tensor) -> list[Tensor]:
        """`split` as detached leaves that require gradients."""
        return [x.detach().requires_grad_() for x in self.split(weights)]

    def __call__(self, leaves: list[Tensor], run: Callable[[Recommender], Tensor]) -> Tensor:
        """`run(recommender)` with `leaves` as its weights; attention in its twice differentiable form."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.functional_call(self._call, dict(zip(self._names, leaves, strict=True)), (run,))


def joined(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """One flat vector (p,) of `parts`; zeros for None."""
    pairs = zip(parts, like, strict=True)
    return torch.cat([(torch.zeros_like(x) if part is None else part).reshape(-1) for part, x in pairs])


@dataclass
class Data:
    """A tensor that an inner loss reads, with its accumulated gradient.

    `gathering` is true during the pullback's second backward pass. Functions that add to `gradient` themselves, instead
    of returning a tensor as large as `value`, do so only then.
    """

    value: Tensor
    gradient: Tensor = field(init=False)
    gathering: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.value = self.value.detach().requires_grad_()
        self.gradient = torch.zeros_like(self.value)


class AutogradInner(ABC):
    """An `Inner` made from `loss` by two backward passes of autograd."""

    def __init__(self, functional: Functional, data: list[Data]) -> None:
        self.functional, self.data = functional, data

    @abstractmethod
    def loss(self, model: Recommender, step: int) -> Tensor:
        """L_k, a scalar that depends on `self.data`; deterministic given `step` and the weights."""

    @torch.no_grad()
    def value(self, weights: Tensor, step: int) -> float:
        """The loss itself."""
        return self.functional(self.functional.split(weights), lambda model: self.loss(model, step)).item()

    def gradient(self, weights: Tensor, step: int) -> Tensor:
        """g (p,)."""
        leaves = self.functional.leaves(weights)
        value = self.functional(leaves, lambda model: self.loss(model, step))
        return joined(torch.autograd.grad(value, leaves, allow_unused=True), leaves)

    def pullback(self, weights: Tensor, step: int, cotangent: Tensor) -> Tensor:
        """Return cotangent^T dg/dweights (p,); add cotangent^T dg/ddata to the gradients in `data`."""
        leaves = self.functional.leaves(weights)
        with torch.enable_grad():
            value = self.functional(leaves, lambda model: self.loss(model, step))
            found = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
        pairs = zip(found, self.functional.split(cotangent), strict=True)
        live = [(g, c) for g, c in pairs if g is not None and g.requires_grad]
        if not live:  # a loss linear in the weights, without data
            return torch.zeros_like(weights)
        over = leaves + [data.value for data in self.data]
        for data in self.data:
            data.gathering = True
        try:
            back = torch.autograd.grad([g for g, _ in live], over, [c for _, c in live], allow_unused=True)
        finally:
            for data in self.data:
                data.gathering = False
        for data, part in zip(self.data, back[len(leaves) :], strict=True):
            if part is not None:
                data.gradient.add_(part)
        return joined(back[: len(leaves)], leaves)


@dataclass
class Tape:
    """The record of `unroll`: number of the first step, states at the starts of blocks, the g_k or None, the last
    state."""

    first: int
    window: int
    block: int
    starts: list[AdamState]
    gradients: list[Tensor] | None
    end: AdamState


def plain_steps(inner: Inner, adam: Adam, state: AdamState, first: int, count: int) -> AdamState:
    """The state after `count` steps, numbered from `first`, without a record for `reverse`."""
    for step in range(first, first + count):
        state = adam.step(state, inner.gradient(state.weights, step))
    return state


def unroll(
    inner: Inner, adam: Adam, state: AdamState, first: int, window: int, recompute: bool = False,
    block: int | None = None,
) -> Tape:  # fmt: skip
    """Run `window` steps from `state`, numbered from `first`; returns a tape. `block` None: sqrt(window)."""
    block = block or max(1, math.isqrt(window))
    tape = Tape(first, window, block, [], None if recompute else [], state)
    for i in range(window):
        if i % block == 0:
            tape.starts.append(state)
        gradient = inner.gradient(state.weights, first + i)
        if tape.gradients is not None:
            tape.gradients.append(gradient)
        state = adam.step(state, gradient)
    tape.end = state
    return tape


def reverse(inner: Inner, adam: Adam, tape: Tape, cotangent: Tensor) -> Tensor:
    """Map the cotangent of the last weights (p,) to that of the window's first; add to the data's gradients."""
    zero = torch.zeros_like(cotangent)
    bar = (cotangent, zero, zero)
    for b in reversed(range(len(tape.starts))):
        begin = b * tape.block
        states, gradients = [tape.starts[b]], []
        for i in range(begin, min(begin + tape.block, tape.window)):
            known = tape.gradients[i] if tape.gradients is not None else None
            gradients.append(inner.gradient(states[-1].weights, tape.first + i) if known is None else known)
            states.append(adam.step(states[-1], gradients[-1]))
        for j in reversed(range(len(gradients))):
            to_g, (w, m, v) = adam.adjoint(states[j], states[j + 1], gradients[j], bar)
            w = w + inner.pullback(states[j].weights, tape.first + begin + j, to_g)
            bar = (w, m, v)
    return bar[0]


def draw_warm_up(steps: int, window: int, rng: torch.Generator) -> int:
    """Plain steps before the window, uniform in 0 … steps - window. Raises FosterError unless 1 <= window <= steps."""
    if not 1 <= window <= steps:
        raise FosterError(f"window {window}: out of range", f"use 1 to {steps}, the number of inner steps")
    return int(torch.randint(steps - window + 1, (1,), generator=rng))


def rat_bptt(
    inner: Inner,
    adam: Adam,
    weights: Tensor,
    warm_up: int,
    window: int,
    outer: Callable[[Tensor], Tensor],
    recompute: bool | None = None,
) -> Tensor:
    """Run `warm_up` plain steps and `window` differentiated ones from `weights` (p,) with a new optimizer.

    `outer(weights)` returns dL_out/dweights (p,) after the last step. The inner data then hold dL_out/ddata through the
    window. `recompute` None: only if the window's gradients take more than `KEPT_BYTES`. Returns the last weights.
    """
    if recompute is None:
        recompute = window * weights.numel() * weights.element_size() > KEPT_BYTES
    state = plain_steps(inner, adam, adam.start(weights), 0, warm_up)
    tape = unroll(inner, adam, state, warm_up, window, recompute)
    reverse(inner, adam, tape, outer(tape.end.weights))
    return tape.end.weights
