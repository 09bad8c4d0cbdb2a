"""The bits of a bundle's numbers, and bundles of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import sign
from small_set import IDS, MANIFEST, READS, STUDENT, TITLES, numbers, parts, write_set

from foster_cli.bundle import FILES, load
from foster_cli.settings import ModelConfig, Settings
from foster_cli.synthetic.quantise import restored, stored


@pytest.mark.parametrize("bits", [8, 16])
def test_few_bits_come_back_as_what_they_stand_for(tmp_path: Path, bits: int) -> None:
    """low + codes * step and halved numbers, written out with numpy; the factors then have 16 bits too."""
    factors, V = parts()
    tensors = stored(V, bits)
    folder = write_set(tmp_path / "set", V=restored(tensors), stored=tensors, reads=READS)
    found, kept, made = load(folder), numbers(folder, FILES[2]), numbers(folder, FILES[1])
    if bits == 8:
        assert {name: x.dtype for name, x in kept.items()} == {
            "codes": np.uint8, "low": np.float32, "step": np.float32
        }  # fmt: skip
        expected = kept["low"] + kept["codes"].astype(np.float32) * kept["step"]
        assert (np.abs(expected - V.numpy()) <= np.ptp(V.numpy(), axis=0) / 255 / 2 * 1.001).all()
    else:
        assert set(kept) == {"V"} and kept["V"].dtype == np.float16
        expected = V.numpy().astype(np.float16).astype(np.float32)
    assert found.V.dtype == torch.float32 and np.array_equal(found.V.numpy(), expected)
    assert not torch.equal(found.V, V)
    assert {name: x.dtype for name, x in made.items()} == {**dict.fromkeys("UTG", np.float16), "reads": np.int64}
    for name, x in factors.items():
        assert found.factors[name].dtype == torch.float32 and torch.equal(found.factors[name], x.half().float())
        assert np.array_equal(made[name], x.numpy().astype(np.float16))
    assert found.reading.items is not None and torch.equal(found.reading.items, READS)
    Q = np.einsum("ma,tb,abd->mtd", *(made[name].astype(np.float64) for name in "UTG"))
    read = np.exp(expected[READS].astype(np.float64) @ Q[0, 0])
    np.testing.assert_allclose(found.probabilities()[0, 0, READS].numpy(), read / read.sum(), rtol=1e-4)


def test_32_bits_of_the_factor_leave_the_factors_their_own(tmp_path: Path) -> None:
    """As with `--exact`, or where no rounding loses little enough."""
    factors, V = parts()
    found = load(write_set(tmp_path / "set", V=V, stored=stored(V, 32)))
    assert torch.equal(found.V, V) and all(torch.equal(found.factors[name], x) for name, x in factors.items())
    assert numbers(tmp_path / "set", FILES[1])["G"].dtype == numbers(tmp_path / "set", FILES[2])["V"].dtype == "f4"


@pytest.mark.parametrize("name", ["U", "T", "G"])
@pytest.mark.parametrize(("value", "bits"), [(65_504.0, 16), (65_520.0, 32), (-1e6, 32), (3e38, 32)])
def test_factors_that_16_bits_cannot_hold_keep_32(tmp_path: Path, name: str, value: float, bits: int) -> None:
    """65,504 is the largest number of 16 bits, and 65,520 the smallest that they round to infinity. The factors then
    come back exactly, while V stays in 8 bits."""
    factors, V = parts()
    factors[name].view(-1)[1] = value
    tensors = stored(V, 8)
    found = load(write_set(tmp_path / "set", factors=factors, V=restored(tensors), stored=tensors))
    made = numbers(tmp_path / "set", FILES[1])
    assert {8 * x.itemsize for x in made.values()} == {bits}
    expected = {key: x if bits == 32 else x.half().float() for key, x in factors.items()}
    assert all(torch.equal(found.factors[key], x) for key, x in expected.items())
    assert found.factors[name].view(-1)[1] == torch.tensor(value)
    assert numbers(tmp_path / "set", FILES[2])["codes"].dtype == np.uint8 and torch.equal(found.V, restored(tensors))


def test_a_bundle_of_format_2_is_still_read(tmp_path: Path) -> None:
    """Its numbers have 32 bits, its table another codec, and its manifest lacks what came later."""
    manifest: dict[str, Any] = json.loads(json.dumps({**MANIFEST, "format": 2, "metrics": {"best_step": 3}}))
    del manifest["student"]["item_start"], manifest["train"]["recency"]
    del manifest["distill"]["exact"], manifest["distill"]["keep_state"]
    folder = write_set(tmp_path / "set", manifest=manifest)
    pd.DataFrame({"item_id": IDS, "title": TITLES}).to_parquet(folder / FILES[3], index=False)
    sign(folder)
    factors, V = parts()
    found = load(folder)
    assert found.manifest == manifest and found.item_ids == IDS and found.titles == TITLES
    assert torch.equal(found.V, V) and all(torch.equal(found.factors[name], x) for name, x in factors.items())
    assert found.recipe == replace(STUDENT, item_start="text") and found.made.train.recency is None
    assert len(list(found.batches())) == STUDENT.steps


@pytest.mark.parametrize("lacks", [("vector_dropout", "bias", "lexical"), (), ("backbone", "items", "pooling", "lora")])
def test_an_old_manifest_means_the_recommender_of_its_time(lacks: tuple[str, ...]) -> None:
    """SASRec on texts alone, without a bias, lexical vectors or dropped vectors; what a manifest says, holds."""
    told: dict[str, Any] = {
        "items": "both",
        "backbone": "gru4rec",
        "width": 24,
        "vector_dropout": 0.5,
        "bias": True,
        "lexical": 9,
    }
    sections = Settings(model=ModelConfig(**told)).sections()
    for name in lacks:
        del sections["model"][name]
    found = Settings.of_manifest({**sections, "data": {"path": [], "prepare": {}}, "seed": 0, "method": "foster"}).model
    earlier = {"items": "text", "backbone": "sasrec", "vector_dropout": 0.0, "bias": False, "lexical": 0}
    assert found == ModelConfig(**{**told, **{k: v for k, v in earlier.items() if k in lacks}})
