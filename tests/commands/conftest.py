"""`foster` called in this process, a small prepared dataset, and bundles made without training anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calling import Foster, Said, shop

from foster_cli import bundle
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.prepare import load_dataset


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
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "encoder"
    folder.mkdir()
    words = sorted({w for title in shop()["title"] for w in re.findall(r"\w+", title)})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **shape)).save_pretrained(folder)
    return folder


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
        "model": dataclasses.asdict(ModelConfig()),
        "train": dataclasses.asdict(TrainConfig()),
        "distill": dataclasses.asdict(config),
        "student": dataclasses.asdict(StudentConfig()),
        "seed": 0,
    }  # fmt: skip
    path = tmp_path / "bundle"
    V = torch.randn(n, 8, generator=rng)
    rows = [{"step": 0.0, "R@10": 0.0}]
    bundle.save(path, manifest, factors, V, dataset.catalogue.ids, dataset.catalogue.titles, rows, rows)
    return path
