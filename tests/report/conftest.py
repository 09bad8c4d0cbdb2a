"""Bundles with known contents over a small dataset, made without training; some of their titles are hostile."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hostile import TITLES

from foster_cli import bundle
from foster_cli.data.prepare import load_dataset
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Windows
from foster_cli.settings import DistillConfig, RankingConfig, Settings

M, L, D = 4, 6, 8


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 users, 40 items, popular ones among them, ten interactions each."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(45):
        for t, item in enumerate(rng.choice(40, 10, replace=False, p=np.arange(40, 0, -1) / 820)):
            rows.append((f"u{user}", f"i{item:02d}", 1_600_000_000 + 86_400 * t + user, f"thing {item}"))
    path = tmp_path_factory.mktemp("report") / "shop.parquet"
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "title"]).to_parquet(path)
    return path


@pytest.fixture(scope="session")
def data(table: Path) -> Dataset:
    """The prepared dataset."""
    return load_dataset(table)


def _manifest(data: Dataset, table: Path, /, **more: Any) -> dict[str, Any]:
    config = DistillConfig(budget=M, length=L, steps=5, check_every=2, items_per_step=16)
    settings = Settings(distill=config, ranking=RankingConfig(mask_seen=True))
    return {
        "method": "foster",
        "data": {
            "name": data.name, "path": [str(table)], "prepare": dataclasses.asdict(settings.prepare),
            "hash": data.hash, "statistics": data.statistics, "settings": data.settings,
        },
        "encoder": {"name": "minilm", "revision": "r1", "hash": "0" * 64, "train_layers": "none"},
        "item_factor": {"shape": [len(data.catalogue), D]}, **settings.sections(), "seed": 0,
        "metrics": {
            "best_step": 4, "valid_R@10": 0.25, "full_valid_R@10": 0.3, "untrained_valid_R@10": 0.1, "start": "probe 1",
            "stopped": None, "seconds_total": 12.5, "peak_mb": 100.0, "seconds_per_outer_step": 0.5,
        },
        "machine": {"foster": "0.1.0", "gpu": None},
    } | more  # fmt: skip


@pytest.fixture(scope="session")
def make_bundle(data: Dataset, table: Path) -> Callable[..., Path]:
    """`make_bundle(path, own, hostile, **manifest)`: a bundle of random factors, with a log and validations."""

    def make(path: Path, own: bool = True, hostile: bool = False, log: bool = True, **more: Any) -> Path:
        n = len(data.catalogue)
        rng = torch.Generator().manual_seed(0)
        rows = 2 * L if own else L
        factors = {"U": torch.eye(M), "T": torch.eye(rows), "G": 2 * torch.randn(M, rows, D, generator=rng)}
        V = torch.randn(n, D, generator=rng)
        reads = torch.arange(0, n, 2) if own else None
        names = list(data.catalogue.titles)
        if hostile:
            names[: len(TITLES)] = TITLES
        steps = [
            {
                "step": k + 1.0, "inner_before": 1 / (k + 1), "inner_after": 0.5 / (k + 1), "q": 0.5 / (k + 1) - 0.2,
                "q_sign": 1.0, "lambda": 0.1 * k, "outer_real": 2.0 - 0.1 * k, "outer_feature": 0.5 / (k + 1),
                "outer_dh": 0.0, "entropy": 2.5, "seconds": 0.5,
            }
            for k in range(5)
        ]  # fmt: skip
        checks = [{"step": float(k), "R@10": 0.2 + 0.01 * k, "N@10": 0.1, "sd": 0.01} for k in (0, 2, 4)]
        items = replace(data.catalogue, titles=names)
        tables = (steps, checks) if log else ([], [])
        bundle.save(path, bundle.Contents(_manifest(data, table, **more), V, items, *tables), factors, reads)
        return path

    return make


@pytest.fixture(scope="session")
def coreset(data: Dataset, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two real windows, of 7 and of 3 items."""
    path = tmp_path_factory.mktemp("coreset") / "bundle"
    items = np.array([[0, 1, 2, 3, 4, 5, 6], [7, 7, 8, -1, -1, -1, -1]], dtype=np.int64)
    V = torch.randn(len(data.catalogue), D, generator=torch.Generator().manual_seed(1))
    manifest = _manifest(data, table, method="kcenter", metrics={"seconds_select": 0.25, "seconds_total": 3.0})
    log = [{"window": 5, "user": 1, "length": 7}, {"window": 9, "user": 2, "length": 3}]
    windows = Windows(items, np.array([7, 3], dtype=np.int64))
    bundle.save_coreset(path, bundle.Contents(manifest, V, data.catalogue, log), windows)
    return path


#: The metrics of an evaluation none of whose targets is cold; of the two last, a page shows the first.
METRICS = ("R@10", "N@10", "MRR", "PSP@10", "PSP@20")


@pytest.fixture(scope="session")
def evaluation(data: Dataset, table: Path) -> dict[str, Any]:
    """What `foster eval` would write about a bundle of `make_bundle`."""
    made = _manifest(data, table)

    def row(mean: float, size: int | None) -> dict[str, Any]:
        value = {"mean": mean, "low": mean - 0.01, "high": mean + 0.02, "seeds": [mean]}
        cells: dict[str, Any] = dict.fromkeys(METRICS, value) | {"cold R@10": None, "cold R@20": None}
        return {**cells, "coverage": 0.5, "train_seconds": 12.0, "peak_mb": 512.0, "chosen": [None], "bytes": size}

    pair = {m: {"diff": -0.05, "low": -0.07, "high": 0.01} for m in METRICS}
    found = {
        "data": {"name": data.name, "hash": data.hash}, "bundle": "b", "method": "foster",
        "backbone": {"distilled": "sasrec", "evaluated": "sasrec"},
        "rows": {"synthetic": row(0.20, 1_234_567_890), "full": row(0.25, 1234), "untrained": row(0.1234, None)},
        "paired": {"synthetic-full": pair}, "cases": 1234, "seeds": [0, 1], "bootstrap_draws": 2000, "economics": None,
        "ranking": {"mask_seen": False, "cases": "all"}, "cold": {"cases": 56, "share": 56 / 1234},
        "settings": {k: made[k] for k in ("model", "train", "distill", "student")}, "machine": {},
    }  # fmt: skip
    return dict(json.loads(json.dumps(found)))
