"""NaCS, noise-aware coreset selection (Tran et al. 2026, WWW), implemented from its public description alone.

This is not the authors' code. The paper's abstract names submodular selection by training gradients, noisy labels
corrected by a progressively trained model, and uncertain samples excluded. The details are our interpretation:

- label: the last item of a window. The progressively trained model is the surrogate's own trajectory: `stages`
  checkpoints r = 1…R, evenly spaced from its first epoch to its best state.
- correction: y_0 is the item itself and y_r = (1 - a_r) y_{r-1} + a_r p_r, with p_r checkpoint r's distribution over
  all items after the window's history. a_r = correct x r / R, so that later checkpoints have a larger weight.
- gradient: that of the cross-entropy to y_R at the last output, sum_k (p_R - y_R)_k e_k (d,), the last-layer gradient
  of CRAIG (Mirzasoleiman et al. 2020).
- uncertainty: entropy of the checkpoints' mean distribution. The share `drop` of most uncertain windows is excluded
  before the selection, so that the budget is still filled.
- selection: greedy facility location over gradients: each next window lowers sum_j min_{i in S} |g_i - g_j| the most.

The windows keep their real items: correction changes which windows are selected, not their content.
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
from foster_cli.ranking.full import last_outputs
from foster_cli.train.anchors import Teacher


@dataclass(frozen=True)
class NaCSConfig:
    """Settings of NaCS; all values are ours."""

    stages: int = 4
    """R, number of checkpoints of the surrogate's training that correct labels."""
    correct: float = 0.5
    """Weight of the last checkpoint's distribution; the rest is the weight of the label so far."""
    drop: float = 0.2
    """Share of the windows, the most uncertain ones, that is excluded."""
    candidates: int = 16384
    """Maximum number of training windows considered (with `covered`: 256 MiB of distances)."""
    covered: int = 4096
    """Maximum number of windows whose gradients are to be covered."""


@dataclass(frozen=True)
class Stage:
    """A checkpoint: outputs H (C, d) after the histories, and embeddings E (n, d) of all items."""

    H: Tensor
    E: Tensor


def checkpoints(teacher: Teacher, cases: Cases, count: int) -> list[Stage]:
    """`count` checkpoints of the trajectory, the last one at the best state (fewer if training had fewer epochs)."""
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
    """Gradients (C, d) with corrected labels, and uncertainty (C,) in nats. `target` (C,): the last items."""
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
    """Sorted indices of the rows that remain: all but the share `drop` of highest uncertainty, at least M."""
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
