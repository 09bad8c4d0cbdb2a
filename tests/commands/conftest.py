"""`foster` called in this process, a small prepared dataset, and bundles made without training anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Foster, Said, files, shop
from encoders import write_encoder

from foster_cli import bundle
from foster_cli.data.prepare import load_dataset
from foster_cli.settings import DistillConfig, PrepareSettings, RankingConfig, Settings


@pytest.fixture
def foster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_foster: Callable[..., tuple[int, str, str]]) -> Foster:
    """Calls `foster ARGS…` in this process, in `tmp_path/work`, offline."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    return lambda *args: Said(*call_foster(*args))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A raw table in a CSV file."""
    path = tmp_path / "shop.csv"
    shop().to_csv(path, index=False)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The folder of a tiny random BERT."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 64}
    return write_encoder(tmp_path / "encoder", texts=shop()["title"], **shape)


@pytest.fixture
def made(tmp_path: Path, data: Path) -> Path:
    """A bundle of random factors over `data`; its encoder is not used before its bytes and data are checked."""
    dataset = load_dataset(data)
    n, config = len(dataset.catalogue), DistillConfig(budget=2, length=5)
    rng = torch.Generator().manual_seed(0)
    factors = {"U": torch.eye(2), "T": torch.eye(5), "G": torch.randn(2, 5, 8, generator=rng)}
    manifest = {
        "method": "foster",
        "data": {
            "name": dataset.name,
            "path": [str(data)],
            "prepare": dataclasses.asdict(PrepareSettings()),
            "hash": dataset.hash,
        },
        "encoder": {"name": "minilm", "revision": "all-MiniLM-L6-v2", "hash": "0" * 64, "train_layers": "none"},
        **Settings(distill=config, ranking=RankingConfig(mask_seen=True)).sections(),
        "seed": 0,
    }  # fmt: skip
    path = tmp_path / "bundle"
    V = torch.randn(n, 8, generator=rng)
    rows = [{"step": 0.0, "R@10": 0.0}]
    bundle.save(path, bundle.Contents(manifest, V, dataset.catalogue, rows, rows), factors)
    return path


@pytest.fixture
def untouched(tmp_path: Path, foster: Foster) -> Any:
    """Checks at the end that the working folder holds what it held at the start: nothing (or an empty runs/)."""
    yield
    assert files(tmp_path / "work") <= {"runs"}
