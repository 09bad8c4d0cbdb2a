"""Every method from the command line: distill, eval, export; and the bundle of real sequences.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_methods_command.py`.
"""

from __future__ import annotations

import csv
import inspect
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import sign, write_coreset
from calling import Foster
from safetensors.torch import load_file, save_file

import foster_cli
from foster_cli.baselines import METHODS, refuse_unread, td3
from foster_cli.bundle import CORESET_FILES, SUMS, WINDOWS, load
from foster_cli.commands import distill
from foster_cli.commands.from_settings import fields
from foster_cli.data.prepare import load_dataset
from foster_cli.data.windows import Windows, training_windows, window_users
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings, Settings

CORESETS = [m.name for m in METHODS.values() if m.real]
QUICK = ("--budget", "3", "--length", "6", "--epochs", "1", "--k-core", "2", "--width", "8")


@pytest.mark.parametrize("name", CORESETS)
def test_a_coreset_from_distill_to_export(
    foster: Foster, shop: Path, folder: Path, mean_encoder: Path, name: str, tmp_path: Path
) -> None:
    code, out, err = foster("distill", shop, "--method", name, *QUICK, "--encoder", mean_encoder, "--seed", "3")
    assert code == 0, err
    assert f"chosen by {name}" in out
    bundle = folder / "runs" / f"shop-{name}-b3-1"
    assert {p.name for p in bundle.iterdir()} == {*CORESET_FILES, SUMS}
    loaded = foster_cli.load(bundle)
    manifest = loaded.manifest
    assert manifest["method"] == name and manifest["format"] == 3 and manifest["distill"]["budget"] == 3

    # real windows of the data, and the log says which
    data = load_dataset([shop], PrepareSettings(k_core=2))
    every, users = training_windows(data, 6), window_users(data, 6)
    index = np.array(manifest["metrics"]["contexts"])
    assert loaded.windows is not None and len(set(index.tolist())) == 3
    np.testing.assert_array_equal(loaded.windows.items, every.items[index])
    log = pd.read_csv(bundle / "log.csv")
    assert log["window"].tolist() == index.tolist() and log["user"].tolist() == users[index].tolist()
    with pytest.raises(FosterError, match="real sequences"):
        next(loaded.batches(1))

    # a seed fixes the choice
    assert foster("distill", shop, "--method", name, *QUICK, "--encoder", mean_encoder, "--seed", "3")[0] == 0
    again = folder / "runs" / f"shop-{name}-b3-2"
    assert (again / WINDOWS).read_bytes() == (bundle / WINDOWS).read_bytes()

    code, out, err = foster("eval", bundle, "--seeds", "1", "--rows", "synthetic,untrained")
    assert code == 0, err
    assert f"synthetic ({name})" in out

    for ending in ("jsonl", "parquet", "csv"):
        assert foster("export", bundle, "--out", tmp_path / f"set.{ending}")[0] == 0
    expected = [
        (m, t, loaded.item_ids[item])
        for m in range(3)
        for t, item in enumerate(loaded.windows.items[m, : loaded.windows.lengths[m]].tolist())
    ]
    lines = [json.loads(x) for x in (tmp_path / "set.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(x["synthetic_user"], x["position"], x["items"][0]["item_id"]) for x in lines] == expected
    assert all(x["mass"] == 1.0 and len(x["items"]) == 1 and x["items"][0]["probability"] == 1.0 for x in lines)
    table = pd.read_parquet(tmp_path / "set.parquet")
    assert list(zip(table["synthetic_user"], table["position"], table["item_id"], strict=True)) == expected
    assert (table["mass"] == 1.0).all() and (table["rank"] == 0).all()
    rows = list(csv.DictReader((tmp_path / "set.csv").read_text(encoding="utf-8").splitlines()))
    assert [(int(r["synthetic_user"]), int(r["position"]), r["item_id"]) for r in rows] == expected


@pytest.mark.parametrize("given", [(), ("--items-per-step", "10")])
def test_td3_from_distill_to_eval(
    foster: Foster,
    shop: Path,
    folder: Path,
    mean_encoder: Path,
    given: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its set is in the paper's form, of ranks 8 at most, over all items unless told otherwise."""
    short = partial(td3.TD3Config, inner_steps=6, window=3, real_batch=16)
    monkeypatch.setattr(td3, "TD3Config", short)
    options = ("--method", "td3", "--steps", "2", "--check-every", "1", "--check-seeds", "1", "--student-steps", "20")
    out = folder / f"td3-{len(given)}"
    code, _, err = foster("distill", shop, *QUICK, *options, *given, "--encoder", mean_encoder, "--out", out)
    assert code == 0, err
    bundle = foster_cli.load(out)
    assert bundle.manifest["method"] == "td3" and not bundle.own_goals
    assert {k: tuple(x.shape) for k, x in bundle.factors.items()} == {"U": (3, 3), "T": (6, 6), "G": (3, 6, 8)}
    assert bundle.manifest["distill"]["items_per_step"] == (10 if given else None)
    log = pd.read_csv(out / "log.csv")
    assert len(log) == 2 and np.isfinite(log.to_numpy()).all()
    code, text, err = foster("eval", out, "--seeds", "1", "--rows", "synthetic")
    assert code == 0, err
    assert "synthetic (td3)" in text


def test_rollout_is_the_starting_point_alone(foster: Foster, shop: Path, folder: Path, mean_encoder: Path) -> None:
    quick = (*QUICK, "--encoder", mean_encoder, "--student-steps", "20", "--check-seeds", "1", "--draws", "1")
    code, _, err = foster("distill", shop, "--method", "rollout", *quick)
    assert code == 0, err
    options = ("--init", "rollout", "--targets", "next", "--no-mix", "--steps", "0")
    assert foster("distill", shop, *options, *quick, "--out", folder / "plain")[0] == 0
    a, b = (load(p) for p in (folder / "runs" / "shop-rollout-b3-1", folder / "plain"))
    assert (a.manifest["method"], b.manifest["method"]) == ("rollout", "foster")
    assert all(torch.equal(a.factors[k], b.factors[k]) for k in "UTG")
    assert a.manifest["distill"] == b.manifest["distill"]
    code, out, err = foster("eval", a.path, "--seeds", "1", "--rows", "synthetic")
    assert code == 0 and "synthetic (rollout)" in out, err


@pytest.mark.parametrize(
    ("method", "option", "word"),
    [
        ("kcentre", (), "--method kcentre"),
        ("kcenter", ("--steps", "200"), "--steps"),  # the default, but given
        ("random", ("--no-mix",), "--mix"),
        ("dealrec", ("--student-lr", "0.1"), "--student-lr"),
        ("goracs", ("--init", "real"), "--init"),
        ("nacs", ("--items-per-step", "all"), "--items-per-step"),
        ("rollout", ("--steps", "0"), "--steps"),
        ("rollout", ("--dh-weight", "0"), "--dh-weight"),
        ("rollout", ("--outer", "bome"), "--outer"),
        ("td3", ("--outer", "bome"), "--outer"),
        ("td3", ("--inner-steps", "5"), "--inner-steps"),
        ("td3", ("--rank-user", "8"), "--rank-user"),
    ],
)
def test_what_means_nothing_is_one_line(
    foster: Foster, folder: Path, method: str, option: tuple[str, ...], word: str
) -> None:
    code, out, err = foster("distill", folder / "nothing.csv", "--method", method, *option)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1 and err.startswith("foster: ") and word in err and "; " in err


#: The options of `foster distill` by what they are about, as its parameters are named.
OUTER = {"steps", "init", "targets", "mix", "barrier", "eta", "outer_loss", "alpha", "dh_weight", "dh_form", "reset",
         "reset_every", "inner_steps", "inner_lr", "model_lr", "synthetic_lr", "check_every"}  # fmt: skip
SYNTHETIC = {"draws", "gain", "rank_user", "rank_time", "items_per_step", "subset", "check_seeds", "student_lr",
             "student_steps", "student_items", "item_start"}  # fmt: skip
VIEWS = {"live", "tensorboard"}
#: What TD3 sets itself; its steps, checks and students are as given.
TD3 = OUTER - {"steps", "check_every"} | {"draws", "gain", "rank_user", "rank_time", "subset"}
SHARED = {"data", "budget", "method", "out", "length", "seed", "device", "cache", "json", "encoder", "train_layers",
          "width", "max_tokens", "precision", "loss", "epochs", "patience", "lr", "user_column", "item_column",
          "time_column", "text_columns", "split_column", "k_core", "settings", "resume", "extend", "force", "ctx",
          "backbone", "items", "pooling", "lora", "lora_alpha", "cache_precision"}  # fmt: skip


@pytest.mark.parametrize("method", [name for name in METHODS if name != "foster"])
def test_every_option_has_its_place(method: str) -> None:
    """An option is shared by all methods, or refused by those that do not read it: none is forgotten."""
    parameters = set(inspect.signature(distill.command).parameters)
    known = SHARED | OUTER | SYNTHETIC | VIEWS
    assert known <= parameters
    refused = set()
    for name in parameters:
        try:
            refuse_unread(Settings(method=method), {name})
        except FosterError as error:
            assert f"means nothing with --method {method}" in error.message
            refused.add(name)
    kind = METHODS[method]
    own = TD3 if method == "td3" else OUTER | SYNTHETIC | VIEWS if kind.real else OUTER
    assert refused & known == own | {"settings"}
    later = {f.name: f for f in fields("distill") if f.name not in known}  # an option that is newer than this test
    assert parameters - known == set(later)
    for name, f in later.items():
        assert (name in refused) == (f.section == "distill" and f.field not in kind.reads)


def test_foster_reads_every_option() -> None:
    refuse_unread(Settings(), set(inspect.signature(distill.command).parameters))


N = 6
ITEMS = np.array([[0, 5, 0, -1], [1, 2, -1, -1], [3, 3, 4, 2]])


def _coreset(path: Path) -> Path:
    windows = Windows(ITEMS, np.array([3, 2, 4]))
    return write_coreset(path, {"method": "random", "student": {"lr": 1e-3}}, windows, N)


def test_a_coreset_comes_back(tmp_path: Path) -> None:
    found = load(_coreset(tmp_path / "x"))
    assert found.windows is not None and found.windows.lengths.tolist() == [3, 2, 4]
    np.testing.assert_array_equal(found.windows.items, ITEMS)
    for what in (lambda: found.Q, found.probabilities, found.goals):
        with pytest.raises(FosterError, match="real sequences"):
            what()


@pytest.mark.parametrize("name", CORESET_FILES)
def test_a_changed_or_missing_file_of_a_coreset_is_refused(tmp_path: Path, name: str) -> None:
    path = _coreset(tmp_path / "x")
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(FosterError, match=f"{name} was changed"):
        load(path)
    (path / name).unlink()
    with pytest.raises(FosterError, match=f"{name} is missing"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"items": torch.from_numpy(np.where(ITEMS == 5, N, ITEMS))}, {"items": torch.from_numpy(ITEMS - 1)},
        {"items": torch.from_numpy(ITEMS).float()}, {"items": torch.zeros(0, 4, dtype=torch.int64)},
        {"items": torch.from_numpy(ITEMS[0])}, {"items": torch.from_numpy(ITEMS[:2])},
        {"lengths": torch.tensor([3, 1, 4])}, {"lengths": torch.tensor([3, 2, 5])},
        {"lengths": torch.tensor([2, 2, 4])}, {"lengths": None},
    ],
)  # fmt: skip
def test_windows_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> None:
    path = _coreset(tmp_path / "x")
    tensors = {k: v for k, v in (load_file(path / WINDOWS) | change).items() if v is not None}
    save_file(tensors, path / WINDOWS)
    sign(path)
    with pytest.raises(FosterError, match="distill again"):
        load(path)


@pytest.mark.parametrize("number", [2, 4, None])
def test_another_format_of_a_coreset_is_refused(tmp_path: Path, number: int | None) -> None:
    path = _coreset(tmp_path / "x")
    manifest = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**manifest, "format": number}))
    sign(path)
    with pytest.raises(FosterError, match=r"format.*upgrade"):
        load(path)
