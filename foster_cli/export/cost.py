"""The cost of hardening: validation metrics of models trained on a bundle's soft set and on its hard sequences.

Both models are trained by the same loop (`fit_synthetic`) with the same learning rates, averaging, choice of the best
state and seeds. Hard sequences enter the loop as distributions with all their mass on one item. They are not mixed,
because no reader of a hard format mixes users. The drawn items S always include all items of the hard sequences.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from foster_cli.bundle import Bundle
from foster_cli.console import Stage
from foster_cli.data.schema import Dataset
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.evaluate.bundle_rows import bundle_task, training_source
from foster_cli.export.hard import HardSet
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import generator, machine
from foster_cli.session import Session
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.synthetic.subset import Subset
from foster_cli.train.best import Fit

#: Each item is a random unit vector of this width. With the factor GAIN a softmax over the items selects one item.
WIDTH, GAIN = 64, 1e4
METRICS = ("R@10", "N@10")


def as_synthetic(hard: HardSet, n: int, subset: Subset, device: torch.device) -> SyntheticSet:
    """`hard` as a synthetic set of Q (B, rows, w) over V (n, w), which training reads like a soft one."""
    V = torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=generator(0, "codes")), dim=-1)
    items, drawn = torch.from_numpy(hard.items), with_items(subset, hard, device)
    if hard.goals is None:
        return SyntheticSet((GAIN * V[items]).to(device), V.to(device), drawn, Reading())
    rows = torch.cat([items, torch.from_numpy(hard.goals)], dim=1)
    reading = Reading(True, items.unique().to(device))
    return SyntheticSet((GAIN * V[rows]).to(device), V.to(device), drawn, reading)


def with_items(subset: Subset, hard: HardSet, device: torch.device) -> Subset:
    """`subset` with the items of `hard` added to every draw."""
    parts = [hard.items] if hard.goals is None else [hard.items, hard.goals]
    own = torch.from_numpy(np.unique(np.concatenate(parts))).to(device)
    return lambda rng: torch.cat([subset(rng), own]).unique()


def hardening_cost(bundle: Bundle, hard: HardSet, data: Dataset, seeds: int, session: Session) -> dict[str, Any]:
    """Validation R@10 and N@10 of fresh models trained on the soft set, on the hard one, and untrained.

    The seeds count up from the bundle's. `hard` must not be a coreset. Raises FosterError like `bundle_task`.
    """
    made = bundle.made
    used = [made.seed + i for i in range(seeds)]
    found: dict[str, list[Fit]] = {"soft": [], "hard": []}
    with matmul_precision(made.model.precision, session.device):
        task = bundle_task(bundle, data, made, session)
        soft = training_source(bundle, made, session.device)
        assert isinstance(soft, SyntheticSet)
        sets = {"soft": soft, "hard": as_synthetic(hard, len(soft.V), soft.subset, session.device)}
        students = {"soft": made.student, "hard": replace(made.student, item_start="text")}  # codes are no item factor
        for seed in used:
            for name, D in sets.items():
                stage = Stage(session.console, f"a model on the {name} sequences, seed {seed}")
                found[name].append(fit_synthetic(task.fresh(seed), D, task.valid, students[name], seed, stage))
    best = {name: [fit.valid for fit in fits] for name, fits in found.items()}
    best["untrained"] = [fit.untrained for fit in found["hard"]]
    values = {
        name: {metric: {"mean": float(np.mean([r[metric] for r in rows])), "seeds": [r[metric] for r in rows]}
               for metric in METRICS}
        for name, rows in best.items()
    }  # fmt: skip
    return {"split": "validation", "cases": len(task.valid), "seeds": used, **values, "machine": machine()}
