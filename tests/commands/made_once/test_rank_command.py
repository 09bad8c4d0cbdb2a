"""`foster rank`: what is trained and ranked, what is kept, what is said.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_rank_command.py`.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import Foster, ok, one_line, read_json
from spying import never, spy
from watching import trainings

import foster_cli
from foster_cli.data import windows
from foster_cli.data.prepare import load_dataset
from foster_cli.errors import NotFinite
from foster_cli.evaluate.bundle_rows import bundle_task, training_source
from foster_cli.evaluate.rank import run
from foster_cli.evaluate.rank.configs import read_configs
from foster_cli.evaluate.rows import Student, synthetic_model
from foster_cli.ranking.full import score_model
from foster_cli.ranking.sample import VALIDATION, sample
from foster_cli.session import Session
from foster_cli.train import task

QUICK = ("--budget", "3", "--length", "6", "--steps", "0", "--epochs", "1", "--draws", "1", "--student-steps", "20",
         "--check-seeds", "1", "--k-core", "2", "--width", "8")  # fmt: skip
CONFIGS: list[dict[str, Any]] = [
    {},
    {"name": "wide", "model": {"width": 16, "backbone": "gru4rec", "layers": 1}, "student": {"lr": 0.01, "steps": 30}},
    {"name": "narrow", "model": {"width": 4}, "train": {"epochs": 2}, "student": {"steps": 5}},
]


@pytest.fixture
def bundle(folder: Path, foster: Foster, shop: Path, mean_encoder: Path) -> Path:
    path = folder / "bundle"
    if not path.exists():
        ok(foster("distill", shop, *QUICK, "--encoder", mean_encoder, "--out", path))
    return path


@pytest.fixture
def configs(folder: Path) -> Path:
    path = folder / "configs.json"
    path.write_text(json.dumps(CONFIGS))
    return path


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    """The ranking without times."""
    rows = {name: {k: v for k, v in row.items() if k not in ("train_seconds", "full")} for name, row in
            found["rows"].items()}  # fmt: skip
    full = {name: row["full"]["R@10"] for name, row in found["rows"].items() if "full" in row}
    return {"rows": rows, "full": full, "cases": found["cases"], "seeds": found["seeds"]}


def test_a_ranking(foster: Foster, bundle: Path, configs: Path) -> None:
    """The numbers are those of models trained as in foster eval, on the validation cases."""
    said = foster("rank", bundle, "--configs", configs, "--seeds", "2", "--out", "ranking")
    lines, found = ok(said).splitlines(), read_json(Path("ranking/rank.json"))
    assert "validation cases" in lines[0] and found["full"] is None and found["split"] == "valid"
    assert [line.split()[0] for line in lines[2:5]] == [name.split()[0] for name in found["rows"]]
    values = [row["R@10"]["mean"] for row in found["rows"].values()]
    assert values == sorted(values, reverse=True)
    assert sum(row["best"] for row in found["rows"].values()) == pytest.approx(1.0)
    assert set(found["rows"]) == {"as the bundle", "wide", "narrow"} and found["seeds"] == [0, 1]
    with Path("ranking/rank.csv").open(newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == list(found["rows"])

    loaded = foster_cli.load(bundle)
    data = load_dataset([Path(p) for p in loaded.made.paths], loaded.made.prepare)
    settings = read_configs(configs, loaded, False)[1].settings
    own = bundle_task(loaded, data, settings, Session(use_cache=False))
    cases = sample(own.valid, VALIDATION)
    D = training_source(loaded, settings, own.device)
    for seed, value in enumerate(found["rows"]["wide"]["R@10"]["seeds"]):
        model = synthetic_model(own, D, Student(settings.student), seed, "again").model  # type: ignore[arg-type]
        assert model.width == 16 and settings.student.steps == 30
        assert value == pytest.approx(float((score_model(model, cases) <= 10).mean()))


def test_only_validation_is_read(foster: Foster, bundle: Path, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str] = []
    for owner in (task, run, windows):
        spy(monkeypatch, owner, "evaluation_cases", lambda given: splits.append(given["split"]))
    monkeypatch.setattr(task.Task, "cases", never)
    ok(foster("rank", bundle, "--configs", configs, "--seeds", "1", "--full", "--out", "spied"))
    assert len(splits) > 3 and set(splits) == {"valid"}


def test_an_interrupted_ranking_goes_on(
    foster: Foster, bundle: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second seed of the second; the same command trains the rest, to the same numbers. Then a
    configuration that is added is the only one that is trained."""
    asked = ("rank", bundle, "--configs", configs, "--seeds", "2", "--json", "--out")
    whole = json.loads(ok(foster(*asked, "once")))
    with monkeypatch.context() as patch:
        seen = trainings(patch, run, lambda label: label == "wide, seed 1")
        said = foster(*asked, "twice")
    assert said.code == 130 and not said.out and "interrupted" in said.err and not Path("twice/rank.json").exists()
    with monkeypatch.context() as patch:
        more = trainings(patch, run)
        assert _numbers(json.loads(ok(foster(*asked, "twice")))) == _numbers(whole)
    assert seen == ["as the bundle, seed 0", "as the bundle, seed 1", "wide, seed 0", "wide, seed 1"]
    assert more == ["wide, seed 1", "narrow, seed 0", "narrow, seed 1"]
    configs.write_text("\n".join(json.dumps(x) for x in [*CONFIGS[::-1], {"name": "new", "student": {"lr": 0.5}}]))
    with monkeypatch.context() as patch:
        more = trainings(patch, run)
        found = json.loads(ok(foster(*asked, "twice")))
    assert more == ["new, seed 0", "new, seed 1"]
    assert found["rows"]["wide"]["R@10"] == whole["rows"]["wide"]["R@10"]


def test_all_the_data_too(foster: Foster, bundle: Path, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --full nothing is trained on all the data. With it, each once, by its own settings of training."""
    asked = ("rank", bundle, "--configs", configs, "--seeds", "1", "--out", "complete")
    with monkeypatch.context() as patch:
        patch.setattr(run, "full_teacher", never)
        ok(foster(*asked))
    epochs: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        spy(patch, run, "full_teacher", lambda given: epochs.append((given["label"], given["train"].epochs)))
        said = foster(*asked, "--full")
        found = read_json(Path("complete/rank.json"))
        assert "Kendall's tau" in ok(said) and "times as much" in said.out
        ok(foster(*asked, "--full"))
    assert epochs == [("as the bundle, all the data", 1), ("wide, all the data", 1), ("narrow, all the data", 2)]
    assert sorted(row["full"]["rank"] for row in found["rows"].values())[0] == 1
    tau = found["full"]["tau"]
    assert tau is None or -1 <= tau["low"] <= tau["high"] <= 1
    assert found["full"]["seconds"]["full"] > 0


def test_a_training_that_breaks_finds_nothing(
    foster: Foster, bundle: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(given: dict[str, Any]) -> None:
        if given["label"].startswith("wide"):
            raise NotFinite("the inner loss is nan", "use a lower learning rate")

    spy(monkeypatch, run, "synthetic_model", broken)
    said = foster("rank", bundle, "--configs", configs, "--seeds", "1", "--out", "broken", "--json")
    found = json.loads(ok(said))
    assert list(found["rows"])[-1] == "wide" and found["rows"]["wide"]["R@10"]["mean"] == 0.0
    assert found["rows"]["wide"]["not_finite"] == 1 and "wide: its model finds nothing: the inner loss" in said.err


def test_real_sequences_rank_too(foster: Foster, shop: Path, mean_encoder: Path, folder: Path) -> None:
    few = ("--budget", "3", "--length", "6", "--epochs", "1", "--k-core", "2", "--width", "8")
    ok(foster("distill", shop, *few, "--method", "random", "--encoder", mean_encoder, "--out", "coreset"))
    entries = [{"name": name, "train": {"lr": lr}} for name, lr in (("slow", 1e-9), ("fast", 1e-2))]
    (folder / "rates.json").write_text(json.dumps(entries))
    found = json.loads(ok(foster("rank", "coreset", "--configs", "rates.json", "--seeds", "1", "--json")))
    assert set(found["rows"]) == {"slow", "fast"} and found["method"] == "random"
    assert Path("runs/coreset-rank/rank.csv").is_file()


def test_bad_input_is_one_line_and_leaves_nothing(foster: Foster, bundle: Path, folder: Path) -> None:
    shutil.rmtree("none", ignore_errors=True)
    file = folder / "bad.json"

    def said(entries: list[Any], *words: str, out: str = "none") -> None:
        file.write_text(json.dumps(entries))
        one_line(foster("rank", bundle, "--configs", file, "--out", out), *words)

    said([{}], "bad.json", "at least 2")
    said([{}, {"model": {"widht": 3}}], "number 2", "did you mean 'width'")
    said([{}, {"name": "odd", "model": {"heads": 3}}], "configuration 'odd'", "not divisible by 3 heads")
    one_line(foster("rank", bundle, "--configs", folder / "missing.json"), "missing.json")
    said([{}, {"model": {"layers": 1}}], "--out", "is a file", out=str(file))
    said([{}, {"name": "lost", "model": {"encoder": "./nowhere"}}], "configuration 'lost'", "./nowhere", out="none")
    assert not Path("none").exists()
    said([{}, {"model": {"layers": 1}}], "cannot write", out=str(file / "below"))


def test_widths_beyond_the_sets_train(foster: Foster, bundle: Path, folder: Path) -> None:
    """Students start at V, which is as wide as the bundle's recommender, in fewer and in more dimensions."""
    entries = [{"model": {"width": width, "backbone": backbone}, "student": {"steps": 0}}
               for width in (2, 8, 12) for backbone in ("sasrec", "hstu", "ligr", "narm")]  # fmt: skip
    (folder / "widths.json").write_text(json.dumps(entries))
    found = json.loads(ok(foster("rank", bundle, "--configs", "widths.json", "--seeds", "1", "--json")))
    assert len(found["rows"]) == 12 and all(np.isfinite(row["R@10"]["mean"]) for row in found["rows"].values())
