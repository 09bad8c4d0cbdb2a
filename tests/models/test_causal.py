"""A causal LM as text encoder: its vectors against transformers, text by text; what is read of its folder.

To run it alone: `pytest tests/models/test_causal.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import read_encoder, write_encoder

from foster_cli.errors import FosterError
from foster_cli.models import frozen
from foster_cli.models.encoder import TextEncoder
from foster_cli.models.pretrained import load_backbone
from foster_cli.models.source import find_encoder

TEXTS = [
    "red lamp", "", "blue iron chair 12 with a large glass knife and a radio", "x", "small", "lamp red",
    "large large large large large large large large large large large large large large large large large",
]  # fmt: skip
MAX = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, torch_one: None) -> Path:
    """A random Qwen3 of 4 layers, fp32. Read only."""
    return write_encoder(tmp_path_factory.mktemp("causal") / "fp32", texts=TEXTS, kind="qwen3")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, torch_one: None) -> Path:
    """The same in bf16, as real ones are published. Read only."""
    return write_encoder(tmp_path_factory.mktemp("causal") / "bf16", texts=TEXTS, kind="qwen3", dtype="bfloat16")


def _build(folder: Path, layers: str = "none", pooling: str | None = None, **more: Any) -> TextEncoder:
    return read_encoder(folder, TEXTS, train_layers=layers, max_tokens=MAX, pooling=pooling, **more)


def _direct(folder: Path, pooling: str, below: int | None = None) -> list[np.ndarray]:
    """Each text by itself, no padding, straight from transformers, pooled in float64; or the states below a layer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=MAX)["input_ids"] or [tokenizer.eos_token_id]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        hidden = states[-1 if below is None else below][0].double().numpy()
        rows.append(hidden if below is not None else hidden[-1] if pooling == "last" else hidden.mean(0))
    return rows


@pytest.mark.parametrize("chunk", [1, 20, 4096])
@pytest.mark.parametrize("layers", ["none", "1", "3", "4", "all"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_are_those_of_transformers_whatever_the_padding(
    folder: Path, pooling: str, layers: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "CHUNK_TOKENS", chunk)
    found = _build(folder, layers, pooling)
    order = [3, 2, 6, 1, 0, 2, 5]  # out of order and repeated, long beside short
    expected = np.stack(_direct(folder, pooling))[order]
    np.testing.assert_allclose(found(torch.tensor(order)).detach().numpy(), expected, atol=3e-5)
    assert not np.allclose(expected[4], expected[6], atol=0.1)  # the order of the words counts


def test_the_last_token_is_the_default_and_part_of_the_identity(folder: Path, mean_encoder: Path) -> None:
    plain, last, mean = (find_encoder(str(folder), pooling) for pooling in (None, "last", "mean"))
    assert (plain.pooling, plain.causal, mean.pooling) == ("last", True, "mean")
    assert plain.hash == last.hash != mean.hash
    encoder = find_encoder(str(mean_encoder))
    assert (encoder.pooling, encoder.causal) == ("mean", False)
    assert find_encoder(str(mean_encoder), "last").normalize  # the rest stays as it was trained
    assert find_encoder(str(mean_encoder), "mean").hash == encoder.hash
    with pytest.raises(FosterError, match=r"first token.*--pooling last or mean"):
        find_encoder(str(folder), "cls")


def test_the_last_token_of_an_encoder_is_its_last_one(mean_encoder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    found = _build(mean_encoder, pooling="last").cache.pooled
    tokenizer, model = AutoTokenizer.from_pretrained(mean_encoder), AutoModel.from_pretrained(mean_encoder).eval()
    ids = tokenizer(TEXTS[2], truncation=True, max_length=MAX, return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).last_hidden_state[0, -1]
    torch.testing.assert_close(found[2], expected / expected.norm(), atol=2e-5, rtol=1e-4)


def test_an_embedding_model_pools_and_normalises_as_its_files_say(folder: Path, tmp_path: Path) -> None:
    """The files of Qwen3-Embedding: last token, normalised."""
    copy = Path(shutil.copytree(folder, tmp_path / "embedding"))
    kinds = ("Transformer", "Pooling", "Normalize")
    (copy / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{k}"} for k in kinds]))
    (copy / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    (copy / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    assert (find_encoder(str(copy)).pooling, find_encoder(str(copy)).normalize) == ("last", True)
    expected = np.stack(_direct(folder, "last"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(_build(copy, "2")(torch.arange(7)).detach().numpy(), expected, atol=2e-5)
    (copy / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(FosterError, match="give --pooling"):
        find_encoder(str(copy))
    assert find_encoder(str(copy), "last").pooling == "last"


def test_layers_alone_without_a_head_are_a_causal_lm_too(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    assert find_encoder(str(tmp_path / "bare")).causal
    found = _build(tmp_path / "bare")(torch.arange(7))
    np.testing.assert_allclose(found.numpy(), np.stack(_direct(folder, "last")), atol=3e-5)


# --- 16 bits -------------------------------------------------------------------------------------------------------


def test_weights_of_16_bits_are_loaded_as_they_are_and_what_learns_is_in_fp32(half: Path) -> None:
    model, _ = load_backbone(find_encoder(str(half)))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    found = _build(half, "2")
    assert found.cache.hidden.values.dtype == torch.bfloat16
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    vectors = found(torch.arange(7))
    assert vectors.dtype == torch.float32
    vectors.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in found.parameters())
    assert {p.dtype for p in _build(half, "all").parameters()} == {torch.float32}
    assert _build(half).cache.pooled.dtype == torch.float32


@pytest.mark.parametrize("layers", ["none", "2", "all"])
def test_16_bits_differ_from_32_by_rounding_alone(folder: Path, half: Path, layers: str) -> None:
    expected = np.stack(_direct(folder, "last"))
    found = _build(half, layers)(torch.arange(7)).detach().numpy()
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-4 < error.max() < 4e-2  # a rounding of 2**-9 in every weight, state and layer


def test_kept_states_are_those_below_the_layers_that_learn(folder: Path, half: Path) -> None:
    for path, precision, dtype, most in (
        (folder, None, torch.float32, 1e-5), (folder, "bf16", torch.bfloat16, 2.0**-8),
        (half, None, torch.bfloat16, 0.03),
    ):  # fmt: skip
        hidden = _build(path, "1", cache_precision=precision).cache.hidden
        assert hidden.values.dtype == dtype
        for i, expected in enumerate(_direct(path, "last", below=3)):
            row, mask = hidden.padded(torch.tensor([i]))
            assert mask.sum() == len(expected)
            error = np.linalg.norm(row[0].double().numpy() - expected) / np.linalg.norm(expected)
            assert error < most
    assert _build(half, "1", cache_precision="fp32").cache.hidden.values.dtype == torch.float32


def test_kept_in_16_bits_costs_little_beside_the_exact(folder: Path, mean_encoder: Path) -> None:
    for path in (folder, mean_encoder):
        exact = _build(path, "2")(torch.arange(7)).detach()
        found = _build(path, "2", cache_precision="bf16")(torch.arange(7)).detach()
        error = (found - exact).norm(dim=1) / exact.norm(dim=1)
        assert 1e-5 < error.max() < 1e-2


# --- other makes ---------------------------------------------------------------------------------------------------

MAKES = ["qwen2", "llama", "mistral", "phi3", "gemma2", "gemma3_text"]


@pytest.mark.parametrize("kind", MAKES)
def test_the_top_layers_of_other_makes_run_alone(kind: str, tmp_path: Path) -> None:
    shape = {"sliding_window": 4} if kind.startswith("gemma") else {}  # some layers see 4 tokens back
    path = write_encoder(tmp_path / kind, texts=TEXTS, kind=kind, **shape)
    expected = np.stack(_direct(path, "last"))
    for layers in ("1", "3"):
        np.testing.assert_allclose(_build(path, layers)(torch.arange(7)).detach().numpy(), expected, atol=1e-4)


def test_a_make_that_adds_positions_to_what_it_reads_is_refused_with_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
    path = write_encoder(tmp_path / "gpt2", texts=TEXTS, kind="gpt2", **shape)
    expected = np.stack(_direct(path, "last"))
    for layers in ("none", "all"):
        np.testing.assert_allclose(_build(path, layers)(torch.arange(7)).detach().numpy(), expected, atol=1e-4)
    monkeypatch.setattr(frozen.Frozen, "hidden_states", lambda *a: pytest.fail("all texts were read first"))
    with pytest.raises(FosterError, match=r"cannot run alone; use --train-layers none or all"):
        _build(path, "2")


def test_states_of_another_encoder_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    _build(folder, "2", use_cache=True)
    (entry,) = (tmp_path / "texts").glob("*.safetensors")
    whole = entry.read_bytes()
    rows = whole[len(whole) - 4 * 32 * 27 :]  # 27 tokens of width 32 in fp32
    entry.write_bytes(whole[: -len(rows)] + rows[128:] + rows[:128])  # as long as before, every row in another's place
    with pytest.raises(FosterError, match="not those of this encoder"):
        _build(folder, "2", use_cache=True)


# --- what is refused -----------------------------------------------------------------------------------------------


def _refused(folder: Path, match: str) -> None:
    with pytest.raises(FosterError, match=match) as caught:
        load_backbone(find_encoder(str(folder)))
    assert "\n" not in str(caught.value) and caught.value.hint


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_decoder_of_an_encoder_is_refused(folder: Path, mean_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "t5"))
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    (copy / "config.json").write_text(json.dumps(config))
    _refused(copy, "T5ForConditionalGeneration has a decoder that reads an encoder's output")
    copy = Path(shutil.copytree(mean_encoder, tmp_path / "bert"))
    _config(copy, architectures=["BertLMHeadModel"])
    _refused(copy, "BertLMHeadModel is neither an encoder nor a causal LM")


def test_a_pickle_is_not_taken_for_weights(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "pickle"))
    torch.save({}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    _refused(copy, "no model.safetensors")


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "code"))
    mark = tmp_path / "ran"
    for name in ("configuration_own.py", "modeling_own.py", "tokenization_own.py"):
        (copy / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("asked whether to run it"))
    _config(copy, auto_map=own)  # a make that transformers knows: its own code is taken
    load_backbone(find_encoder(str(copy)))
    _config(copy, model_type="own-make")
    _refused(copy, "cannot be loaded")
    assert not mark.exists()


def test_a_text_without_a_token_needs_one_that_stands_for_it(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bare"))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    for name in ("eos_token", "unk_token"):
        settings.pop(name, None)
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(FosterError, match=r"1 items have no text.*give every item a text"):
        _build(copy)
