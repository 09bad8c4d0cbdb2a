"""`foster tune`, end to end on generated data, and `foster distill --settings`, which reads what it wrote.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_tune_command.py`.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calling import Foster
from spying import never, spy, stopped

import foster_cli
from foster_cli.data.prepare import load_dataset
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.distill.follow import Following
from foster_cli.runtime import stream_seed
from foster_cli.session import Session
from foster_cli.settings import (
    SECTIONS,
    DistillConfig,
    ModelConfig,
    PrepareSettings,
    RankingConfig,
    Settings,
    StudentConfig,
    TrainConfig,
)
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.task import make_task
from foster_cli.tune import run

SIZE = ("--budget", "3", "--length", "6", "--width", "8", "--epochs", "10", "--k-core", "2", "--draws", "2")
SHORT = ("--steps", "4", "--check-every", "2", "--student-steps", "100")
TRIALS = ("--trials", "6", "--seeds", "3")


@pytest.fixture
def options(shop: Path, folder: Path) -> tuple[str | Path, ...]:
    """A quick search. The file says what no option sets: a teacher that learns something, and a rate with
    which a fresh model learns so little of it that the search has something to find."""
    file = folder / "start.json"
    given = {
        "student": {"lr": 1e-4, "check_every": 20, "item_start": "text"},
        "distill": {"check_seeds": 1, "gain": 40},
    }
    file.write_text(json.dumps({**given, "train": {"lr": 2e-2, "batch": 32}}))
    return (shop, "--no-mask-seen", *SIZE, *SHORT, *TRIALS, "--items", "id", "--settings", file)


@pytest.fixture
def done(folder: Path, foster: Foster, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a search in one go, made once for this module. The test split is out of reach."""
    from foster_cli.data import windows

    out = folder / "runs" / "shop-tune-b3"
    if not out.exists():
        real = windows.evaluation_cases

        def no_test(data: Any, split: str, *rest: Any) -> Any:
            assert split == "valid"
            return real(data, split, *rest)

        with monkeypatch.context() as patch:
            patch.setattr("foster_cli.train.task.evaluation_cases", no_test)
            code, _, err = foster("tune", *options)
        assert code == 0, err
    return out


def lines(out: Path) -> list[dict[str, str]]:
    """trials.csv without what time decides."""
    found = list(csv.DictReader((out / "trials.csv").read_text(encoding="utf-8").splitlines()))
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def numbers(out: Path) -> dict[str, Any]:
    """tune.json without what time decides."""
    found = json.loads((out / "tune.json").read_text(encoding="utf-8"))
    return {**found, "trials": [{k: v for k, v in t.items() if k != "seconds"} for t in found["trials"]]}


def test_what_is_written(done: Path) -> None:
    found = json.loads((done / "tune.json").read_text(encoding="utf-8"))
    assert [t["trial"] for t in found["trials"]] == list(range(6))
    first = found["trials"][0]
    assert first["state"] == "complete" and list(first["by_step"]) == ["0", "2", "4"]
    searched = {name: value for name, value in first.items() if name.startswith(("student.", "distill."))}
    assert searched == {"student.lr": 1e-4, "distill.gain": 40.0, "distill.model_lr": 2e-4, "distill.reset_every": 100}
    assert found["given"]["student"]["lr"] == 1e-4 and found["given"]["distill"]["budget"] == 3
    for t in found["trials"]:
        assert t["state"] in ("complete", "pruned") and t["by_step"][str(t["best_step"])] == t["R@10"]
        assert str(t["last_step"]) == list(t["by_step"])[-1]
    for line, t in zip(lines(done), found["trials"], strict=True):
        assert (line["trial"], line["state"], float(line["R@10"])) == (str(t["trial"]), t["state"], t["R@10"])
        assert float(line["distill.model_lr"]) == t["distill.model_lr"]
    # the answer is never below what was given
    means = {row["trial"]: row["mean"] for row in found["confirmed"]}
    answer = found["answer"]["trial"]
    assert answer == 0 or (means[answer] == max(means.values()) and means[answer] > means[0])
    assert found["answer"]["as_given"] == (answer == 0)
    settings = json.loads((done / "settings.json").read_text(encoding="utf-8"))
    assert settings == found["settings"] and list(settings) == list(SECTIONS)
    assert settings["student"]["lr"] == found["trials"][answer]["student.lr"]
    better = [t["trial"] for t in found["trials"] if t["state"] == "complete" and t["R@10"] > first["R@10"]]
    assert better, "a search that finds nothing would test nothing here"
    assert set(means) - {0} <= set(better) and len(means) >= 2


def test_the_confirmation_against_models_trained_here(done: Path, shop: Path) -> None:
    """R@10 of fresh models on the bundles, with seeds of their own, the same for every trial."""
    found = json.loads((done / "tune.json").read_text(encoding="utf-8"))
    data = load_dataset([shop], PrepareSettings(k_core=2))
    task = make_task(data, ModelConfig(items="id", width=8), 6, Session(), RankingConfig(False))
    fresh = [stream_seed(stream_seed(0, "confirm", i), "check", 0) for i in range(3)]
    assert not set(fresh) & {stream_seed(0, "check", i) for i in range(100)}
    for row in (found["confirmed"][0], found["confirmed"][-1]):
        b = foster_cli.load(done / "trials" / f"{row['trial']:03d}")
        student = StudentConfig(**b.manifest["student"])
        values = []
        for seed in fresh:
            subset = uniform_subset(len(b.V), student.items_per_step, b.V.device)
            model, D = task.fresh(seed), SyntheticSet(b.Q, b.V, subset, b.reading)
            fit = fit_synthetic(model, D, task.valid, student, seed)
            values.append(fit.best_value)
        assert row["seeds"] == values and row["mean"] == pytest.approx(np.mean(values))
        if row["trial"]:
            gap = np.array(values) - found["confirmed"][0]["seeds"]
            half = 4.302652729911275 * gap.std(ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom, from a table
            against = row["minus_given"]
            assert against["mean"] == pytest.approx(gap.mean())
            assert (against["low"], against["high"]) == pytest.approx((gap.mean() - half, gap.mean() + half))


def test_distill_reads_the_settings(foster: Foster, done: Path, shop: Path, folder: Path) -> None:
    """The same bundle as the trial's; an option that is typed wins."""
    answer = json.loads((done / "tune.json").read_text(encoding="utf-8"))["answer"]["trial"]
    common = ("distill", shop, "--k-core", "2", "--settings", done / "settings.json")
    code, text, err = foster(*common, "--out", folder / "again")
    assert code == 0, err
    assert "3 sequences x 6 positions" in text
    a, b = foster_cli.load(folder / "again"), foster_cli.load(done / "trials" / f"{answer:03d}")
    assert all(torch.equal(a.factors[x], b.factors[x]) for x in "UTG")
    assert all(a.manifest[key] == b.manifest[key] for key in ("distill", "model", "train", "student"))
    code, _, err = foster(
        *common, "--out", folder / "typed", "--student-lr", "1e-3", "--steps", "0", "--budget", "20", "--lr", "0.01",
        "--student-items", "7",
    )  # fmt: skip
    assert code == 0, err
    own = foster_cli.load(folder / "typed").manifest
    assert (own["student"]["lr"], own["distill"]["steps"], own["distill"]["budget"]) == (1e-3, 0, 20)  # 20: the default
    assert (own["train"]["lr"], own["student"]["items_per_step"], own["student"]["check_every"]) == (0.01, 7, 20)
    assert own["distill"]["model_lr"] == a.manifest["distill"]["model_lr"] and own["model"] == a.manifest["model"]


def test_a_second_run_distils_nothing(
    foster: Foster, done: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foster_cli.tune.trial.run", never)
    monkeypatch.setattr("foster_cli.distill.validation.fit_synthetic", never)
    before = {p.name: p.read_bytes() for p in done.glob("*.json")}
    code, out, err = foster("tune", *options, "--json")
    assert code == 0, err
    assert out.encode() == before["tune.json"]
    assert {p.name: p.read_bytes() for p in done.glob("*.json")} == before
    code, out, err = foster("tune", *options, "--timeout", "0")
    assert code == 0 and "next: foster distill" in out and "settings.json" in out, err


def test_an_interruption_changes_nothing(
    foster: Foster, done: Path, folder: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after some outer steps of trial 2, then again in the confirmation; checks that were made are kept."""
    out = folder / "stopped"
    seen: list[int] = []

    def stop(given: dict[str, Any]) -> None:
        seen.append(given["k"])
        if seen.count(0) == 3 and given["k"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        spy(patch, Following, "step", stop)
        code, text, err = foster("tune", *options, "--out", out)
    assert code == 130 and not text and "interrupted" in err
    assert [p.name for p in out.rglob(".*")] == [] and not (out / "settings.json").exists()
    assert len(lines(out)) == 2 and not (out / "trials" / "002").exists()

    def stop_later(given: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        spy(patch, run, "fresh_values", stop_later)
        assert foster("tune", *options, "--out", out)[0] == 130
    assert len(lines(out)) == 6
    code, _, err = foster("tune", *options, "--out", out)
    assert code == 0, err
    assert lines(out) == lines(done) and numbers(out) == numbers(done)
    assert (out / "settings.json").read_bytes() == (done / "settings.json").read_bytes()


def test_starts_are_tried_once(done: Path) -> None:
    """Two draws and the first validation, for each pair of student rate and gain that trials had."""
    found = json.loads((done / "tune.json").read_text(encoding="utf-8"))
    pairs = {(t["student.lr"], t["distill.gain"]) for t in found["trials"]}
    cells = [json.loads(p.read_text())["fields"] for p in (done / "cells").glob("check-*.json")]
    later = sum(len(t["by_step"]) - 1 for t in found["trials"])
    confirmed = 3 * len(found["confirmed"])
    # check_seeds is 1: the first validation of the better draw is the check that chose it
    assert len(cells) <= 2 * len(pairs) + later + confirmed
    assert 2 * len(pairs) <= len([c for c in cells if c["seed"] == 0]) <= 2 * len(pairs) + later


def test_nothing_better_leaves_what_was_given(
    foster: Foster, done: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh models on which the given settings do best, or as well: they are the answer, and it is said."""
    kept = {p.name: p.read_bytes() for p in done.glob("*.json")}
    for given, others in (([0.2] * 3, [0.1] * 3), ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])):
        monkeypatch.setattr(run, "fresh_values", lambda search, task, t, a=given, b=others: b if t.index else a)
        code, text, err = foster("tune", *options)
        assert code == 0 and "settings as given: they are the answer" in text, err
        found = json.loads((done / "tune.json").read_text(encoding="utf-8"))
        assert found["answer"] == {**found["answer"], "trial": 0, "as_given": True, "changed": {}}
        assert json.loads((done / "settings.json").read_text(encoding="utf-8")) == found["given"]
    for name, content in kept.items():
        (done / name).write_bytes(content)


def test_a_damaged_bundle_is_made_again(foster: Foster, done: Path, options: tuple[str | Path, ...]) -> None:
    before = numbers(done)
    (done / "trials" / "000" / "factors.safetensors").write_bytes(b"x")
    code, _, err = foster("tune", *options)
    assert code == 0 and "bundle of trial 0 is made again" in err, err
    assert numbers(done) == before


def test_other_settings_need_another_folder(foster: Foster, done: Path, options: tuple[str | Path, ...]) -> None:
    code, _, err = foster("tune", *options, "--seed", "1")
    assert code == 2 and "holds a study of other data, settings or versions" in err.splitlines()[-1]


def test_what_is_typed_reaches_the_plan(
    foster: Foster, shop: Path, mean_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command adds to the settings, and the settings with it (`test_from_settings.py` has each option)."""
    searches = stopped(monkeypatch, run, "tune")
    rest = ("--trials", "7", "--timeout", "90", "--seeds", "4", "--budget", "7", "--length", "9", "--steps", "11",
            "--check-every", "5", "--draws", "3", "--student-steps", "33", "--encoder", mean_encoder, "--backbone",
            "narm", "--train-layers", "2", "--width", "32", "--epochs", "4", "--seed", "6", "--device", "cpu",
            "--k-core", "2", "--split-column", "none", "--lexical", "128")  # fmt: skip
    assert foster("tune", shop, *rest).code == 2
    assert foster("tune", shop, "--items", "id", "--out", tmp_path / "x", "--k-core", "2").code == 2
    a, b = (search["plan"] for search in searches)
    assert (a.trials, a.timeout, a.students, a.session.device.type) == (7, 90.0, 4, "cpu")
    assert a.settings == Settings(
        paths=(str(shop),),
        prepare=PrepareSettings(k_core=2, split_column="none"),
        model=ModelConfig(encoder=str(mean_encoder), backbone="narm", train_layers="2", width=32, lexical=128),
        train=TrainConfig(epochs=4),
        distill=DistillConfig(budget=7, length=9, steps=11, check_every=5, draws=3),
        student=StudentConfig(steps=33),
        ranking=RankingConfig(mask_seen=True),
        seed=6,
    )
    assert str(a.out) == "runs/shop-tune-b7"
    assert (b.out, b.trials, b.timeout, b.students) == (tmp_path / "x", 20, None, 5)
    assert b.settings == Settings(
        paths=(str(shop),),
        prepare=PrepareSettings(k_core=2),
        model=ModelConfig(items="id"),
        ranking=RankingConfig(mask_seen=True),
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--trials", "0"), ("--trials",)),
        (("--budget", "0"), ("--budget 0",)),
        (("--check-every", "0"), ("--check-every 0",)),
        (("--out", "file"), ("--out file", "is a file")),
        (("--device", "tpu"), ("--device tpu",)),
        (("--settings", "nothing.json"), ("--settings nothing.json", "No such file")),
        (("--settings", "file"), ("--settings file", "is not JSON")),
    ],
)
def test_bad_input(
    foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    code, out, err = foster("tune", "nothing.csv", *given)
    assert code == 2 and not out and "Traceback" not in err
    assert all(word in err for word in words)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_may_ask_for_algorithm_2(
    foster: Foster, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, or by targets that only it moves; what it alone reads is refused without it, before data are read."""
    searches = stopped(monkeypatch, run, "tune")
    file = tmp_path / "s.json"
    for text in ('{"distill": {"outer": "bome", "eta": 0.3}}', '{"distill": {"targets": "next", "init": "rollout"}}'):
        file.write_text(text)
        assert foster("tune", shop, "--items", "id", "--settings", file, "--out", tmp_path / "x").code == 2
    configs = [search["plan"].settings.distill for search in searches]
    assert [(c.outer, c.eta) for c in configs] == [("bome", 0.3), ("bome", 0.5)]
    file.write_text('{"distill": {"eta": 0.3}}')
    code, _, err = foster("tune", "nothing.csv", "--settings", file)
    assert code == 2 and err == "foster: --eta: means nothing with --outer follow; leave it out, or add --outer bome\n"
    assert len(searches) == 2


def test_settings_mean_nothing_to_other_methods(foster: Foster, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    code, _, err = foster("distill", "x.csv", "--method", "kcenter", "--settings", tmp_path / "s.json")
    assert code == 2 and "--settings: means nothing with --method kcenter" in err


def test_without_optuna(foster: Foster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = foster("tune", "x.csv")
    assert (
        code == 2
        and err == "foster: foster tune needs optuna, which is not installed; type `pip install 'foster-cli[tune]'`\n"
    )
