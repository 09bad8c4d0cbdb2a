"""`foster distill --teacher A,B`: a mixture answers at the start; its bundle is evaluated, verified, resumed, exported.

Alone: `pytest tests/commands/made_once/test_teacher_command.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Foster, ok, one_line, read_json
from spying import spy

import foster_cli
from foster_cli.data.prepare import load_dataset
from foster_cli.distill.follow import Following
from foster_cli.distill.run_folder import RunFolder
from foster_cli.evaluate.economics import make_seconds
from foster_cli.ranking.full import ranks
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, PrepareSettings, TrainConfig
from foster_cli.train import mixture
from foster_cli.train.mixture import mixture_of
from foster_cli.train.task import make_task

QUICK = ("--budget", "3", "--length", "6", "--k-core", "2", "--width", "8", "--epochs", "2", "--draws", "2",
         "--steps", "2", "--student-steps", "20", "--check-seeds", "1", "--init", "probe,rollout",
         "--exact", "--keep-state")  # fmt: skip
MIXED = ("--teacher", "both,item_knn")


@pytest.fixture
def bundle(folder: Path, foster: Foster, shop: Path, mean_encoder: Path) -> Path:
    """A bundle of a mixture, made once; what was said meanwhile is beside it."""
    path = folder / "mixed"
    if not path.exists():
        said = foster("distill", shop, *QUICK, *MIXED, "--encoder", mean_encoder, "--out", path)
        ok(said)
        (folder / "said").write_text(" ".join(said.err.split()))
    return path


def test_what_is_recorded(bundle: Path, folder: Path, shop: Path, mean_encoder: Path) -> None:
    """The weights that validation chose, what the members reach alone, and V of all of them side by side."""
    manifest, made = read_json(bundle / "bundle.json"), foster_cli.load(bundle)
    data = load_dataset([shop], PrepareSettings(k_core=2))
    model = ModelConfig(encoder=str(mean_encoder), width=8, lexical=foster_cli.load(bundle).made.model.lexical)
    task = make_task(data, model, 6, Session(use_cache=False))
    found = mixture_of("both,item_knn", task, TrainConfig(epochs=2), 0)
    recorded = manifest["metrics"]["teacher"]
    assert recorded["weights"] == pytest.approx(found.weights) and list(recorded["weights"]) == list(found.weights)
    assert recorded["alone"] == found.alone and recorded["valid"] == found.valid
    assert manifest["distill"]["teacher"] == "both,item_knn"
    torch.testing.assert_close(made.V, found.view.V)
    assert list(made.V.shape) == manifest["item_factor"]["shape"]
    said = (folder / "said").read_text()
    assert found.text() in said and f"validation R@10 {recorded['valid']['R@10']:.4f}" in said


def test_a_teacher_that_learned_little_is_said(bundle: Path, folder: Path) -> None:
    """Two epochs on sixty users; `tests/train/test_verdict.py` has what the line says."""
    assert (folder / "said").read_text().count("beyond noise, and what is distilled from it will hardly be") == 1


def test_it_is_verified_and_exported(foster: Foster, bundle: Path) -> None:
    lines = [json.loads(line) for line in ok(foster("verify", bundle, "--json")).splitlines()]
    assert len(lines) > 5 and all(line["ok"] for line in lines)
    sequences = [
        json.loads(line) for line in ok(foster("export", bundle, "--format", "jsonl", "--out", "-")).splitlines()
    ]
    assert len(sequences) >= 3
    page = bundle.with_name("page.html")
    ok(foster("report", bundle, "--out", page))
    assert "both,item_knn" in page.read_text(encoding="utf-8")


def test_it_is_evaluated(foster: Foster, bundle: Path, shop: Path, mean_encoder: Path) -> None:
    """The row `teacher` is the mixture; a fresh model learns from the set as from any other."""
    asked = ("--rows", "synthetic,full,teacher", "--seeds", "1", "--k", "10")
    found = json.loads(ok(foster("eval", bundle, *asked, "--json")))
    assert list(found["rows"]) == ["synthetic", "full", "teacher"]
    data = load_dataset([shop], PrepareSettings(k_core=2))
    model = ModelConfig(encoder=str(mean_encoder), width=8, lexical=foster_cli.load(bundle).made.model.lexical)
    task = make_task(data, model, 6, Session(use_cache=False))
    view, cases = mixture_of("both,item_knn", task, TrainConfig(epochs=2), 0).view, task.cases("test")
    hits = ranks(view.last(cases), view.V, cases.target, cases.seen) <= 10
    assert found["rows"]["teacher"]["R@10"]["mean"] == pytest.approx(hits.mean())
    assert found["rows"]["teacher"]["chosen"][0].startswith("teacher: ")
    said = ok(foster("eval", bundle, *asked))
    assert "teacher" in said


def test_an_interrupted_one_goes_on(
    foster: Foster, bundle: Path, folder: Path, shop: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second outer step; then the rest, byte for byte as in one go."""

    def stop(given: dict[str, Any]) -> None:
        if given["k"] == 1:
            raise KeyboardInterrupt

    path = folder / "stopped"
    with monkeypatch.context() as patch:
        spy(patch, Following, "step", stop)
        said = foster("distill", shop, *QUICK, *MIXED, "--encoder", mean_encoder, "--out", path)
    assert said.code == 130 and not path.exists()
    refused = foster("distill", "--resume", path, "--teacher", "both,ease")
    assert refused.code == 2 and "--teacher" in refused.err
    ok(foster("distill", "--resume", path))
    for name in ("factors.safetensors", "item_factor.safetensors", "items.parquet", "checks.csv"):
        assert (path / name).read_bytes() == (bundle / name).read_bytes()
    a, b = (read_json(p / "bundle.json")["metrics"] for p in (path, bundle))
    assert a["teacher"] == b["teacher"] and a["valid_R@10"] == b["valid_R@10"]


def test_more_steps(foster: Foster, bundle: Path, folder: Path) -> None:
    """A finished bundle continues from its stored state, with the same mixture."""
    path = folder / "further"
    ok(foster("distill", "--resume", bundle, "--extend", "2", "--out", path))
    a, b = read_json(path / "bundle.json"), read_json(bundle / "bundle.json")
    assert a["distill"]["steps"] == 4 and a["metrics"]["teacher"] == b["metrics"]["teacher"]
    assert len((path / "log.csv").read_text().splitlines()) == 5
    assert ok(foster("verify", path))


def test_what_it_cost_does_not_depend_on_the_cache(
    foster: Foster, folder: Path, shop: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further recommender counts with the seconds of its training, and that is before the clock of the distillation;
    the own one, which answers too, counts once."""
    order = list[str]()
    spy(monkeypatch, mixture, "full_teacher", lambda given: order.append(given["label"]))
    spy(monkeypatch, RunFolder, "distilling", lambda given: order.append("the clock"))
    paths = [folder / "trains", folder / "reads"]
    for path in paths:
        ok(foster("distill", shop, *QUICK, "--teacher", "id,both", "--encoder", mean_encoder, "--out", path))
    assert order == ["teacher id", "teacher both", "the clock"] * 2
    bundles = [foster_cli.load(path) for path in paths]
    a, b = (bundle.manifest["metrics"] for bundle in bundles)
    (seconds,) = [
        read_json(place.with_name("teacher.json"))["seconds"]
        for place in (folder / "cache" / "teachers").glob("*/teacher.json")
        if read_json(Path(f"{place.parent}.about.json"))["encoder"] == "ids"
    ]
    assert a["teacher"]["seconds"] == b["teacher"]["seconds"] == {"id": seconds}
    for metrics, bundle in zip((a, b), bundles, strict=True):
        assert metrics["teacher_seconds"] == a["teacher_seconds"] > 0
        made = metrics["teacher_seconds"] + seconds + metrics["seconds_distill"]
        assert make_seconds(bundle) == pytest.approx(made)


def test_unknown_members(foster: Foster, shop: Path) -> None:
    for given, word in (("both,knn", "knn"), ("popularity", "popularity"), ("", "--teacher")):
        one_line(foster("distill", shop, *QUICK, "--teacher", given), "--teacher", word)
