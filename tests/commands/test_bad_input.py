"""Bad input: one line that says what is wrong and what to type, exit code 2, nothing half-written.

It takes half a minute; alone: `pytest tests/commands/test_bad_input.py`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from calling import Foster, Said, files, one_line, shop

Change = Callable[[pd.DataFrame], pd.DataFrame]


def raw(tmp_path: Path, change: Change, name: str = "raw.csv") -> Path:
    path = tmp_path / name
    change(shop()).to_csv(path, index=False)
    return path


def no_titles(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(title="")


def one_user(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["user_id"] == "u00"]


def wrong_time(table: pd.DataFrame) -> pd.DataFrame:
    table = table.astype({"timestamp": object})
    table.loc[7:11, "timestamp"] = "yesterday"
    return table


TABLES: list[tuple[str, Change, tuple[str, ...], tuple[str, ...]]] = [
    ("empty", lambda t: t.iloc[:0], (), ("no rows",)),
    ("no user column", lambda t: t.rename(columns={"user_id": "who"}), (), ("user", "who", "item_id", "--user-column")),
    ("wrong column given", lambda t: t, ("--time-column", "when"), ("when", "timestamp", "--time-column")),
    ("unparseable time", wrong_time, (), ("timestamp", "line 9", "yesterday", "ISO", "--allow-bad")),
    ("one user", one_user, ("--k-core", "1"), ("one user",)),
    ("one user, k-core", one_user, (), ("only one user",)),
    ("nothing left", lambda t: t, ("--k-core", "11"), ("11-core", "--k-core 10")),
    ("no test cases", lambda t: t.assign(split="train"), (), ("valid", "--split-column none")),
    (
        "test users unseen",
        lambda t: t.assign(split=[("train", "valid")[int(i % 10 > 5)] for i in range(len(t))]),
        (),
        ("no test cases", "--split-column none"),
    ),
    ("unknown split", lambda t: t.assign(split="holdout"), (), ("holdout", "train, valid")),
]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["preprocess", "distill"])
@pytest.mark.parametrize(("change", "options", "words"), [t[1:] for t in TABLES], ids=[t[0] for t in TABLES])
def test_tables(
    foster: Foster, tmp_path: Path, command: str, change: Change, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = raw(tmp_path, change)
    out = "out.parquet" if command == "preprocess" else "out"
    one_line(foster(command, path, *options, "--out", out), *words)


@pytest.mark.usefixtures("untouched")
def test_the_named_k_leaves_something(foster: Foster, data: Path) -> None:
    line = one_line(foster("preprocess", data, "--k-core", "11", "--out", "out.parquet"))
    found = re.search(r"--k-core (\d+) would leave (\d+)", line)
    assert found is not None
    said = foster("preprocess", data, "--k-core", found[1], "--out", data.parent / "fine.parquet", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["interactions"] == int(found[2])


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "arguments",
    [
        ("preprocess", "missing.csv", "--out", "out.parquet"),
        ("distill", "missing.csv"),
        ("eval", "missing"),
        ("export", "missing"),
        ("eval",),
        ("export",),
    ],
    ids=" ".join,
)
def test_missing(foster: Foster, arguments: tuple[str, ...]) -> None:
    line = one_line(foster(*arguments))
    assert "missing" in line or "no bundle" in line


@pytest.mark.usefixtures("untouched")
def test_budget_larger_than_the_windows(foster: Foster, data: Path, encoder: Path) -> None:
    for init in ("rollout", "real"):
        said = foster("distill", data, "--budget", "1000", "--init", init, "--encoder", encoder)
        one_line(said, "--budget 1000", "30 training windows", "--budget 30")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--budget", "0"), "--budget"),
        (("--length", "1"), "--length"),
        (("--steps", "-1"), "--steps"),
        (("--items-per-step", "some"), "--items-per-step"),
        (("--init", "best"), "rollout"),
        (("--init", "rollout,best"), "rollout"),
        (("--init", "probe", "--targets", "next"), "--targets own"),
        (("--init", "guided,rollout", "--targets", "next"), "--init rollout"),
        (("--targets", "last"), "own, next"),
        (("--draws", "0"), "--draws"),
        (("--rank-time", "41"), "1 to 40"),
        (("--loss", "hinge"), "softmax"),
        (("--backbone", "lstm"), "sasrec, sasrec-relative, gru4rec, bert4rec, narm, hstu, ligr"),
        (("--items", "name"), "text, id"),
        (("--items", "id", "--train-layers", "1"), "--train-layers none"),
        (("--items", "id", "--train-layers", "all"), "--train-layers none"),
        (("--items", "id", "--precision", "bf16"), "--precision fp32"),
        (("--items", "id", "--width", "9"), "not divisible"),
        (("--train-layers", "top"), "none, all"),
        (("--rank-user", "99"), "1 to 20"),
        (("--gain", "nan"), "--gain"),
        (("--lr", "nan"), "--lr"),
        (("--lr", "-1"), "--lr"),
        (("--student-lr", "-1"), "--student-lr"),
        (("--student-steps", "-1"), "--student-steps"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--width", "0"), "--width"),
        (("--inner-lr", "inf"), "--inner-lr"),
        (("--device", "gpu"), "--device"),
        (("--device", "cuda:99"), "--device"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else v,
)
def test_settings(foster: Foster, data: Path, encoder: Path, options: tuple[str, ...], word: str) -> None:
    one_line(foster("distill", data, "--encoder", encoder, "--epochs", "1", "--steps", "1", *options), word)


def test_a_bundle_with_a_changed_byte(foster: Foster, made: Path) -> None:
    names = [line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()]
    assert set(names) == {p.name for p in made.iterdir()} - {"SHA256SUMS"}
    before = files(made)
    for name in names:
        whole = (made / name).read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        (made / name).write_bytes(changed)
        for command in ("eval", "export"):
            one_line(foster(command, made), name, "changed")
        (made / name).unlink()
        one_line(foster("export", made), name, "missing")
        (made / name).write_bytes(whole)
    assert files(made) == before
    assert foster("export", made).code == 0


def test_a_bundle_of_another_dataset(foster: Foster, made: Path, tmp_path: Path, data: Path) -> None:
    other = raw(tmp_path, lambda t: t.assign(title=t["title"] + " too"), "other.csv")
    before = files(made)
    one_line(foster("eval", made, "--data", other), "other data", "--data")
    one_line(foster("eval", made, "--data", tmp_path / "none.csv"), "none.csv", "--data")
    data.unlink()
    one_line(foster("eval", made), "shop.csv", "--data")
    assert files(made) == before


def test_an_unknown_backbone_for_evaluation(foster: Foster, made: Path) -> None:
    said = foster("eval", made, "--backbone", "lstm")
    one_line(said, "--backbone lstm", "sasrec, sasrec-relative, gru4rec, bert4rec, narm, hstu, ligr")


@pytest.mark.usefixtures("untouched")
def test_an_encoder_that_is_none(foster: Foster, data: Path, encoder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one_line(foster("distill", data, "--encoder", empty), "config.json")
    one_line(foster("distill", data, "--encoder", "./nowhere"), "--encoder ./nowhere", "minilm")
    one_line(foster("distill", data, "--encoder", "nobody"), "--encoder nobody", "minilm")
    one_line(foster("distill", data, "--encoder", "no-such-org/no-such-model"), "hub", "--encoder FOLDER")
    config = json.loads((encoder / "config.json").read_text())
    for change in (
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"architectures": ["BertLMHeadCausalLM"]},
        {"model_type": "no-such-type"},
    ):
        (encoder / "config.json").write_text(json.dumps(config | change))
        one_line(foster("distill", data, "--encoder", encoder), "--encoder")
    (encoder / "config.json").write_text(json.dumps(config))
    (encoder / "model.safetensors").write_bytes(b"no weights")
    one_line(foster("distill", data, "--encoder", encoder), "--encoder")
    (encoder / "model.safetensors").unlink()
    one_line(foster("distill", data, "--encoder", encoder), "model.safetensors")
    one_line(foster("preprocess", data, "--encoder", empty, "--out", "out.parquet"), "config.json")


def _full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("change", [lambda t: t.drop(columns="title"), no_titles])
def test_no_text_to_distil(change: Any, foster: Foster, tmp_path: Path, encoder: Path) -> None:
    path = raw(tmp_path, change)
    one_line(foster("distill", path, "--encoder", encoder), "no text at all", "--items id", "--text-columns")


@pytest.mark.usefixtures("untouched")
def test_a_ring_of_links(foster: Foster, tmp_path: Path, encoder: Path) -> None:
    ring = tmp_path / "ring.csv"
    ring.symlink_to(ring)
    one_line(foster("distill", ring, "--encoder", encoder), "ring.csv", "symbolic links")
    one_line(foster("preprocess", ring, "--out", "out.parquet"), "ring.csv", "symbolic links")
    one_line(foster("compare", ring, "--encoder", encoder), "ring.csv", "symbolic links")


def test_a_title_longer_than_a_bundle_holds_is_cut(foster: Foster, tmp_path: Path, encoder: Path) -> None:
    path = raw(tmp_path, lambda table: table.assign(title="word " * 20_000 + table["item_id"]))
    few = ("--encoder", encoder, "--budget", "2", "--steps", "0", "--epochs", "1", "--student-steps", "1")
    assert foster("distill", path, *few, "--out", "bundle").code == 0
    said = foster("verify", "bundle")
    assert said.code == 0, said
    assert pd.read_parquet("bundle/items.parquet")["title"].str.len().unique().tolist() == [65_536]


@pytest.mark.usefixtures("untouched")
def test_a_full_disk(
    foster: Foster, data: Path, encoder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--encoder", encoder, "--budget", "2", "--steps", "0", "--epochs", "1", "--student-steps", "1")
    with monkeypatch.context() as m:
        m.setattr("pyarrow.parquet.ParquetWriter.write_table", _full)
        one_line(foster("preprocess", data, "--encoder", encoder, "--out", "out.parquet"), "disk is full")
    with monkeypatch.context() as m:
        m.setattr("pandas.DataFrame.to_parquet", _full)
        one_line(foster("sample", "--users", "20", "--items", "20", "--out", "shop.parquet"), "disk is full")
        for where in ("runs", "."):
            one_line(foster("distill", data, *few, "--out", f"{where}/bundle"), "disk is full")
            assert files(tmp_path / "work" / where) & {"bundle", "bundle.run"} == {"bundle.run"}
    for where in ("runs", "."):  # with room again, what was done is not done again
        said = foster("distill", "--resume", f"{where}/bundle")
        assert said.code == 0 and f"{where}/bundle".removeprefix("./") in said.out, said
        shutil.rmtree(tmp_path / "work" / where / "bundle")
    before = files(made)
    with monkeypatch.context() as m:
        m.setattr("os.replace", _full)
        m.setattr("os.link", _full)
        m.setattr("pathlib.Path.replace", _full)
        one_line(foster("export", made), "disk is full")
        one_line(foster("export", made, "--out", "set.csv"), "disk is full")
    assert files(made) == before
    if Path("/dev/full").exists():
        command = [sys.executable, "-m", "foster_cli", "export", str(made), "--out", "-"]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        one_line(Said(done.returncode, "", done.stderr.decode()), "standard output")


def test_a_full_disk_for_the_cache(
    foster: Foster, data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--encoder", encoder, "--budget", "2", "--steps", "0", "--epochs", "1", "--student-steps", "1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "file" / "cache"))
    one_line(foster("distill", data, *few))
    assert files(tmp_path / "work") <= {"runs"}


def test_nothing_is_overwritten(foster: Foster, data: Path, made: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    one_line(foster("distill", data, "--out", made), "exists", "--out")
    one_line(foster("preprocess", data, "--out", data), ".parquet")
    one_line(foster("export", made, "--format", "parquet", "--out", made / "items.parquet"), "bundle itself")
    one_line(foster("export", made, "--out", made / ".." / made.name / "log.csv"), "bundle itself")
    one_line(foster("eval", made, "--rows", "best"), "--rows best")
    one_line(foster("eval", made, "--k", "ten"), "--k ten")
    one_line(foster("export", made, "--format", "cvs"), "csv")
    one_line(foster("export", made, "--top", "0"), "--top 0")
    one_line(foster("demo", "--out", data), "folder")
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before
    assert shop().to_csv(index=False) == data.read_text()


def test_in_its_own_process(tmp_path: Path, data: Path) -> None:
    for args in (("distill", "missing.csv"), ("preprocess", str(data), "--k-core", "99", "--out", "x.parquet")):
        command = [sys.executable, "-m", "foster_cli", *args]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        one_line(Said(done.returncode, done.stdout, done.stderr))
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_one_line(
    foster: Foster, data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("foster_cli.commands.run.read_data", full)
    said = foster("distill", data)
    assert said.code == 2 and said.err.startswith("foster: out of memory; ") and said.err.count("\n") == 1
