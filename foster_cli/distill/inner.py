"""Algorithm 1: one inner step on D~, and training a fresh recommender on it (that step, repeated).

L_in(D~, phi) = mean KL(P[:, 1:] || softmax over S of SeqRec_phi(P[:, :-1] E_S) E_S^T), in nats (Eq. 18 to 21);
`Reading` says what stands for P[:, :-1] and P[:, 1:] where a set has goals of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from foster_cli.config import StudentConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Cases
from foster_cli.models.recommender import Recommender
from foster_cli.ops import soft_embed, soft_kl
from foster_cli.ops.reading import PAPER, Reading, mixed
from foster_cli.runtime import adamw, generator
from foster_cli.train.average import Average
from foster_cli.train.fit import Best, Fit, check_finite

#: Draws the subset S (s,) of a step.
Subset = Callable[[torch.Generator], Tensor]


def uniform_subset(n: int, size: int | None, device: torch.device) -> Subset:
    """A fresh uniform sample without replacement at every call (3.1); all items where `size` is None or >= n."""
    if size is None or size >= n:
        everything = torch.arange(n, device=device)
        return lambda rng: everything
    return lambda rng: torch.randperm(n, generator=rng)[:size].to(device)


def inner_loss(
    phi: Recommender, Q: Tensor, V: Tensor, S: Tensor, reading: Reading = PAPER, weights: Tensor | None = None
) -> Tensor:
    """L_in of Q (M, rows, d) under phi on the items S: a scalar, with gradient to phi and Q.

    `weights` (B, M), from `reading.draw`: the mixed users that are trained on; None: the M as they are.
    """
    read, goal = reading.parts(Q)
    V_S, E_S = V[S], phi.embed(S)
    V_R, E_R = (V_S, E_S) if reading.items is None else (V[reading.items], phi.embed(reading.items))
    H = phi(mixed(weights, soft_embed(read, V_R, E_R)))
    return soft_kl(mixed(weights, goal), V_S, H, E_S).mean()


def inner_steps(
    phi: Recommender,
    Q: Tensor,
    V: Tensor,
    subset: Subset,
    count: int,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    reading: Reading = PAPER,
    average: Average | None = None,
) -> float:
    """`count` steps of Algorithm 1 on phi, a fresh S each; the last loss."""
    value = float("nan")
    for _ in range(count):
        S, weights = subset(rng), reading.draw(len(Q), rng)
        loss = inner_loss(phi, Q, V, S, reading, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update()
        value = loss.item()
        check_finite(value, "the inner loss")
    return value


def fit_synthetic(
    phi: Recommender,
    Q: Tensor,
    V: Tensor,
    subset: Subset,
    valid: Cases,
    config: StudentConfig,
    seed: int,
    console: Console = SILENT,
    label: str = "training on the synthetic set",
    reading: Reading = PAPER,
) -> Fit:
    """Train a fresh phi on D~; it ends in its best validated state (an average of steps), step 0 included."""
    began = time.perf_counter()
    rng = generator(seed, "student")
    fit = Fit()
    average = Average(phi, config.average)
    best = Best(average.model, valid, fit)
    best.check(0)
    optimizer = adamw(phi.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
    Q = Q.detach()
    phi.train(config.dropout)
    with console.progress(label, config.steps) as bar:
        step = 0
        while step < config.steps:
            size = min(config.check_every, config.steps - step)
            loss = inner_steps(phi, Q, V, subset, size, optimizer, rng, reading, average)
            step += size
            best.check(step, loss=loss)
            bar.at(step, f"loss {loss:.3f} valid R@10 {fit.history[-1]['R@10']:.4f}")
            if best.stale >= config.patience:
                break
    phi.restore(best.state)
    phi.eval()
    fit.seconds = time.perf_counter() - began
    return fit
