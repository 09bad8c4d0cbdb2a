"""`foster compare`, end to end: its files, its second run, an interruption, `foster eval` beside it, bad input.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_compare_command.py`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calling import Foster, numbers
from spying import never, stopped
from watching import TRAINING, trainings

import foster_cli
from foster_cli.baselines import METHODS as KNOWN
from foster_cli.evaluate import compare
from foster_cli.evaluate.plan import COMMON, ROWS
from foster_cli.settings import (
    DistillConfig,
    ModelConfig,
    PrepareSettings,
    RankingConfig,
    Settings,
    StudentConfig,
    TrainConfig,
)

METHODS = "foster,random,kcenter"
SIZE = ("--budget", "3", "--length", "6", "--epochs", "1", "--k-core", "2", "--width", "8", "--draws", "1")
SHORT = ("--steps", "1", "--student-steps", "20")
RATES = ("--rates", "1e-3,1e-2", "--seeds", "2")


@pytest.fixture
def options(shop: Path, mean_encoder: Path) -> tuple[str | Path, ...]:
    return (shop, "--methods", METHODS, *SIZE, *SHORT, *RATES, "--encoder", mean_encoder)


@pytest.fixture
def done(folder: Path, foster: Foster, options: tuple[str | Path, ...]) -> Path:
    """The folder of a comparison, made once for this module (without `--out`)."""
    out = folder / "runs" / "shop-compare-b3"
    if not out.exists():
        code, _, err = foster("compare", *options)
        assert code == 0, err
    return out


def few_rows(patch: pytest.MonkeyPatch, *names: str) -> None:
    """From now on a comparison makes only these of the rows that belong to no method."""
    real = compare.compare_methods
    patch.setattr(compare, "compare_methods", lambda plan: real(replace(plan, common=names)))


def test_what_is_written(done: Path) -> None:
    found = json.loads((done / "compare.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == [*METHODS.split(","), *COMMON]
    assert list(found["paired"]) == [
        "foster-full", "random-full", "kcenter-full", "foster-random", "kcenter-random", "foster-kcenter"
    ]  # fmt: skip
    assert found["seeds"] == [0, 1] and found["machine"]["torch"] and found["settings"]["train"]["epochs"] == 1
    for name in METHODS.split(","):
        row, manifest = found["rows"][name], foster_cli.load(done / name).manifest
        assert manifest["method"] == name and manifest["seed"] == 0 and manifest["distill"]["budget"] == 3
        assert set(row["valid_by_rate"]) == {"0.001", "0.01"}
        best = max(row["valid_by_rate"], key=row["valid_by_rate"].get)
        assert row["rate"] == float(best)
        assert row["select_seconds"] > 0 and row["select_peak_mb"] > 0 and row["train_seconds"] > 0
        assert len(row["R@10"]["seeds"]) == 2
    full = found["rows"]["full"]
    assert set(full["valid_by_rate"]) == {"0.001", "0.01"}
    assert full["rate"] == float(max(full["valid_by_rate"], key=full["valid_by_rate"].get))
    title = f"{found['cases']:,} test cases (all of each user), full ranking, items already seen left out, seeds 0, 1"
    lines = list(csv.DictReader((done / "compare.csv").read_text(encoding="utf-8").splitlines()))
    assert [line["row"] for line in lines] == list(found["rows"])
    for line in lines:
        assert float(line["N@20_high"]) == found["rows"][line["row"]]["N@20"]["high"]
        assert line["ranked"] == title and line["bytes"] == str(found["rows"][line["row"]]["bytes"])
    assert found["ranking"] == {"mask_seen": True, "cases": "all"}
    assert (done / "compare.md").stat().st_size and (done / "compare.tex").stat().st_size


def test_what_each_row_takes_on_disk(done: Path, shop: Path) -> None:
    """The bundle of a method; the first method's item factor and titles; all else, the data."""
    rows = json.loads((done / "compare.json").read_text(encoding="utf-8"))["rows"]
    method = {m: [p for p in (done / m).iterdir() if p.suffix in (".json", ".safetensors", ".parquet", ".csv")]
              for m in METHODS.split(",")}  # fmt: skip
    expected = {m: sum(p.stat().st_size for p in files) for m, files in method.items()}
    titles = (done / "foster" / "items.parquet").stat().st_size
    expected |= {"untrained": titles, "text_similarity": titles}
    expected["item_factor"] = titles + (done / "foster" / "item_factor.safetensors").stat().st_size
    assert {name: row["bytes"] for name, row in rows.items()} == {
        name: expected.get(name, shop.stat().st_size) for name in rows
    }


def test_the_second_run_trains_nothing(
    foster: Foster, done: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in TRAINING:
        monkeypatch.setattr(f"foster_cli.evaluate.{where}", never)
    before = {p.name: p.read_bytes() for p in done.glob("compare.*")}
    code, out, err = foster("compare", *options, "--json")
    assert code == 0, err
    assert out.encode() == before["compare.json"]
    assert {p.name: p.read_bytes() for p in done.glob("compare.*")} == before
    code, out, err = foster("compare", *options)
    assert code == 0, err
    assert "paired differences" in out and "kcenter" in out and str(done.relative_to(Path.cwd())) in out
    words = " ".join(out.split())
    assert "(all of each user), full ranking, items already seen left out" in words and " MB " in words


def test_rows_beside_the_methods(
    foster: Foster, done: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that are named, in the table's order; what the whole table made is not made again, and the rate on all
    the data is chosen although the row `full` is not there."""
    whole = json.loads((done / "compare.json").read_text(encoding="utf-8"))
    before = {p.name: p.read_bytes() for p in done.glob("compare.*")}
    cells = {p.name for p in (done / "cells").iterdir()}
    try:
        code, out, err = foster("compare", *options, "--rows", "popularity,id,text", "--json")
    finally:
        for name, content in before.items():  # the other tests read the whole table
            (done / name).write_bytes(content)
    assert code == 0, err
    found = json.loads(out)
    assert list(found["rows"]) == [*METHODS.split(","), "text", "id", "popularity"]
    for name in ("foster", "kcenter", "text", "popularity"):
        assert found["rows"][name] == whole["rows"][name]
    assert list(found["paired"]) == ["foster-random", "kcenter-random", "foster-kcenter"]
    added = {p for p in (done / "cells").iterdir() if p.name not in cells}
    assert sorted(p.name.rsplit("-", 1)[0] for p in added) == ["id-s0"] * 2 + ["id-s1"] * 2
    record = json.loads(next(p for p in added if p.suffix == ".json").read_text(encoding="utf-8"))
    assert record["fields"]["train"]["lr"] == whole["rows"]["full"]["rate"]


def test_a_row_that_is_named_alone_and_left_out(foster: Foster, shop: Path, tmp_path: Path) -> None:
    """It is an error before anything is made."""
    common = ("compare", shop, "--methods", "random", *SIZE, "--out", tmp_path / "x")
    for items, row, word in (("id", "text", "without texts"), ("id", "id", "it is the row full")):
        code, out, err = foster(*common, "--items", items, "--rows", row)
        assert code == 2 and not out and f"foster: --rows {row}: " in err and word in err
    assert not (tmp_path / "x").exists()


def test_all_the_data_train_at_the_rate_that_validation_chose(
    foster: Foster, folder: Path, shop: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside `foster distill`'s own teacher at either rate: validation picks the better, the row has its ranks."""
    few_rows(monkeypatch, "full")
    found, teacher = {}, {}
    long = (*SIZE[:4], "--epochs", "6", "--k-core", "2", "--width", "8", "--draws", "1")
    for rates in ("1e-3", "3e-2", "1e-3,3e-2"):
        out = folder / f"full-{rates}"
        code, _, err = foster(
            "compare", shop, "--methods", "random", *long, "--rates", "1e-3", "--seeds", "1", "--full-rates", rates,
            "--encoder", mean_encoder, "--out", out,
        )  # fmt: skip
        assert code == 0, err
        found[rates] = json.loads((out / "compare.json").read_text(encoding="utf-8"))["rows"]["full"]
    for rate in ("1e-3", "3e-2"):
        code, _, err = foster("distill", shop, "--method", "random", *long[:-2], "--lr", rate,
                              "--encoder", mean_encoder, "--out", folder / f"lr-{rate}")  # fmt: skip
        assert code == 0, err
        teacher[rate] = foster_cli.load(folder / f"lr-{rate}").manifest["metrics"]["full_valid_R@10"]
    assert list(found["1e-3,3e-2"]["valid_by_rate"].values()) == pytest.approx(list(teacher.values()), rel=1e-12)
    best = max(teacher, key=lambda rate: teacher[rate])
    assert found["1e-3,3e-2"]["rate"] == float(best)
    assert found["1e-3,3e-2"]["R@10"] == found[best]["R@10"]
    assert found["1e-3"]["R@10"] != found["3e-2"]["R@10"]  # else this says nothing


def test_an_interruption_loses_nothing(
    foster: Foster, done: Path, folder: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second method's choice of a rate; then the rest, equal to a run in one go."""
    out = folder / "stopped"
    with monkeypatch.context() as patch:
        calls = trainings(patch, compare, lambda label: label.startswith("random"))
        code, text, err = foster("compare", *options, "--out", out)
    assert code == 130 and not text and "interrupted" in err
    assert [p.name for p in out.rglob(".*")] == [] and not (out / "compare.json").exists()
    assert calls == ["foster, rate 0.001", "foster, rate 0.01", "random, rate 0.001"]
    kept = [p.name for p in (out / "cells").iterdir()]
    # 3 bundles, 2 validations of the first, 2 rates; the test is not read
    assert len(kept) == 7 and not any("-s0-" in name for name in kept)

    seen = trainings(monkeypatch, compare)
    code, _, err = foster("compare", *options, "--out", out)
    assert code == 0, err
    assert seen[0] == "random, rate 0.001" and not any(label.startswith("foster, rate") for label in seen)
    a, b = (json.loads((p / "compare.json").read_text(encoding="utf-8")) for p in (out, done))
    assert numbers(a) == numbers(b)


def test_a_damaged_cell_is_made_again(foster: Foster, done: Path, options: tuple[str | Path, ...]) -> None:
    before = json.loads((done / "compare.json").read_text(encoding="utf-8"))
    damaged = [
        next((done / "cells").glob("random-s1-*.safetensors")), next((done / "cells").glob("untrained-s0-*.json")),
        next(p for p in (done / "cells").glob("kcenter-*/windows.safetensors")),
    ]  # fmt: skip
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    code, _, err = foster("compare", *options)
    assert code == 0, err
    assert err.count("a damaged cell is made again") == 3
    assert numbers(json.loads((done / "compare.json").read_text(encoding="utf-8"))) == numbers(before)


@pytest.mark.parametrize("method", ["foster", "kcenter", "rollout", "td3"])
def test_one_method_as_distill_and_eval_give_it(
    foster: Foster, folder: Path, shop: Path, mean_encoder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rate of the defaults, for the synthetic set or for real data: the same bundle and the same numbers.
    Validation chooses the state of each training."""
    from foster_cli.baselines import td3

    few_rows(monkeypatch, "popularity")
    monkeypatch.setattr(td3, "TD3Config", partial(td3.TD3Config, inner_steps=6, window=3, real_batch=16))
    out, bundle = folder / f"one-{method}", folder / f"alone-{method}"
    common = (*SIZE, "--encoder", mean_encoder)
    rate = TrainConfig.lr if KNOWN[method].real else StudentConfig.lr
    rest = ("--rates", f"{rate:g}", "--seeds", "2", "--methods", method, "--out", out, "--json", "--k", "5")
    code, text, err = foster("compare", shop, *common, *SHORT, *rest)
    assert code == 0, err
    found = json.loads(text)["rows"][method]
    assert found["rate"] == rate and found["valid_by_rate"] == {}
    given = {"foster": SHORT, "kcenter": (), "rollout": SHORT[2:], "td3": SHORT}[method]
    size = SIZE if method in ("foster", "rollout") else SIZE[:-2]  # the others refuse --draws
    code, _, err = foster(
        "distill", shop, "--method", method, *size, *given, "--encoder", mean_encoder, "--out", bundle
    )
    assert code == 0, err
    a, b = (foster_cli.load(p) for p in (out / method, bundle))
    if a.windows is not None and b.windows is not None:
        np.testing.assert_array_equal(a.windows.items, b.windows.items)
    else:
        assert all((a.factors[x] == b.factors[x]).all() for x in "UTG")
    assert all(a.manifest[key] == b.manifest[key] for key in ("distill", "model", "train", "student", "data"))
    validate = () if KNOWN[method].real else ("--validate",)
    code, text, err = foster(
        "eval", out / method, "--seeds", "2", "--rows", "synthetic", "--json", "--k", "5", *validate
    )
    assert code == 0, err
    row = json.loads(text)["rows"]["synthetic"]
    for metric in ("R@5", "N@5", "MRR"):
        assert row[metric]["seeds"] == found[metric]["seeds"]
    assert (row["coverage"], row["chosen"]) == (found["coverage"], found["chosen"])


def test_items_by_id_and_another_rate_are_other_cells(foster: Foster, folder: Path, shop: Path) -> None:
    """No encoder is read: text similarity is left out with a note, and so is the row of texts. Bundle and common rows
    are not made again, but for the one that trains as long as the method's row takes."""
    common = (shop, "--methods", "random", *SIZE, "--seeds", "1", "--items", "id", "--encoder", folder / "none",
              "--full-rates", "1e-3")  # fmt: skip
    code, text, err = foster("compare", *common, "--rates", "1e-3", "--out", folder / "ids", "--json")
    assert code == 0, err
    assert "row text_similarity is left out" in err and "row text is left out: without texts" in err
    assert list(json.loads(text)["rows"]) == ["random", *[x for x in COMMON if x not in ("text", "text_similarity")]]
    cells = {p.name for p in (folder / "ids" / "cells").iterdir()}
    code, text, err = foster("compare", *common, "--rates", "1e-2", "--out", folder / "ids", "--json")
    assert code == 0, err
    assert json.loads(text)["rows"]["random"]["rate"] == 1e-2
    added = {p.name for p in (folder / "ids" / "cells").iterdir()} - cells
    assert sorted(name.rsplit("-", 1)[0] for name in added) == ["equal_compute-s0"] * 2 + ["random-s0"] * 2


def test_what_is_typed_reaches_the_plan(
    foster: Foster, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command adds to the settings, and the settings with it (`test_from_settings.py` has each option)."""
    tables = stopped(monkeypatch, compare, "compare_methods")
    raw = pd.read_parquet(shop)
    names = {"user_id": "who", "item_id": "what", "timestamp": "when", "title": "name", "split": "part"}
    raw.rename(columns=names).to_csv(tmp_path / "raw.csv", index=False)
    columns = ("--user-column", "who", "--item-column", "what", "--time-column", "when", "--text-columns", "name",
               "--split-column", "none", "--k-core", "2")  # fmt: skip
    sizes = ("--budget", "7", "--length", "9", "--steps", "11", "--draws", "3", "--width", "32", "--epochs", "4")
    rest = ("--encoder", "tinybert", "--backbone", "gru4rec", "--train-layers", "2", "--precision", "bf16",
            "--student-items", "all", "--student-steps", "33", "--seeds", "5", "--rates", "1e-4,1e-5", "--k", "1,3",
            "--methods", "kcenter, rollout", "--device", "cpu", "--no-cache", "--cases", "first",
            "--lexical", "128", "--rows", "all")  # fmt: skip
    assert foster("compare", tmp_path / "raw.csv", *columns, *sizes, *rest).code == 2
    assert foster("compare", shop, "--items", "id", "--k-core", "2", "--out", tmp_path / "x").code == 2
    a, b = (table["plan"] for table in tables)
    assert a.settings == Settings(
        paths=(str(tmp_path / "raw.csv"),),
        prepare=PrepareSettings(
            "who", "what", time_column="when", text_columns=("name",), split_column="none", k_core=2
        ),
        model=ModelConfig(
            width=32, encoder="tinybert", backbone="gru4rec", train_layers="2", precision="bf16", lexical=128
        ),
        train=TrainConfig(epochs=4),
        distill=DistillConfig(budget=7, length=9, steps=11, draws=3),
        student=StudentConfig(items_per_step=None, steps=33),
        ranking=RankingConfig(mask_seen=True, cases="first"),
    )  # fmt: skip
    assert a.models == {a.settings.model: ""}
    assert (a.seeds, a.rates, a.full_rates, a.ks) == (5, (1e-4, 1e-5), (1e-4, 1e-5), (1, 3))
    assert [v.name for v in a.variants] == ["kcenter", "rollout"] and (a.split, a.publish) == ("test", True)
    assert (a.session.device.type, a.session.use_cache, str(a.out)) == ("cpu", False, "runs/raw-compare-b7")
    assert (b.settings.model.items, b.out, b.session.use_cache) == ("id", tmp_path / "x", True)
    assert (b.seeds, b.ks) == (3, (10, 20))
    assert (a.common, b.common) == (ROWS, COMMON) and set(ROWS) - set(COMMON) == {"id"}
    names = {v.name for v in b.variants}
    assert "td3" not in names and {"foster", "random", "kcenter", "rollout"} <= names


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--methods", "foster,kcentre"), ("--methods kcentre", "kcenter")),
        (("--methods", "random,kcenter,random"), ("random", "twice")),
        (("--methods", ""), ("--methods", "foster")),
        (("--rows", "full,fulll"), ("--rows fulll", "full")),
        (("--rows", "random"), ("--rows random", "full")),
        (("--rows", ","), ("--rows", "names no row")),
        (("--rates", "1e-3,fast"), ("--rates", "1e-3,fast")),
        (("--rates", "0"), ("--rates 0", "positive")),
        (("--rates", "nan"), ("--rates nan",)),
        (("--k", "0"), ("--k 0",)),
        (("--budget", "0"), ("--budget 0",)),
        (("--student-items", "few"), ("--student-items few",)),
        (("--backbone", "rnn"), ("--backbone rnn", "gru4rec")),
        (("--out", "file"), ("--out file", "is a file")),
        (("--device", "tpu"), ("--device tpu",)),
    ],
)
def test_bad_input_is_one_line(
    foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    code, out, err = foster("compare", "nothing.csv", *given)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1 and err.startswith("foster: ") and "; " in err
    assert all(word in err for word in words)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_no_bundle_is_left_alone(foster: Foster, folder: Path, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "random").mkdir()
    (tmp_path / "random" / "notes.txt").write_text("mine")
    code, _, err = foster("compare", shop, "--methods", "random", "--k-core", "2", "--out", tmp_path)
    assert code == 2 and "holds random, which is no bundle" in err
    assert [p.name for p in tmp_path.rglob("*")] == ["random", "notes.txt"]
    (tmp_path / "random" / "SHA256SUMS").write_text("0  bundle.json\n")  # a bundle of another making
    code, _, err = foster("compare", shop, "--methods", "random", "--k-core", "2", "--out", tmp_path)
    assert code == 2 and "holds random, a bundle that was not made there" in err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["SHA256SUMS", "notes.txt", "random"]


def test_what_cannot_work_is_said_before_anything_is_trained(
    foster: Foster, shop: Path, mean_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foster_cli.evaluate.compare.run_coreset", never)
    (tmp_path / "file").write_text("x")
    common = ("compare", shop, "--methods", "random", "--k-core", "2")
    for given, word in (
        (("--encoder", mean_encoder, "--budget", "9999", "--out", tmp_path / "x"), "--budget 9999: there are only"),
        (("--encoder", tmp_path / "none", "--out", tmp_path / "x"), "none"),
        (("--encoder", mean_encoder, "--out", tmp_path / "file" / "x"), "Not a directory"),
    ):
        code, out, err = foster(*common, *given)
        last = err.splitlines()[-1]
        assert code == 2 and not out and last.startswith("foster: ") and word in last and "; " in last, err
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
