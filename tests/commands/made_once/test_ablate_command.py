"""`foster ablate` and `foster sweep` from the command line on a tiny shop: what is written, resuming, errors.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_ablate_command.py`.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calling import Foster, numbers, read_json
from spying import never, spy, stopped
from watching import TRAINING, trainings

import foster_cli
from foster_cli.evaluate import ablation, compare, sweep
from foster_cli.settings import DistillConfig, ModelConfig, PrepareSettings, StudentConfig, TrainConfig

SIZE = ("--budget", "3", "--length", "6", "--epochs", "1", "--k-core", "2", "--width", "8", "--draws", "1")
SHORT = ("--steps", "2", "--student-steps", "20", "--items-per-step", "16", "--seeds", "2")
ROWS = "foster,bome,bilevel,kmeans,start_only"
OVER = ("--over", "M=2,3", "--over", "tau=1,100")


@pytest.fixture
def common(shop: Path, mean_encoder: Path) -> tuple[str | Path, ...]:
    return (shop, *SIZE, *SHORT, "--encoder", mean_encoder)


@pytest.fixture
def ablated(folder: Path, foster: Foster, common: tuple[str | Path, ...]) -> Path:
    """The folder of an ablation, made once for this module (without `--out`)."""
    out = folder / "runs" / "shop-ablate-b3"
    if not out.exists():
        code, _, err = foster("ablate", *common, "--rows", ROWS)
        assert code == 0, err
    return out


@pytest.fixture
def swept(folder: Path, foster: Foster, common: tuple[str | Path, ...]) -> Path:
    """The folder of a sweep, made once for this module (without `--out`)."""
    out = folder / "runs" / "shop-sweep-b3"
    if not out.exists():
        code, _, err = foster("sweep", *common, *OVER)
        assert code == 0, err
    return out


def test_what_an_ablation_writes(ablated: Path) -> None:
    found = read_json(ablated / "ablate.json")
    rows = found["rows"]
    assert list(rows) == [
        *ROWS.split(","), "random", "full", "untrained", "item_factor", "item_knn", "knn_tfidf", "popularity",
        "text_similarity",
    ]  # fmt: skip
    assert list(found["paired"]) == [
        "bome-foster", "bilevel-bome", "kmeans-bome", "start_only-foster", "foster-full", "bome-full",
        "bilevel-full", "kmeans-full", "start_only-full", "random-full", "foster-random",
    ]  # fmt: skip
    for pair, differences in found["paired"].items():
        a, b = (np.mean(rows[name]["R@10"]["seeds"]) for name in pair.split("-"))
        assert differences["R@10"]["diff"] == pytest.approx(a - b, abs=1e-12)
    manifests = {name: foster_cli.load(ablated / name).manifest for name in (*ROWS.split(","), "random")}
    base = manifests["foster"]["distill"]
    assert base["outer"] == "follow"
    changes = (("bome", {}), ("kmeans", {"subset": "kmeans"}), ("start_only", {"steps": 0, "outer": "follow"}))
    for name, change in changes:
        change = {"outer": "bome", **change}
        assert manifests[name]["distill"] == {**base, **change} and manifests[name]["method"] == "foster"
    assert manifests["bilevel"]["method"] == "bilevel" and rows["bilevel"]["bilevel"] == {"steps": 5, "window": 5}
    log = pd.read_csv(ablated / "bilevel" / "log.csv")
    assert len(log) == 2 and (log["gradient_synthetic"] > 0).all() and "q" not in log  # no barrier in it
    logs = {name: pd.read_csv(ablated / name / "log.csv") for name in ("foster", "bome", "kmeans")}
    assert {name: ("q" in x, "moved" in x) for name, x in logs.items()} == {
        "foster": (False, True), "bome": (True, False), "kmeans": (True, False),
    }  # fmt: skip
    logic = {name: rows[name]["logic"] for name in ("foster", "bome", "bilevel", "start_only")}
    assert logic == {"foster": "followed", "bome": "first-order", "bilevel": "bi-level", "start_only": None}
    assert manifests["random"]["method"] == "random" and foster_cli.load(ablated / "random").windows is not None
    for name in ROWS.split(","):
        assert rows[name]["rate"] == 1e-3 and len(rows[name]["R@10"]["seeds"]) == 2 and rows[name]["text"]
        assert rows[name]["best_step"] == manifests[name]["metrics"]["best_step"]
        took = manifests[name]["metrics"]["seconds_per_outer_step"]
        assert rows[name]["seconds_per_outer_step"] == took and (took is None) == (name == "start_only")
    assert all(0 < row["valid"] < 1 for row in rows.values())
    lines = list(csv.DictReader((ablated / "ablate.csv").read_text(encoding="utf-8").splitlines()))
    for line in lines:
        row = rows[line["row"]]
        assert float(line["N@20_high"]) == row["N@20"]["high"] and float(line["valid"]) == row["valid"]
    text = (ablated / "ablate.md").read_text(encoding="utf-8")
    assert "bi\\-level" in text and "k\\-means centres" in text and "\\multicolumn" not in text
    assert (ablated / "ablate.tex").read_text(encoding="utf-8").count(r"\begin{tabular}") == 3


def test_the_numbers_are_those_of_distill_and_eval(
    foster: Foster, folder: Path, ablated: Path, shop: Path, mean_encoder: Path
) -> None:
    """The row kmeans by the other two commands; its validation is the mean of what eval's models reach there."""
    bundle = folder / "alone"
    given = ("--steps", "2", "--student-steps", "20", "--items-per-step", "16", "--encoder", mean_encoder)
    code, _, err = foster("distill", shop, *SIZE, *given, "--outer", "bome", "--subset", "kmeans", "--out", bundle)
    assert code == 0, err
    code, text, err = foster("eval", bundle, "--seeds", "2", "--rows", "synthetic", "--validate", "--json")
    assert code == 0, err
    alone, row = json.loads(text)["rows"]["synthetic"], read_json(ablated / "ablate.json")["rows"]["kmeans"]
    for metric in ("R@10", "N@10", "MRR"):
        assert alone[metric]["seeds"] == row[metric]["seeds"]
    assert alone["chosen"] == row["chosen"]


def test_a_second_ablation_trains_nothing(
    foster: Foster, ablated: Path, common: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in TRAINING:
        monkeypatch.setattr(f"foster_cli.evaluate.{where}", never)
    before = {p.name: p.read_bytes() for p in ablated.glob("ablate.*")}
    code, out, err = foster("ablate", *common, "--rows", ROWS, "--json")
    assert code == 0, err
    assert out.encode() == before["ablate.json"]
    assert {p.name: p.read_bytes() for p in ablated.glob("ablate.*")} == before
    code, out, err = foster("ablate", *common, "--rows", ROWS)
    assert code == 0, err
    for word in ("what differs", "bi-level", "56 test cases", "valid R@10", "paired differences", "kmeans-bome"):
        assert word in out


def test_an_interrupted_ablation_goes_on(
    foster: Foster, folder: Path, ablated: Path, common: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second outer step of the bi-level row; then the rest, equal to a run in one go."""
    from foster_cli.baselines import bilevel

    calls: list[int] = []

    def stop(given: dict[str, Any]) -> None:
        calls.append(given["k"])
        if given["k"] == 1:
            raise KeyboardInterrupt

    out = folder / "stopped"
    with monkeypatch.context() as patch:
        spy(patch, bilevel, "bilevel_step", stop)
        code, text, err = foster("ablate", *common, "--rows", ROWS, "--out", out)
    assert code == 130 and not text and "interrupted" in err and calls == [0, 1]
    kept = sorted(p.name.rsplit("-", 1)[0] for p in (out / "cells").iterdir())
    assert kept == ["bilevel", "bome", "check", "check", "check", "foster"] and [
        p.suffix for p in (out / "cells").glob("bilevel-*")
    ] == [".run"]
    assert not (out / "ablate.json").exists()
    spy(monkeypatch, bilevel, "bilevel_step", lambda given: calls.append(given["k"]))
    code, _, err = foster("ablate", *common, "--rows", ROWS, "--out", out)
    assert code == 0, err
    assert calls == [0, 1, 0, 1]
    assert numbers(read_json(out / "ablate.json")) == numbers(read_json(ablated / "ablate.json"))


def test_rows_with_one_start_share_its_validations(
    foster: Foster, folder: Path, common: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two draws, step 0 and step 2 of two rows: five validations where eight are read. Each bundle is what `foster
    distill` makes, and its seconds are all that it stands for."""
    from foster_cli.distill import validation

    fits: list[int] = []
    spy(monkeypatch, validation, "fit_synthetic", lambda given: fits.append(given["seed"]))
    out, given = folder / "shared", (*common[:-2], "--draws", "2", *common[-2:])
    code, _, err = foster("ablate", *given, "--rows", "foster,no_dh", "--seeds", "1", "--out", out)
    assert code == 0, err
    assert len(list((out / "cells").glob("check-*.json"))) == 5
    assert len(fits) == 2 * 1 + 3 * 2  # a start has one fresh model, an outer step two
    fits.clear()
    seconds = [read_json(path)["record"]["seconds"] for path in (out / "cells").glob("check-*.json")]
    for row, extra in (("foster", ()), ("no_dh", ("--outer", "bome", "--dh-weight", "0"))):
        keep = [x for i, x in enumerate(given) if x != "--seeds" and (i == 0 or given[i - 1] != "--seeds")]
        code, _, err = foster("distill", *keep, *extra, "--out", folder / f"alone-{row}")
        assert code == 0, err
        name = "factors.safetensors"
        assert (out / row / name).read_bytes() == (folder / f"alone-{row}" / name).read_bytes()
        manifest = foster_cli.load(out / row).manifest["metrics"]
        assert manifest["seconds_distill"] > sum(sorted(seconds)[:4])
    assert len(fits) == 2 * (2 * 1 + 2 * 2)


def test_rows_with_several_layers(foster: Foster, folder: Path, common: tuple[str | Path, ...]) -> None:
    """A row, and the references that a model decides, for each; validation does not read the test."""
    given = ("--rows", "start_only@last,start_only@none", "--seeds", "1", "--split", "valid", "--student-steps", "2")
    code, text, err = foster("ablate", *common, *given, "--out", folder / "layers", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert list(found["rows"]) == [
        "start_only@last", "start_only@none", "random@last", "random@none", "full@last", "full@none", "untrained@last",
        "untrained@none", *ablation.COMMON[2:],
    ]  # fmt: skip
    assert list(found["paired"])[:2] == ["start_only@last-full@last", "start_only@none-full@none"]
    assert found["split"] == "valid"
    for name, layers in (("start_only@last", "1"), ("start_only@none", "none"), ("random@last", "1")):
        assert foster_cli.load(folder / "layers" / name).manifest["model"]["train_layers"] == layers
        assert found["rows"][name].get("layers", layers) in (layers, "last")
    for row in found["rows"].values():  # ranked on the very cases that validation ranks
        assert row["valid"] == pytest.approx(row["R@10"]["mean"], abs=1e-12)


# sweep


def test_what_a_sweep_writes(swept: Path) -> None:
    found = read_json(swept / "sweep.json")
    assert list(found["rows"]) == ["budget=2", "default", "reset-every=1", "full", "untrained"]
    assert [(c["parameter"], c["default"], [(p["x"], p["row"]) for p in c["points"]]) for c in found["curves"]] == [
        ("budget", "3", [(2, "budget=2"), (3, "default")]),
        ("reset-every", "100", [(1, "reset-every=1"), (100, "default")]),
    ]
    assert found["split"] == "valid" and "default-full" in found["paired"] and "budget=2-default" in found["paired"]
    made = {name: foster_cli.load(swept / found["rows"][name]["bundle"]).manifest for name in list(found["rows"])[:3]}
    assert made["budget=2"]["distill"] == {**made["default"]["distill"], "budget": 2}
    assert made["reset-every=1"]["distill"] == {**made["default"]["distill"], "reset_every": 1}
    assert len([p for p in (swept / "cells").iterdir() if p.is_dir()]) == 3  # the shared point is one bundle
    for row in found["rows"].values():  # ranked on the very cases that validation ranks
        assert row["valid"] == pytest.approx(row["R@10"]["mean"], abs=1e-12)
    lines = list(csv.DictReader((swept / "sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [x["row"] for x in lines] == ["budget=2", "default", "reset-every=1", "default", "full", "untrained"]
    assert (swept / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_second_sweep_trains_nothing(
    foster: Foster, swept: Path, common: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in TRAINING:
        monkeypatch.setattr(f"foster_cli.evaluate.{where}", never)
    before = {p.name: p.read_bytes() for p in swept.glob("sweep.*")}
    code, out, err = foster("sweep", *common, *OVER, "--json")
    assert code == 0, err
    assert out.encode() == before["sweep.json"] and set(before) == {"sweep.json", "sweep.csv", "sweep.png"}
    assert {p.name: p.read_bytes() for p in swept.glob("sweep.*")} == before
    code, out, err = foster("sweep", *common, *OVER)
    assert code == 0, err
    assert (
        "3 (default)" in out
        and "kept step" in out
        and "outer steps between resets" in out
        and "49 validation cases" in out
    )


def test_a_value_more_is_one_bundle_more(
    foster: Foster, folder: Path, swept: Path, common: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in that point's last training, then finished; the old points keep their numbers. No picture."""
    (swept / "sweep.png").unlink()
    given = ("--over", "M=2,3,4", "--no-plot", "--out", swept)
    with monkeypatch.context() as patch:
        seen = trainings(patch, compare, lambda label: label.endswith("seed 1"))
        code, text, err = foster("sweep", *common, *given)
    assert code == 130 and not text and seen == ["budget=4, seed 0", "budget=4, seed 1"]
    before = read_json(swept / "sweep.json")
    later = trainings(monkeypatch, compare)
    code, _, err = foster("sweep", *common, *given)
    assert code == 0, err
    assert later == ["budget=4, seed 1"] and not (swept / "sweep.png").exists()
    after = read_json(swept / "sweep.json")
    for name in ("budget=2", "default", "full", "untrained"):
        assert after["rows"][name]["R@10"]["seeds"] == before["rows"][name]["R@10"]["seeds"]
    code, _, err = foster("sweep", *common, *OVER, "--out", swept)  # as it was, for the other tests
    assert code == 0, err
    assert read_json(swept / "sweep.json") == before and (swept / "sweep.png").exists()


# options and errors


def test_what_is_typed_reaches_the_plan(
    foster: Foster, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the commands add to the settings, and the settings with it (`test_from_settings.py` has each option)."""
    tables = (stopped(monkeypatch, ablation, "ablate"), stopped(monkeypatch, sweep, "sweep"))
    sizes = ("--budget", "7", "--length", "9", "--steps", "11", "--draws", "3", "--width", "32", "--epochs", "4",
             "--items-per-step", "15", "--inner-steps", "2", "--reset-every", "8", "--dh-weight", "0.3")  # fmt: skip
    rest = ("--encoder", "tinybert", "--backbone", "gru4rec", "--precision", "bf16", "--student-items", "all",
            "--student-steps", "33", "--seeds", "5", "--rates", "1e-4,1e-5", "--k", "1,3", "--device", "cpu",
            "--no-cache", "--k-core", "2", "--lexical", "128", "--out", tmp_path / "x")  # fmt: skip
    own = ("--rows", "bilevel,no_dh", "--layers", "2", "--bilevel-steps", "9", "--bilevel-window", "4")
    assert foster("ablate", shop, *sizes, *rest, *own, "--split", "valid").code == 2
    over = ("--over", "T=2,4", "--train-layers", "2", "--split", "test")
    assert foster("sweep", shop, *sizes, *rest, *over).code == 2
    a, b = (table["plan"] for (table,) in tables)
    for plan in (a, b):
        s = plan.settings
        assert s.distill == DistillConfig(
            budget=7, length=9, steps=11, draws=3, items_per_step=15, inner_steps=2, reset_every=8, dh_weight=0.3
        )
        assert (s.train, s.student) == (TrainConfig(epochs=4), StudentConfig(steps=33, items_per_step=None))
        (model,) = plan.models
        assert model == ModelConfig(
            width=32, encoder="tinybert", backbone="gru4rec", train_layers="2", precision="bf16", lexical=128
        )
        assert (s.paths, s.prepare, s.seed) == ((str(shop),), PrepareSettings(k_core=2), 0)
        assert (plan.seeds, plan.rates, plan.ks, plan.session.use_cache) == (5, (1e-4, 1e-5), (1, 3), False)
        assert (plan.out, plan.session.device.type) == (tmp_path / "x", "cpu")
    assert [v.name for v in a.variants] == ["bilevel", "no_dh", "random"] and (a.split, a.publish) == ("valid", True)
    assert a.variants[0].extra == {"bilevel": {"steps": 9, "window": 4}}
    assert [v.settings.distill.outer for v in a.variants[:2]] == ["bome", "bome"]
    assert [v.settings.distill.outer for v in b.variants] == ["bome", "bome"]
    assert [v.name for v in b.variants] == ["inner-steps=2", "inner-steps=4"]
    assert (b.split, b.publish) == ("test", False)
    assert b.common == ("full", "untrained")


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("ablate", ("--rows", "foster,kmean"), ("--rows kmean", "did you mean kmeans?")),
        ("ablate", ("--layers", "some"), ("--layers some", "last")),
        ("ablate", ("--layers", "last", "--items", "id"), ("--layers last", "--layers none")),
        ("ablate", ("--rows", "foster,one_draw", "--draws", "1"), ("--rows one_draw", "leave the row out")),
        ("ablate", ("--rows", "foster,bome,no_dh", "--dh-weight", "0"), ("--rows no_dh", "leave the row out")),
        ("ablate", ("--bilevel-window", "9"), ("--bilevel-window 9", "1 to 5")),
        ("ablate", ("--bilevel-steps", "0"), ("--bilevel-steps 0", "1 or more")),
        ("ablate", ("--split", "train"), ("--split train", "valid")),
        ("ablate", ("--rates", "fast"), ("--rates fast",)),
        ("ablate", ("--out", "file"), ("--out file", "is a file")),
        ("ablate", ("--budget", "0"), ("--budget 0",)),
        ("ablate", ("--device", "tpu"), ("--device tpu",)),
        ("sweep", ("--over", "bugdet=1,2"), ("--over bugdet", "did you mean budget?")),
        ("sweep", ("--over", "budget=1,2", "--split", "train"), ("--split train", "valid")),
        ("sweep", ("--over", "budget=1,2", "--out", "file"), ("--out file", "is a file")),
        ("sweep", ("--over", "budget=1,2", "--k", "0"), ("--k 0",)),
        ("sweep", ("--over", "budget=1,2", "--backbone", "rnn"), ("--backbone rnn", "gru4rec")),
    ],
)
def test_bad_input_is_one_line(
    foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: tuple[str, ...],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    code, out, err = foster(command, "nothing.csv", *given)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1 and err.startswith("foster: ") and "; " in err
    assert all(word in err for word in words)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_matplotlib_is_said_before_anything_is_read(foster: Foster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = foster("sweep", "nothing.csv", "--over", "budget=1,2")
    assert code == 2 and not out and "pip install 'foster-cli[plot]'" in err and "--no-plot" in err
    code, out, err = foster("sweep", "nothing.csv", "--over", "budget=1,2", "--no-plot")
    assert code == 2 and "nothing.csv" in err


@pytest.mark.parametrize(
    ("command", "given", "word"),
    [
        ("ablate", ("--rows", "foster,kmeans", "--items-per-step", "512"), "row kmeans: k-means chooses"),
        ("ablate", ("--rows", "foster", "--budget", "9999"), "--budget 9999: there are only"),
        ("sweep", ("--over", "budget=2,9999"), "--budget 9999: there are only"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    foster: Foster, common: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str,
    given: tuple[str, ...], word: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("foster_cli.evaluate.compare.run", never)
    code, out, err = foster(command, *common, *given, "--out", tmp_path / "x")
    last = err.splitlines()[-1]
    assert code == 2 and not out and last.startswith("foster: ") and word in last and "; " in last, err
    assert list(tmp_path.iterdir()) == []
