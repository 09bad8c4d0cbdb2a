"""Algorithm 1: inner steps on D~, and the training of a fresh recommender by repeating them.

L_in(D~, phi) = mean KL(P[:, 1:] || softmax over S of SeqRec_phi(P[:, :-1] E_S) E_S^T), in nats (Eq. 18 to 21).
With `--targets own`, `Reading` gives the inputs and targets instead of P[:, :-1] and P[:, 1:].
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
from torch import Tensor

from foster_cli.console import TRAINING, Stage
from foster_cli.data.windows import Cases
from foster_cli.distill.graph import StepGraph, step_graph
from foster_cli.models.item_start import every_item, start_at
from foster_cli.models.recommender import Recommender
from foster_cli.ops import soft_embed, soft_kl
from foster_cli.runtime import adamw, generator, sent
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import PAPER, Reading, SyntheticSet, mixed
from foster_cli.train.average import Average
from foster_cli.train.best import Best, Fit, Measure, check_finite

#: Item embeddings that leave out a smaller share of V's squares count as V. Rounding leaves out a hundredth of that.
HELD = 1e-3


def inner_loss(
    phi: Recommender, Q: Tensor, V: Tensor, S: Tensor, reading: Reading = PAPER, mixing: Tensor | None = None
) -> Tensor:
    """L_in of Q (M, rows, d) under phi on the items S: a scalar with gradients to phi and Q.

    `mixing` (B, M), from `reading.draw`: the weights of B mixed users to train on; None: train on the M users.
    """
    read, goal = reading.parts(Q)
    V_S, E_S = V[S], phi.embed(S)
    V_R, E_R = (V_S, E_S) if reading.items is None else (V[reading.items], phi.embed(reading.items))
    H = phi(mixed(mixing, soft_embed(read, V_R, E_R)))
    return soft_kl(mixed(mixing, goal), V_S, H, E_S).mean()


def inner_steps(
    phi: Recommender, D: SyntheticSet, count: int, optimizer: torch.optim.Optimizer, rng: torch.Generator,
    average: Average | None = None, graph: StepGraph | None = None,
) -> Tensor:  # fmt: skip
    """Take `count` steps of Algorithm 1 on phi, each with a fresh S; return the last loss, which is not waited for.

    `graph`: of a phi, D~'s memory, optimizer and average that are always the same.
    """
    device = D.V.device
    shares: list[float | Tensor] = [0.0 if average is None else average.next_share() for _ in range(count)]
    if graph is not None and average is not None:
        shares = list(sent(torch.tensor(shares), device))

    def step(S: Tensor, mixing: Tensor | None = None, share: float | Tensor = 0.0) -> Tensor:
        loss = inner_loss(phi, D.Q, D.V, S, D.reading, mixing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if average is not None:
            average.blend(share)
        return loss.detach()

    loss = torch.full((), torch.nan, device=device)
    with nullcontext() if graph is None else graph.running():
        for share in shares:
            S, mixing = D.subset(rng), D.reading.draw(len(D.Q), rng)
            mixing = None if mixing is None else sent(mixing, device)
            loss = step(S, mixing, share) if graph is None else graph(step, [S, mixing, share])
    return loss


def fit_synthetic(
    phi: Recommender, D: SyntheticSet, valid: Cases | None, config: StudentConfig, seed: int,
    stage: Stage = TRAINING, measure: Measure | None = None,
) -> Fit:  # fmt: skip
    """Train a fresh phi on D~ for `config.steps` steps, and leave it with the weights averaged over the last ones.

    Its items start as `config.item_start` says; where that is V, of the same width, and they leave out less than `HELD`
    of it, they stay there, and the backbone alone learns. With `valid`, it is validated every `config.check_every`
    steps, and left in its best state; step 0 is a candidate, and `config.patience` may end the training. `measure`: see
    `Best`.
    """
    began = time.perf_counter()
    rng = generator(seed, "student")
    fit = Fit()
    every_item(phi)
    if config.item_start == "V":
        left = start_at(phi, D.V)
        if left is None:
            stage.note(
                "item vectors start at their texts: all layers of the text encoder learn, and no head is there to fit"
            )
        elif left < HELD and phi.width == D.V.shape[1]:
            phi.hold_items()
    average = Average(phi, config.average)
    best = None if valid is None else Best(average.model, valid, fit, measure=measure)
    if best is not None:
        best.begin()
    optimizer = adamw(phi.groups(config.lr, config.encoder_lr), weight_decay=config.weight_decay)
    graph = step_graph(phi, stage.note)
    phi.train(config.dropout)
    with stage.progress(config.steps) as bar:
        step = 0
        while step < config.steps:
            size = min(config.check_every, config.steps - step)
            before = time.process_time()
            loss = inner_steps(phi, D, size, optimizer, rng, average, graph).item()
            check_finite(loss, "the inner loss")
            fit.processor += time.process_time() - before
            step += size
            if best is not None:
                best.check(step, loss=loss)
            bar.at(step, f"loss {loss:.3f}" + (f" valid R@10 {fit.history[-1]['R@10']:.4f}" if best else ""))
            if best is not None and best.stale >= config.patience:
                break
    if best is not None:
        best.finish(phi)
    else:
        fit.best = config.steps
        phi.restore(average.model.learnables())
        phi.eval()
    fit.seconds = time.perf_counter() - began
    return fit
