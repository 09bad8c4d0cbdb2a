"""NaCS, noise-aware coreset selection (Tran et al. 2026, WWW), from its public description alone.

Not the authors' code: the paper's abstract names submodular choice by training gradients, noisy labels corrected by
a progressively trained model, and samples of low confidence left out by uncertainty. How, is our reading:

- label of a window: its last item. The progressively trained model is the surrogate's own trajectory: `stages`
  checkpoints r = 1…R, evenly from its first epoch to its best state.
- correction: y_0 = the item itself; y_r = (1 - a_r) y_{r-1} + a_r p_r, p_r checkpoint r's distribution over all
  items after the window's history, a_r = correct x r / R: a model that knows more is believed more.
- gradient of a window: that of the cross-entropy to y_R at the last output, sum_k (p_R - y_R)_k e_k (d,), the
  last-layer gradient of CRAIG (Mirzasoleiman et al. 2020).
- uncertainty: entropy of the checkpoints' mean distribution; the `drop` most uncertain windows are left out first,
  so that the budget stays filled.
- choice: facility location over gradients, greedy: each next window lowers sum_j min_{i in S} |g_i - g_j| most.

The windows keep their real items: correction decides which are chosen, not what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foster_cli.baselines.cover import euclidean, greedy_cover
from foster_cli.baselines.surrogate import Surrogate, histories, subsample
from foster_cli.console import SILENT, Console
from foster_cli.data.windows import Cases, Int
from foster_cli.evaluate.ranking import last_outputs
from foster_cli.train.anchors import Teacher


@dataclass(frozen=True)
class NaCSConfig:
    """Settings of NaCS; all of them ours."""

    stages: int = 4
    """R, checkpoints of the surrogate's training that correct labels."""
    correct: float = 0.5
    """How far the last checkpoint is believed over the label so far."""
    drop: float = 0.2
    """Share of the windows, the most uncertain, that is left out."""
    candidates: int = 16384
    """Most training windows looked at (with `covered`: 256 MiB of distances)."""
    covered: int = 4096
    """Most windows whose gradients are to be covered."""


@dataclass(frozen=True)
class Stage:
    """A checkpoint: outputs H (C, d) after the histories, and embeddings E (n, d) of all items."""

    H: Tensor
    E: Tensor


def checkpoints(teacher: Teacher, cases: Cases, count: int) -> list[Stage]:
    """`count` stages of the trajectory, the last one the best state (fewer where training had fewer epochs)."""
    before = teacher.anchors[1:-1]
    chosen = sorted({round(i) for i in np.linspace(0, len(before) - 1, count - 1)}) if before and count > 1 else []
    model = teacher.model.clone()
    out = []
    for state in [*[before[i] for i in chosen], teacher.model.learnables()]:
        model.restore(state)
        E = model.embed_all()
        out.append(Stage(last_outputs(model, E, cases), E))
    return out


def corrected_gradients(
    stages: list[Stage], target: Tensor, correct: float, console: Console = SILENT, block: int = 256
) -> tuple[Tensor, Tensor]:
    """Gradients (C, d) with corrected labels, and uncertainty (C,) in nats. `target` (C,) the items themselves."""
    R, E = len(stages), stages[-1].E
    gradients, uncertainty = [], []
    with console.progress("correcting labels", len(target)) as bar:
        for begin in range(0, len(target), block):
            rows = slice(begin, begin + block)
            label = torch.nn.functional.one_hot(target[rows], len(E)).to(E.dtype)
            mean = torch.zeros_like(label)
            p = mean
            for r, stage in enumerate(stages, 1):
                p = torch.softmax(stage.H[rows] @ stage.E.T, dim=-1)
                label = torch.lerp(label, p, correct * r / R)
                mean += p / R
            gradients.append((p - label) @ E)
            uncertainty.append(torch.special.entr(mean).sum(-1))
            bar.at(min(begin + block, len(target)))
    return torch.cat(gradients), torch.cat(uncertainty)


def certain(uncertainty: Tensor, drop: float, M: int) -> Tensor:
    """Indices, in order, of the rows that stay: all but the share `drop` of highest uncertainty, at least M."""
    stay = max(M, len(uncertainty) - int(drop * len(uncertainty)))
    return uncertainty.argsort(stable=True)[:stay].sort().values


def select(
    surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console = SILENT,
    config: NaCSConfig = NaCSConfig(),
) -> Int:  # fmt: skip
    """Indices (M,) of training windows."""
    console.note("nacs is made from the paper's description; it is not the authors' code")
    rows = subsample(len(surrogate.windows), max(M, config.candidates), rng, console, "NaCS, training windows")
    cases = histories(surrogate.windows.take(rows))
    with torch.no_grad():
        stages = checkpoints(surrogate.teacher, cases, config.stages)
        target = torch.from_numpy(cases.target).to(surrogate.model.device)
        G, uncertainty = corrected_gradients(stages, target, config.correct, console)
        stay = certain(uncertainty, config.drop, M).cpu().numpy()
        G = G.cpu()[stay]
        ground = subsample(len(stay), config.covered, rng, console, "NaCS, gradients to cover")
        return np.asarray(rows[stay][greedy_cover(euclidean(G, G[ground]), M)])
