"""What hardening costs, against cross-entropy written out and against trainings done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foster_cli.bundle import Bundle, load
from foster_cli.data.prepare import load_dataset
from foster_cli.data.schema import Dataset
from foster_cli.distill.algorithm1 import fit_synthetic, inner_loss
from foster_cli.evaluate.bundle_rows import bundle_task
from foster_cli.export.cost import as_synthetic, hardening_cost
from foster_cli.export.hard import make_hard
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import make_subset
from foster_cli.train.best import validate
from foster_cli.train.task import Task

ALONE = Session(use_cache=False)


def parts(path: Path, data: Path) -> tuple[Bundle, Dataset, Task]:
    bundle, dataset = load(path), load_dataset(data)
    return bundle, dataset, bundle_task(bundle, dataset, Settings.of_manifest(bundle.manifest), ALONE)


@pytest.mark.parametrize("kind", ["own", "next"])
def test_the_hard_view_is_trained_by_plain_cross_entropy(
    kind: str, shop_bundle: Callable[..., Path], shop_file: Path
) -> None:
    bundle, _, task = parts(shop_bundle(kind), shop_file)
    hard = make_hard(bundle, "sample", 2, 1)
    phi = task.fresh(3).eval()
    D = as_synthetic(hard, len(bundle.V), lambda rng: torch.tensor([1, 5, 6]), task.device)
    drawn = D.subset(torch.Generator())
    known = set(hard.items.ravel()) | (set() if hard.goals is None else set(hard.goals.ravel()))
    assert set(drawn.tolist()) == known | {1, 5, 6}
    loss = inner_loss(phi, D.Q, D.V, drawn, D.reading)
    E = phi.embed_all()
    items = torch.from_numpy(hard.items)
    read, goal = (items, torch.from_numpy(hard.goals)) if kind == "own" else (items[:, :-1], items[:, 1:])
    logits = (phi(E[read]) @ E[drawn].T).flatten(0, 1)
    place = torch.searchsorted(drawn, goal.reshape(-1))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, place), rtol=1e-4, atol=1e-5)


def test_both_views_and_the_untrained_model(shop_bundle: Callable[..., Path], shop_file: Path) -> None:
    path = shop_bundle("own")
    bundle, dataset, task = parts(path, shop_file)
    hard = make_hard(bundle)
    cost = hardening_cost(bundle, hard, dataset, 2, ALONE)
    assert cost["seeds"] == [0, 1] and cost["split"] == "validation" and cost["cases"] == len(task.valid)
    made = Settings.of_manifest(bundle.manifest)
    D = SyntheticSet(bundle.Q, bundle.V, make_subset(made.distill, bundle.V, 0, made.student), bundle.reading)
    codes = as_synthetic(hard, len(bundle.V), D.subset, task.device)
    alone = replace(made.student, item_start="text")  # a hard format brings no item factor
    for seed in (0, 1):
        model = task.fresh(seed)
        untrained = validate(model, task.valid)
        fit = fit_synthetic(model, D, task.valid, made.student, seed)
        assert cost["soft"]["R@10"]["seeds"][seed] == fit.best_value
        fit = fit_synthetic(task.fresh(seed), codes, task.valid, alone, seed)
        assert cost["hard"]["R@10"]["seeds"][seed] == fit.best_value
        assert cost["untrained"]["N@10"]["seeds"][seed] == untrained["N@10"]
    for name in ("soft", "hard", "untrained"):
        for value in (cost[name]["R@10"], cost[name]["N@10"]):
            assert value["mean"] == pytest.approx(np.mean(value["seeds"]))


def test_what_is_hard_already_loses_nothing(shop_bundle: Callable[..., Path], shop_file: Path) -> None:
    bundle, dataset, _ = parts(shop_bundle("sharp", 4000.0), shop_file)
    P, hard = bundle.probabilities(), make_hard(bundle)
    assert P.max(-1).values.min() > 0.9999 and (hard.items == P.argmax(-1).numpy()).all()
    cost = hardening_cost(bundle, hard, dataset, 1, ALONE)
    for metric in ("R@10", "N@10"):
        assert cost["hard"][metric]["mean"] == pytest.approx(cost["soft"][metric]["mean"], abs=1e-3)
        assert cost["soft"][metric]["mean"] != cost["untrained"][metric]["mean"]
