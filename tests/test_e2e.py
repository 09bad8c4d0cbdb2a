"""The whole way, as a person walks it: the real command in its own process, a shop in, an export out.

It takes a minute or more; alone: `pytest tests/test_e2e.py`.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import write_encoder
from safetensors.torch import load_file

import foster_cli
from foster_cli.__main__ import main
from foster_cli.evaluate.rows import DEFAULT

Inside = Callable[..., bytes]
BUDGET, LENGTH = 5, 20
METRICS = ("R@10", "N@10", "R@20", "N@20", "MRR")
SHORT = ("--budget", str(BUDGET), "--steps", "4", "--check-every", "2", "--check-seeds", "1",
         "--student-steps", "50", "--epochs", "2")  # fmt: skip


def tiny_encoder(folder: Path, shop: pd.DataFrame) -> Path:
    """A random BERT with two layers and the words of the shop, in `folder`."""
    texts = [*shop["title"], *shop["categories"]]
    return write_encoder(folder, texts=texts, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=64,
                         initializer_range=0.02)  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Inside:
    """`foster` in this process (no imports to wait for), in the folder `tmp_path`; gives its standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*args: str | Path) -> bytes:
        monkeypatch.setattr(sys, "argv", ["foster", *map(str, args)])
        capfdbinary.readouterr()
        try:
            main()
        except SystemExit as stop:
            assert stop.code in (0, None), capfdbinary.readouterr().err.decode()
        return capfdbinary.readouterr().out

    return call


class Shell:
    """`foster` in a process of its own, in the folder `cwd`."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.env = os.environ | {
            "FOSTER_CACHE": str(cwd / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "200",
        }

    def __call__(self, *args: str | Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "foster_cli", *map(str, args)]
        done = subprocess.run(command, cwd=self.cwd, env=self.env, capture_output=True, check=False)
        assert done.returncode == code, f"{' '.join(command)}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        assert b"Traceback" not in done.stderr
        return done


def _check_metrics(found: dict[str, Any]) -> None:
    assert list(found["rows"]) == list(DEFAULT)
    assert found["cases"] > 0
    for row in found["rows"].values():
        for metric in METRICS:
            value = row[metric]
            assert 0.0 <= value["low"] <= value["mean"] <= value["high"] <= 1.0
            assert np.isclose(np.mean(value["seeds"]), value["mean"])
        assert row["train_seconds"] >= 0
        assert row["peak_mb"] > 0
        assert 0 < row["coverage"] <= 1
    assert len(found["rows"]["synthetic"]["R@10"]["seeds"]) == 2
    for pair in ("synthetic-full", "synthetic-random", "synthetic-untrained"):
        for metric in METRICS:
            a, b = pair.split("-")
            value = found["paired"][pair][metric]
            assert value["low"] <= value["high"]
            means = found["rows"][a][metric]["mean"] - found["rows"][b][metric]["mean"]
            assert np.isclose(value["diff"], means)


def test_sample_to_export(tmp_path: Path, inside: Inside) -> None:
    foster = Shell(tmp_path)
    foster("sample", "--out", "raw.parquet", "--users", "300", "--items", "120")
    raw = pd.read_parquet(tmp_path / "raw.parquet")
    encoder = tiny_encoder(tmp_path / "encoder", raw)

    done = foster("preprocess", "raw.parquet", "--out", "games.parquet", "--encoder", encoder, "--json")
    statistics = json.loads(done.stdout)
    assert statistics["users"] > 100
    assert set(statistics["splits"]) == {"train", "valid", "test"}
    assert statistics["text_tokens"]["mean"] > 2

    # Default names: a run folder of its own, found again by eval and export.
    short = (*SHORT, "--encoder", encoder)
    done = foster("distill", "games.parquet", *short)
    assert b"foster eval" in done.stdout
    bundle = tmp_path / "runs" / "games-foster-b5-1"
    listed = {"bundle.json", "factors.safetensors", "item_factor.safetensors", "items.parquet", "log.csv",
              "checks.csv", "SHA256SUMS"}  # fmt: skip
    assert {p.name for p in bundle.iterdir()} == listed
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [bundle.name]
    assert len(pd.read_csv(bundle / "log.csv")) == 4
    assert pd.read_csv(bundle / "checks.csv")["step"].tolist() == [0, 2, 4]

    done = foster("eval", "--seeds", "2", "--json", "--out", "metrics.json")
    assert b"runs/games-foster-b5-1" in done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "metrics.json").read_text())
    assert found["data"]["name"] == "games"
    _check_metrics(found)
    table = inside("eval", "--seeds", "1", "--rows", "untrained,popularity", "--k", "5", "--mask-seen")
    assert b"untrained" in table and b"R@5" in table and b"synthetic" not in table

    done = foster("export", "--format", "jsonl")
    assert b"runs/games-foster-b5-1" in done.stderr
    assert not done.stdout
    lines = [json.loads(line) for line in (bundle / "synthetic.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(x["synthetic_user"], x["position"]) for x in lines] == [
        (m, t) for m in range(BUDGET) for t in range(LENGTH)
    ]
    titles = dict(zip(raw["item_id"], raw["title"], strict=True))
    for line in lines:
        for name, mass in (("items", "mass"), ("next", "next_mass")):
            assert len(line[name]) == 10
            assert np.isclose(sum(i["probability"] for i in line[name]), line[mass], atol=1e-6)
            assert all(titles[i["item_id"]] == i["title"] for i in line[name])

    # Standard output carries the export and nothing else; files hold the same bytes.
    for name in ("csv", "jsonl", "parquet"):
        inside("export", bundle, "--out", f"set.{name}")
        assert inside("export", bundle, "--format", name, "--out", "-") == (tmp_path / f"set.{name}").read_bytes()
    piped = foster("export", "--format", "csv", "--out", "-")
    assert piped.stdout == (tmp_path / "set.csv").read_bytes()
    assert b"runs/games-foster-b5-1" in piped.stderr
    hard = list(csv.DictReader((tmp_path / "set.csv").read_text(encoding="utf-8").splitlines()))
    assert len(hard) == BUDGET * LENGTH
    for m in range(BUDGET):
        assert len({r["item_id"] for r in hard if r["synthetic_user"] == str(m)}) == LENGTH
    assert len(pd.read_parquet(tmp_path / "set.parquet")) == BUDGET * LENGTH * 10

    # The same seed gives the same factors, also where the teacher is trained again; stdout is JSON alone.
    done = foster("distill", "games.parquet", *short, "--out", "again", "--no-cache", "--json")
    events = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [e["event"] for e in events].count("step") == 4
    assert events[-1]["event"] == "bundle"
    for name in ("factors.safetensors", "item_factor.safetensors", "items.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()
    inside("distill", "games.parquet", *short, "--steps", "0", "--seed", "1")
    other = load_file(tmp_path / "runs" / "games-foster-b5-2" / "factors.safetensors")
    assert not torch.equal(other["G"], load_file(bundle / "factors.safetensors")["G"])

    # The same data, raw: preprocessed on the way, and of the same hash.
    inside("distill", "raw.parquet", *short, "--steps", "0", "--out", "from-raw")
    hashes = [json.loads((tmp_path / b / "bundle.json").read_text())["data"]["hash"] for b in ("again", "from-raw")]
    assert hashes[0] == hashes[1]

    # Nothing half-written anywhere.
    assert not [p for p in tmp_path.rglob(".*") if p.is_file() or p.is_dir()]

    # Other people's code.
    loaded = foster_cli.load(bundle)
    batch = next(loaded.batches(1, items_per_step=64))
    assert batch.inputs.shape == (2 * BUDGET, LENGTH, len(batch.read_items))
    assert batch.targets.shape == (2 * BUDGET, LENGTH, 64) and batch.items.shape == (64,)
    for rows in (batch.inputs, batch.targets):
        assert torch.allclose(rows.sum(-1), torch.ones(2 * BUDGET, LENGTH))
    assert loaded.learning_rate > 0


def test_the_papers_form_and_every_start(tmp_path: Path, inside: Inside) -> None:
    inside("sample", "--out", "shop.parquet", "--users", "80", "--items", "50")
    raw = pd.read_parquet(tmp_path / "shop.parquet")
    encoder = tiny_encoder(tmp_path / "encoder", raw)
    quick = ("--encoder", encoder, "--budget", "3", "--length", "6", "--steps", "2", "--epochs", "2", "--draws", "1",
             "--student-steps", "20", "--check-seeds", "1", "--k-core", "2")  # fmt: skip
    inside("distill", "shop.parquet", *quick, "--targets", "next", "--no-mix", "--init", "rollout", "--out", "paper")
    paper = foster_cli.load(tmp_path / "paper")
    assert not paper.own_goals and paper.Q.shape[:2] == (3, 6)
    batch = next(paper.batches(1, items_per_step=30))
    assert batch.inputs.shape == batch.targets.shape == (3, 5, 30) and torch.equal(batch.items, batch.read_items)
    found = json.loads(inside("eval", "paper", "--seeds", "1", "--rows", "synthetic,untrained", "--json"))
    assert set(found["rows"]) == {"synthetic", "untrained"}
    lines = inside("export", "paper", "--format", "jsonl", "--out", "-").splitlines()
    assert len(lines) == 18 and set(json.loads(lines[0])) == {"synthetic_user", "position", "mass", "items"}

    starts = ("--init", "probe,guided,rollout,real,random", "--draws", "2", "--rank-user", "2", "--rank-time", "4")
    inside("distill", "shop.parquet", *quick, *starts, "--out", "starts")
    manifest = json.loads((tmp_path / "starts" / "bundle.json").read_text())
    assert manifest["metrics"]["start"].split()[0] in ("probe", "guided", "rollout", "real", "random")
    own = foster_cli.load(tmp_path / "starts")
    assert own.own_goals and own.Q.shape[:2] == (3, 12) and own.probabilities().shape == own.goals().shape


@pytest.mark.parametrize("layers", ["1", "all"])
def test_layers_of_the_encoder_learn(tmp_path: Path, layers: str, inside: Inside) -> None:
    inside("sample", "--out", "shop.parquet", "--users", "60", "--items", "40")
    raw = pd.read_parquet(tmp_path / "shop.parquet")
    encoder = tiny_encoder(tmp_path / "encoder", raw)
    inside(
        "distill", "shop.parquet", "--encoder", encoder, "--train-layers", layers, "--budget", "2", "--steps", "1",
        "--epochs", "1", "--student-steps", "50", "--check-seeds", "1", "--k-core", "2", "--out", "bundle",
    )  # fmt: skip
    found = json.loads(inside("eval", "bundle", "--seeds", "1", "--rows", "synthetic,untrained", "--json"))
    assert set(found["rows"]) == {"synthetic", "untrained"}
