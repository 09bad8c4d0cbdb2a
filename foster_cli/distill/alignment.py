"""The distributional-hypothesis loss L_DH (Eq. 8 to 10), our reading of the paper's formulas.

L_DH compares two distances for all pairs i < j of m items drawn from S, at one random sequence s and position t of D~:
d_sem(i, j)  total variation between two next-item distributions of the frozen teacher over S: after the soft context
             s[:t] followed by item i, and followed by item j. It has no gradient.
d_cond(i, j) 1 - exp(-|log P[s,t,i] - log P[s,t,j]|), computed from D~ only. It carries the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foster_cli.ops import soft_embed
from foster_cli.runtime import sent
from foster_cli.settings import DistillConfig
from foster_cli.synthetic.reading import PAPER, Reading

#: A teacher: the vectors that it reads, X (B, l, r), to its outputs H (B, l, d) after each position.
Outputs = Callable[[Tensor], Tensor]


@torch.no_grad()
def semantic_distance(
    teacher: Outputs, context: Tensor, V_S: Tensor, picked: Tensor, inputs_S: Tensor | None = None
) -> Tensor:
    """d_sem (m, m) in [0, 1] of the items `picked` (m,), indices into S.

    `context` (t, r) and `inputs_S` (s, r; None: V_S): what the teacher reads; V_S (s, d): what it scores by.
    """
    m = len(picked)
    inputs_S = V_S if inputs_S is None else inputs_S
    sequences = torch.cat([context.expand(m, -1, -1), inputs_S[picked][:, None, :]], dim=1)
    following = torch.softmax(teacher(sequences)[:, -1] @ V_S.T, dim=-1)
    return 0.5 * torch.cdist(following, following, p=1)


def conditional_distance(log_p: Tensor) -> Tensor:
    """d_cond (m, m) in [0, 1) from log-probabilities (m,)."""
    return 1.0 - torch.exp(-(log_p[:, None] - log_p[None, :]).abs())


def match(d_sem: Tensor, d_cond: Tensor, form: str) -> Tensor:
    """L_DH of pair distances (p,), after `form` has brought both to one scale.

    `raw`: (d_sem - d_cond)^2 as in Eq. 10. It flattens P, because d_sem is small for almost all pairs.
    `mean`: each distance is divided by its mean, so that the loss does not change when all of d_cond shrinks.
    `rank`: d_sem is replaced by the value of d_cond with the same rank, so that only the order of the pairs matters.
    """
    if form == "mean":
        d_sem, d_cond = d_sem / d_sem.mean().clamp_min(1e-12), d_cond / d_cond.mean().clamp_min(1e-12)
    elif form == "rank":
        rank = d_sem.argsort().argsort()
        d_sem = d_cond.detach().sort().values[rank]
    return (d_sem - d_cond).square().mean()


def alignment_loss(
    teacher: Outputs, Q: Tensor, V: Tensor, S: Tensor, config: DistillConfig, rng: torch.Generator,
    reading: Reading = PAPER, inputs: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """L_DH at a random (s, t), t >= 1, on all pairs of `config.dh_items` random items of S: a scalar, gradient to Q.

    P[s,t] is what is predicted after s[:t]: row t of Q or, with separate targets, the target of position t - 1.
    """
    read, goal = reading.parts(Q)
    L = read.shape[1] if reading.own else Q.shape[1]  # so that s[:t] and one more item fit into the recommender
    s = int(torch.randint(len(Q), (1,), generator=rng))
    t = int(torch.randint(1, L, (1,), generator=rng))
    picked = sent(torch.randperm(len(S), generator=rng)[: config.dh_items], S.device)
    V_S, V_R = V[S], V[reading.read_over(S)]
    inputs = V if inputs is None else inputs
    context = soft_embed(read[s, :t].detach(), V_R, inputs[reading.read_over(S)])
    log_p = torch.log_softmax(goal[s, t - 1] @ V_S.T, dim=-1)[picked]
    i, j = torch.triu_indices(len(picked), len(picked), offset=1, device=S.device)
    d_sem = semantic_distance(teacher, context, V_S, picked, inputs[S])[i, j]
    return match(d_sem, conditional_distance(log_p)[i, j], config.dh_form)
