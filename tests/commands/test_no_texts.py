"""Data whose items have no texts: what reads texts is refused before any training, and --items id does everything."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from calling import QUICK, Foster, ok, one_line

from foster_cli.data.prepare import load_dataset, write_prepared
from foster_cli.data.schema import Catalogue
from foster_cli.data.store import dataset_hash

ID = (*QUICK, "--items", "id", "--width", "16")
NEEDS = "synthetic_text, text, knn_tfidf, tfidf, text_similarity"


@pytest.fixture
def bare(data: Path, tmp_path: Path) -> Path:
    """A prepared file without texts; titles are the ids."""
    made = load_dataset(data)
    catalogue = Catalogue(made.catalogue.ids, made.catalogue.ids, [""] * len(made.catalogue))
    found = dataset_hash(made.user_ids, catalogue, made.interactions)
    write_prepared(dataclasses.replace(made, catalogue=catalogue, hash=found), tmp_path / "bare.parquet")
    return tmp_path / "bare.parquet"


@pytest.mark.parametrize(
    "words",
    [("distill", *QUICK), ("distill", *QUICK, "--items", "text"), ("distill", "--method", "random"),
     ("compare", "--methods", "random"), ("ablate",), ("tune", "--trials", "1")],
    ids=" ".join,
)  # fmt: skip
def test_texts_are_missed_before_any_training(
    foster: Foster, bare: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("train.trials", "distill.pipeline", "baselines.coreset"):
        monkeypatch.setattr(f"foster_cli.{where}.full_teacher", lambda *_, **__: pytest.fail("a teacher"))
    said = foster(words[0], bare, *words[1:])
    one_line(said, "no text at all", "use --items id, or name columns that hold texts with --text-columns a,b")
    assert not any(Path().iterdir())


def test_a_teacher_that_reads_texts_is_refused(foster: Foster, bare: Path) -> None:
    said = foster("distill", bare, *ID, "--teacher", "id,tfidf")
    one_line(said, "--teacher id,tfidf: no text at all", "leave out tfidf")


@pytest.mark.parametrize("raw", [False, True])
def test_ids_alone_do_everything(foster: Foster, bare: Path, data: Path, tmp_path: Path, raw: bool) -> None:
    if raw:
        bare = tmp_path / "events.csv"
        pd.read_csv(data).drop(columns="title").to_csv(bare, index=False)
    ok(foster("distill", bare, *ID, "--out", "b"))
    said = foster("eval", "b", "--seeds", "1")
    assert said.code == 0 and f"rows {NEEDS} are left out: no text at all" in said.err.splitlines(), said.err
    rows = json.loads(Path("b", "eval.json").read_text())["rows"]
    assert "item_knn" in rows and not set(NEEDS.split(", ")) & set(rows)
    for name in ("tfidf", "text_similarity", "text,tfidf"):
        one_line(foster("eval", "b", "--seeds", "1", "--rows", name), "text")
    ok(foster("verify", "b"))
    ok(foster("report", "b"))
    for name in ("jsonl", "csv", "chat", "recbole"):
        assert foster("export", "b", "--format", name).code == 0
    few = ("--items", "id", "--width", "16", "--budget", "3", "--length", "6", "--epochs", "1")
    said = foster("compare", bare, *few, "--methods", "random", "--seeds", "1", "--rates", "1e-3", "--out", "c")
    assert said.code == 0 and "rows text, knn_tfidf, tfidf, text_similarity are left out: no text at all" in said.err
    said = foster("compare", bare, *few, "--methods", "random", "--rows", "tfidf", "--out", "d")
    one_line(said, "--rows tfidf: no text at all")
