"""Algorithm 1: one inner step on D~, and training a fresh recommender on it (that step, repeated).

L_in(D~, phi) = mean KL(P[:, 1:] || softmax over S of SeqRec_phi(P[:, :-1] E_S) E_S^T), in nats (Eq. 18 to 21).
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
from foster_cli.runtime import adamw, generator
from foster_cli.train.fit import Best, Fit, check_finite

#: Draws the subset S (s,) of a step.
Subset = Callable[[torch.Generator], Tensor]


def uniform_subset(n: int, size: int | None, device: torch.device) -> Subset:
    """A fresh uniform sample without replacement at every call (3.1); all items where `size` is None or >= n."""
    if size is None or size >= n:
        everything = torch.arange(n, device=device)
        return lambda rng: everything
    return lambda rng: torch.randperm(n, generator=rng)[:size].to(device)


def inner_loss(phi: Recommender, Q: Tensor, V: Tensor, S: Tensor) -> Tensor:
    """L_in of Q (M, L, d) under phi on the items S: a scalar, with gradient to phi and Q."""
    V_S, E_S = V[S], phi.embed(S)
    H = phi(soft_embed(Q[:, :-1], V_S, E_S))
    return soft_kl(Q[:, 1:], V_S, H, E_S).mean()


def inner_steps(
    phi: Recommender,
    Q: Tensor,
    V: Tensor,
    subset: Subset,
    count: int,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> float:
    """`count` steps of Algorithm 1 on phi, a fresh S each; the last loss."""
    value = float("nan")
    for _ in range(count):
        loss = inner_loss(phi, Q, V, subset(rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
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
) -> Fit:
    """Train a fresh phi on D~; it ends in its best validated state, step 0 included."""
    began = time.perf_counter()
    rng = generator(seed, "student")
    fit = Fit()
    best = Best(phi, valid, fit)
    best.check(0)
    optimizer = adamw(phi.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
    Q = Q.detach()
    with console.progress(label, config.steps) as bar:
        step = 0
        while step < config.steps:
            size = min(config.check_every, config.steps - step)
            loss = inner_steps(phi, Q, V, subset, size, optimizer, rng)
            step += size
            best.check(step, loss=loss)
            bar.at(step, f"loss {loss:.3f} valid R@10 {fit.history[-1]['R@10']:.4f}")
            if best.stale >= config.patience:
                break
    phi.restore(best.state)
    fit.seconds = time.perf_counter() - began
    return fit
