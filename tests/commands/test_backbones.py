"""`--backbone` and `--items` through the real distill and eval: what is trained, what is recorded, what is needed.

It takes a minute; alone: `pytest tests/commands/test_backbones.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calling import FEW_ROWS, Foster, distilled, evaluated, means

from foster_cli.bundle import load
from foster_cli.evaluate.rows import DEFAULT
from foster_cli.models import recommender, source
from foster_cli.models.backbones import BACKBONES
from foster_cli.settings import ModelConfig

TRAINED = ("synthetic", "full", "untrained")
OWN = ModelConfig.backbone


@pytest.mark.parametrize("backbone", BACKBONES)
def test_distill_and_evaluate_with_every_backbone(foster: Foster, data: Path, encoder: Path, backbone: str) -> None:
    manifest = distilled(foster, data, "--encoder", encoder, "--backbone", backbone)
    assert manifest["model"]["backbone"] == backbone
    assert not manifest["metrics"]["stopped"]
    found = evaluated(foster, "--rows", "synthetic,full,untrained,item_factor")
    assert list(found["rows"]) == ["synthetic", "full", "untrained", "item_factor"]
    assert found["backbone"] == {"distilled": backbone, "evaluated": backbone}


def test_distilled_with_one_and_evaluated_with_each_other(
    foster: Foster, data: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distilled(foster, data, "--encoder", encoder, "--lexical", "256")
    rows = ("--rows", ",".join((*TRAINED, "popularity", "text_similarity")))
    own = evaluated(foster, *rows)
    trained: list[str] = []
    make = recommender.make_backbone
    monkeypatch.setattr(recommender, "make_backbone", lambda name, *a: trained.append(name) or make(name, *a))
    for backbone in BACKBONES:
        trained.clear()
        found = evaluated(foster, *rows, "--backbone", backbone)
        assert set(trained) == {backbone} and len(trained) >= len(TRAINED)
        assert found["backbone"] == {"distilled": OWN, "evaluated": backbone}
        assert found["settings"]["model"] == {**own["settings"]["model"], "backbone": backbone}
        for name in ("popularity", "text_similarity"):  # no backbone in these
            assert means(found, name) == means(own, name)
        if backbone == OWN:
            assert all(means(found, name) == means(own, name) for name in TRAINED)
        if backbone in ("gru4rec", "narm"):  # without a residual path no start hands the last item through
            assert all(means(found, name) != means(own, name) for name in TRAINED)
    table = foster("eval", "bundle", "--seeds", "1", "--rows", "untrained", "--backbone", "narm")
    assert table.code == 0 and f"distilled with {OWN}, evaluated with narm" in " ".join(table.out.split())
    folders = list((Path.cwd().parent / "cache" / "teachers").glob("*/teacher.json"))
    assert len(folders) == len(BACKBONES)  # one teacher each; the default's serves distill and eval


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
def test_items_by_id_need_no_encoder(
    foster: Foster, data: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    monkeypatch.setattr(source, "MINILM_PACKAGE", "no_such_package")  # the default encoder is not there
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", lambda *a, **k: pytest.fail("an encoder was loaded"))
    manifest = distilled(foster, data, "--items", "id", "--backbone", backbone)
    assert manifest["encoder"] is None and manifest["model"]["items"] == "id"
    assert manifest["item_factor"]["shape"] == [25, 64]
    assert load("bundle").V.shape == (25, 64)
    said = foster("eval", "bundle", "--seeds", "1", "--json")
    assert said.code == 0, said.err
    assert set(json.loads(said.out)["rows"]) == set(DEFAULT) - {"text", "synthetic_text", "text_similarity"}
    assert "row text_similarity is left out: the encoder minilm is not installed" in said.err
    asked = foster("eval", "bundle", "--seeds", "1", "--rows", "text_similarity")
    assert asked.code == 2 and "minilm is not installed" in asked.err  # without it there is no table
    assert foster("export", "bundle", "--format", "jsonl", "--out", "-").code == 0


def test_items_by_id_beside_the_texts_of_an_encoder(foster: Foster, data: Path, encoder: Path) -> None:
    """The row of nearest texts is the same as beside a recommender of texts; the trained rows are not."""
    distilled(foster, data, "--items", "id", "--width", "8", "--encoder", encoder)
    ids = evaluated(foster)
    assert list(ids["rows"]) == list(FEW_ROWS)
    assert load("bundle").V.shape == (25, 8)
    evaluated(foster, "--backbone", "hstu", "--rows", "synthetic,full")
    Path("bundle").rename("ids")
    distilled(foster, data, "--width", "8", "--encoder", encoder)
    texts = evaluated(foster)
    assert means(ids, "text_similarity") == means(texts, "text_similarity")
    assert means(ids, "untrained") != means(texts, "untrained")


@pytest.mark.parametrize("init", ["probe", "guided", "rollout", "real", "random"])
def test_every_start_works_on_ids(foster: Foster, data: Path, init: str) -> None:
    manifest = distilled(foster, data, "--items", "id", "--width", "8", "--init", init)
    assert manifest["metrics"]["start"].startswith(init)
