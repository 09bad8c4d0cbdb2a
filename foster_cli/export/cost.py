"""What hardening costs: a bundle and its hard sequences in, the validation metrics of models trained on each out.

Both are trained by the same loop (`fit_synthetic`): same rates, same averaging, same choice of the best state, same
seeds. The hard sequences stand in it as distributions with all their mass on one item; they are not mixed, because no
reader of a hard format mixes users. The drawn items S always hold all items of the hard sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.bundle import Bundle
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, from_dict
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.distill.inner import Subset, fit_synthetic
from foster_cli.distill.loop import make_subset
from foster_cli.evaluate.run import bundle_setting
from foster_cli.export.hard import HardSet
from foster_cli.ops.precision import matmul_precision
from foster_cli.ops.reading import Reading
from foster_cli.runtime import generator, machine
from foster_cli.train.fit import Fit

#: Items are told apart by random unit vectors of this width, scaled by GAIN: a softmax over them is one item.
WIDTH, GAIN = 64, 1e4
METRICS = ("R@10", "N@10")


def as_factors(hard: HardSet, n: int, device: torch.device) -> tuple[Tensor, Tensor, Reading]:
    """Q (B, rows, w), V (n, w) and the reading with which training reads `hard` as it is."""
    V = torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=generator(0, "codes")), dim=-1)
    items = torch.from_numpy(hard.items)
    if hard.goals is None:
        return (GAIN * V[items]).to(device), V.to(device), Reading()
    rows = torch.cat([items, torch.from_numpy(hard.goals)], dim=1)
    return (GAIN * V[rows]).to(device), V.to(device), Reading(True, items.unique().to(device))


def with_items(subset: Subset, hard: HardSet, device: torch.device) -> Subset:
    """`subset`, and in every draw the items of `hard`."""
    parts = [hard.items] if hard.goals is None else [hard.items, hard.goals]
    own = torch.from_numpy(np.unique(np.concatenate(parts))).to(device)
    return lambda rng: torch.cat([subset(rng), own]).unique()


def hardening_cost(
    bundle: Bundle, hard: HardSet, data: Dataset, seeds: int, device: torch.device, console: Console = SILENT,
    use_cache: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Validation R@10 and N@10 of fresh models trained on the soft set, on the hard one, and untrained.

    Seeds are the bundle's and those after it. `hard` is not of a coreset. Raises FosterError as `bundle_setting`.
    """
    m = bundle.manifest
    model, student = from_dict(ModelConfig, m["model"]), from_dict(StudentConfig, m["student"])
    config = from_dict(DistillConfig, m["distill"])
    used = [int(m["seed"]) + i for i in range(seeds)]
    found: dict[str, list[Fit]] = {"soft": [], "hard": []}
    with matmul_precision(model.precision, device):
        setting = bundle_setting(bundle, data, model, config.length, device, console, use_cache)
        V = bundle.V.to(device)
        subset = make_subset(config, V, int(m["seed"]), student)
        soft = (bundle.Q.to(device), V, subset, bundle.reading.to(device))
        Q, codes, reading = as_factors(hard, len(V), device)
        views = {"soft": soft, "hard": (Q, codes, with_items(subset, hard, device), reading)}
        for seed in used:
            for name, (Q, over, drawn, how) in views.items():
                label = f"a model on the {name} sequences, seed {seed}"
                fresh = setting.fresh(seed)
                fit = fit_synthetic(fresh, Q, over, drawn, setting.valid, student, seed, console, label, how)
                found[name].append(fit)
    best = {name: [max(fit.history, key=lambda row: row["R@10"]) for fit in fits] for name, fits in found.items()}
    best["untrained"] = [fit.history[0] for fit in found["hard"]]
    values = {
        name: {metric: {"mean": float(np.mean([r[metric] for r in rows])), "seeds": [r[metric] for r in rows]}
               for metric in METRICS}
        for name, rows in best.items()
    }  # fmt: skip
    return {"split": "validation", "cases": len(setting.valid), "seeds": used, **values, "machine": machine()}
