"""A causal LM with LoRA through the real distill, eval and compare; a set evaluated on another encoder's texts.

It takes a minute; alone: `pytest tests/commands/test_llm_command.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from calling import QUICK, Foster, distilled, evaluated, means, shop
from encoders import write_encoder
from safetensors.torch import load_file
from spying import never, spy

from foster_cli.models import frozen
from foster_cli.settings import ModelConfig

#: All but `random`, which takes hundreds of steps.
ROWS = "synthetic,full,untrained,popularity,text_similarity"
LORA = ("--train-layers", "2", "--lora", "4", "--width", "16")


@pytest.fixture
def lm(tmp_path: Path, torch_one: None) -> Path:
    """The folder of a tiny random Qwen3 with bf16 weights."""
    return write_encoder(tmp_path / "lm", texts=shop()["title"], kind="qwen3", dtype="bfloat16")


def test_distill_and_evaluate_with_a_causal_lm(
    foster: Foster, data: Path, lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path.cwd().parent / "cache"
    manifest = distilled(foster, data, "--encoder", lm, *LORA, "--lexical", "256")
    assert manifest["encoder"]["pooling"] == "last" and manifest["encoder"]["lora"] == 4
    assert manifest["item_factor"]["shape"] == [25, 16] and not manifest["metrics"]["stopped"]
    (states,) = (cache / "texts").glob("*.safetensors")
    assert str(load_file(states)["x"].dtype) == "torch.bfloat16"
    anchors = [load_file(p) for p in (cache / "teachers").glob("*/anchor-*.safetensors")]
    assert len(anchors) >= 2
    assert all(
        k.startswith(("sequence.", "head.", "table.", "offset")) or ".lora_" in k for state in anchors for k in state
    )
    B = [k for k in anchors[0] if ".lora_B." in k]
    moved = [max(float(state[k].abs().max()) for k in B) for state in anchors]
    assert min(moved) == 0 < max(moved)  # B is 0 before the first epoch, and learns

    monkeypatch.setattr(frozen.Frozen, "_states", never)  # nothing is computed again
    shutil.rmtree(cache / "teachers")
    distilled(foster, data, "--encoder", lm, *LORA, "--lexical", "256", out="again")
    for name in ("factors.safetensors", "item_factor.safetensors"):  # dropout included, a seed fixes the result
        assert Path("bundle", name).read_bytes() == Path("again", name).read_bytes()

    found = evaluated(foster, "--rows", ROWS)
    assert set(found["rows"]) == set(ROWS.split(","))
    assert found["encoder"]["evaluated"] == found["encoder"]["distilled"] == manifest["encoder"]
    assert len(list((cache / "teachers").glob("*/teacher.json"))) == 1  # eval's full row is the teacher


def test_a_set_is_evaluated_on_the_texts_of_an_llm(foster: Foster, data: Path, encoder: Path, lm: Path) -> None:
    """Table 4's transfer: V stays the distilling encoder's; all rows are of the other one."""
    both = ("--lexical", "256")  # given, or validation would choose it for each encoder
    distilled(foster, data, *both, "--encoder", encoder)
    before = Path("bundle", "item_factor.safetensors").read_bytes()
    own = evaluated(foster, "--rows", ROWS)
    found = evaluated(foster, "--rows", ROWS, "--encoder", lm, *LORA)
    assert found["encoder"]["distilled"]["name"] == str(encoder) and found["encoder"]["evaluated"]["name"] == str(lm)
    assert found["encoder"]["evaluated"] | {"hash": ""} == {
        "name": str(lm), "revision": "local", "hash": "", "train_layers": "2", "pooling": "last", "lora": 4,
    }  # fmt: skip
    model = found["settings"]["model"]
    assert (model["lora"], model["train_layers"], model["width"]) == (4, "2", 16)
    assert Path("bundle", "item_factor.safetensors").read_bytes() == before
    assert means(found, "popularity") == means(own, "popularity")
    assert all(means(found, name) != means(own, name) for name in ("untrained", "text_similarity"))
    distilled(foster, data, *both, "--encoder", lm, *LORA, out="of-lm")  # whose own rows are those, but for `synthetic`
    theirs = evaluated(foster, "--rows", ROWS, bundle="of-lm")
    for name in ("full", "untrained", "text_similarity"):
        assert means(theirs, name) == means(found, name)
    table = foster("eval", "bundle", "--seeds", "1", "--rows", "untrained", "--encoder", lm, *LORA)
    assert table.code == 0
    title = " ".join(table.out.split())
    assert f"distilled with {ModelConfig.backbone} on {encoder} (train layers none)" in title
    assert f"evaluated with {ModelConfig.backbone} on {lm} (train layers 2, LoRA 4)" in title


def test_what_eval_replaces_and_what_it_keeps(foster: Foster, data: Path, encoder: Path, lm: Path) -> None:
    distilled(foster, data, "--encoder", lm, *LORA, "--pooling", "mean", "--cache-precision", "bf16")
    rows = ("--rows", "untrained")

    def asked(*options: Any) -> dict[str, Any]:
        settings: dict[str, Any] = evaluated(foster, *rows, *options)["settings"]["model"]
        return settings

    kept = asked()
    assert (kept["pooling"], kept["lora"], kept["width"], kept["cache_precision"]) == ("mean", 4, 16, "bf16")
    other = asked("--encoder", encoder, "--train-layers", "none", "--width", "own")
    assert (other["pooling"], other["lora"], other["width"], other["cache_precision"]) == (None, None, None, None)
    assert asked("--train-layers", "1")["lora"] is None  # without --lora the layers themselves learn
    assert asked("--lora", "2")["train_layers"] == "2" and asked("--pooling", "last")["pooling"] == "last"
    assert asked("--lora-alpha", "2")["lora"] == 4
    assert asked("--precision", "bf16", "--width", "8")["width"] == 8
    for options, word in (
        (("--width", "wide"), "--width wide"), (("--lora-alpha", "4", "--train-layers", "1"), "--lora-alpha"),
        (("--lora", "4", "--train-layers", "none"), "--train-layers none"), (("--pooling", "max"), "--pooling max"),
        (("--encoder", "/no/such"), "/no/such"), (("--width", "0"), "--width 0"),
    ):  # fmt: skip
        said = foster("eval", "bundle", *rows, *options)
        assert said.code == 2 and word in said.err and len(said.err.splitlines()) == 1, said.err


def test_an_encoder_that_is_gone_or_changed_can_be_replaced(
    foster: Foster, data: Path, encoder: Path, lm: Path
) -> None:
    distilled(foster, data, "--encoder", encoder)
    with (encoder / "tokenizer.json").open("a") as f:
        f.write("\n")
    said = foster("eval", "bundle", "--rows", "untrained")
    assert said.code == 2 and "is another than the bundle was made with" in said.err
    shutil.rmtree(encoder)
    said = foster("eval", "bundle", "--rows", "untrained")
    assert said.code == 2 and str(encoder) in said.err
    found = evaluated(foster, "--rows", "untrained,synthetic", "--encoder", lm)
    assert set(found["rows"]) == {"untrained", "synthetic"}


def test_lora_in_a_text_encoder_and_in_a_comparison(foster: Foster, data: Path, encoder: Path, lm: Path) -> None:
    manifest = distilled(foster, data, "--encoder", encoder, "--train-layers", "1", "--lora", "2", "--lora-alpha", "8")
    assert (manifest["encoder"]["pooling"], manifest["encoder"]["lora"]) == ("mean", 2)
    said = foster(
        "compare", data, "--methods", "rollout", "--budget", "3", "--length", "6", "--epochs", "1", "--rates", "1e-3",
        "--draws", "1", "--student-steps", "10", "--seeds", "1", "--encoder", lm, *LORA, "--out", "compared", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {"rollout", "full", "untrained", "text_similarity"} <= set(found["rows"])
    made = json.loads(next(Path("compared").glob("*/bundle.json")).read_text())
    assert made["model"]["lora"] == 4 and made["encoder"]["name"] == str(lm)


SMALL = ("--budget", "3", "--length", "6", "--steps", "2", "--epochs", "1", "--draws", "1", "--student-steps", "10",
         "--seeds", "1")  # fmt: skip


def test_lora_and_pooling_in_ablate_sweep_and_tune(foster: Foster, data: Path, lm: Path) -> None:
    """What these make has the LoRA and the pooling that were asked for, and an answer of tune keeps them."""
    model = ("--encoder", lm, "--pooling", "mean", "--lora", "4", "--lora-alpha", "8", "--width", "16")
    layers = ("--train-layers", "2")

    def made(folder: str) -> set[tuple[Any, ...]]:
        bundles = [json.loads(p.read_text()) for p in Path(folder).rglob("bundle.json")]
        return {(*(b["model"][k] for k in ("train_layers", "lora", "lora_alpha")), b["encoder"]["pooling"])
                for b in bundles}  # fmt: skip

    for name, options in (
        ("ablate", (*model, "--rows", "no_dh", "--layers", "2,1")),
        ("sweep", (*model, *layers, "--over", "lambda=0,1", "--no-plot")),
        ("tune", (*model, *layers, "--trials", "1", "--check-every", "1")),
    ):
        said = foster(name, data, *SMALL, *options, "--out", name, "--json")
        assert said.code == 0, said.err
        assert made(name) == {(n, 4, 8.0, "mean") for n in (("2", "1") if name == "ablate" else ("2",))}
    own = json.loads(Path("tune", "settings.json").read_text())["model"]
    assert (own["lora"], own["lora_alpha"], own["pooling"], own["precision"]) == (4, 8.0, "mean", "fp32")
    said = foster("ablate", data, *SMALL, *model, "--layers", "none,2")
    assert said.code == 2 and said.err.startswith("foster: --lora 4: --layers none,2 has rows without any; "), said.err


def test_a_set_of_ids_has_an_encoder_for_its_row_of_texts(foster: Foster, data: Path, encoder: Path, lm: Path) -> None:
    distilled(foster, data, "--items", "id", "--width", "8", "--encoder", encoder)
    rows = ("--rows", "untrained,text_similarity")
    own, found = evaluated(foster, *rows), evaluated(foster, *rows, "--encoder", lm)
    assert found["encoder"] == {"distilled": None, "evaluated": None}
    assert means(own, "untrained") == means(found, "untrained")
    assert means(own, "text_similarity") != means(found, "text_similarity")
    said = foster("eval", "bundle", *rows, "--lora", "4")
    assert said.code == 2 and "--items id has no text encoder" in said.err
    assert foster("eval", "bundle", *rows, "--seeds", "1").code == 0


def test_preprocess_counts_the_tokens_of_a_causal_lm(foster: Foster, data: Path, lm: Path) -> None:
    said = foster("preprocess", data, "--out", "out.parquet", "--encoder", lm, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["text_tokens"]["mean"] == pytest.approx(3.0)  # two words and a number


def test_interrupted_reading_of_texts_goes_on(
    foster: Foster, data: Path, lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = (*QUICK, "--steps", "0", "--student-steps", "2")
    monkeypatch.setattr(frozen, "CHUNK_TOKENS", 12)
    calls: list[object] = []

    def stops(given: dict[str, Any]) -> None:
        calls.append(given["ids"])
        if len(calls) == 3:
            raise KeyboardInterrupt

    spy(monkeypatch, frozen, "_below", stops)
    said = foster("distill", data, *quick, "--encoder", lm, *LORA, "--out", "bundle")
    assert said.code == 130 and not Path("bundle").exists()
    texts = Path.cwd().parent / "cache" / "texts"
    assert len(list(texts.glob("*.part"))) == 1 and not list(texts.glob("*.safetensors"))
    said = foster("distill", data, *quick, "--encoder", lm, *LORA, "--out", "bundle")
    assert said.code == 0 and "continuing after" in said.err
    monkeypatch.setenv("FOSTER_CACHE", str(Path.cwd() / "other-cache"))
    distilled(foster, data, *quick, "--encoder", lm, *LORA, out="uninterrupted")
    for name in ("factors.safetensors", "item_factor.safetensors"):
        assert Path("bundle", name).read_bytes() == Path("uninterrupted", name).read_bytes()
