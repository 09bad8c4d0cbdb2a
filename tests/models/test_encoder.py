"""Text vectors against a direct computation by transformers; the split into kept and learning layers.

To run it alone: `pytest tests/models/test_encoder.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import read_encoder
from safetensors.torch import load_file, save_file

from foster_cli.cache import cache_dir
from foster_cli.errors import FosterError
from foster_cli.models import frozen
from foster_cli.models.encoder import TextEncoder
from foster_cli.models.lexical import lexical_vectors
from foster_cli.models.recommender import Factory, principal_head, recommender_factory
from foster_cli.models.source import find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig

CPU = torch.device("cpu")
TEXTS = [
    "red lamp", "", "blue iron chair 12 with a large glass knife and a radio", "x", "small", "Red LAMP",
    "large large large large large large large large large large large large large large large large large",
]  # fmt: skip
MAX = 12


def _build(folder: Path, layers: str = "none", texts: list[str] = TEXTS, **more: Any) -> TextEncoder:
    return read_encoder(folder, texts, **{"train_layers": layers, "max_tokens": MAX, **more})


def _direct(folder: Path, pooling: str, normalize: bool) -> np.ndarray:
    """Each text by itself, no padding, straight from transformers, pooled in numpy float64."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=MAX, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state[0].double().numpy()
        row = hidden[0] if pooling == "cls" else hidden.mean(0)
        rows.append(row / np.sqrt((row**2).sum()) if normalize else row)
    return np.stack(rows)


@pytest.fixture(params=["mean", "cls"])
def pooled(request: pytest.FixtureRequest, mean_encoder: Path, cls_encoder: Path) -> tuple[Path, np.ndarray]:
    """A folder and what its vectors must be."""
    if request.param == "mean":
        return mean_encoder, _direct(mean_encoder, "mean", True)
    return cls_encoder, _direct(cls_encoder, "cls", False)


@pytest.mark.parametrize("chunk", [1, 20, 4096])
def test_vectors_are_those_of_transformers_whatever_the_padding(
    pooled: tuple[Path, np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "CHUNK_TOKENS", chunk)
    folder, expected = pooled
    found = _build(folder)
    assert (found.cache.n, found.cache.width, found.top) == (len(TEXTS), 32, None)
    np.testing.assert_allclose(found(torch.arange(len(TEXTS))).numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(found(torch.tensor([4, 0, 4])).numpy(), expected[[4, 0, 4]], atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 30, 4096])
@pytest.mark.parametrize("layers", ["1", "2", "3", "4", "all"])
def test_learning_layers_start_as_the_whole_model(
    pooled: tuple[Path, np.ndarray], layers: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "CHUNK_TOKENS", chunk)
    folder, expected = pooled
    found = _build(folder, layers).eval()
    order = [3, 2, 6, 1, 0, 2]  # out of order and repeated, long beside short
    np.testing.assert_allclose(found(torch.tensor(order)).detach().numpy(), expected[order], atol=2e-5)


@pytest.mark.parametrize("layers", ["1", "2", "3", "4", "all"])
def test_gradients_reach_the_top_layers_only(cls_encoder: Path, layers: str) -> None:
    found = _build(cls_encoder, layers)
    found(torch.tensor([0, 2])).square().sum().backward()
    learning = {k for k, p in found.named_parameters() if p.requires_grad}
    reached = {k for k, p in found.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    # a softmax does not see a constant added to all keys: the key bias has no gradient but rounding
    assert {k for k in learning - reached if "key.bias" not in k} == set()
    per_layer = len([k for k in learning if ".layer.0." in k])
    assert per_layer > 10
    if layers == "all":
        assert any("word_embeddings" in k for k in learning)
        assert any(".layer.3." in k for k in learning)
    else:
        assert len(learning) == per_layer * int(layers)
        assert not any("embeddings" in k for k in learning)


@pytest.mark.parametrize("layers", ["1", "all"])
def test_bf16_differs_from_fp32_by_its_rounding_alone(pooled: tuple[Path, np.ndarray], layers: str) -> None:
    folder, expected = pooled
    found = _build(folder, layers, precision="bf16")
    vectors = found(torch.arange(len(TEXTS)))
    assert vectors.dtype == torch.float32
    error = np.abs(vectors.detach().numpy() - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 2e-2  # bf16 keeps 8 bits: 2**-8 = 4e-3 for each rounding
    vectors.square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in found.parameters())


def test_the_layers_that_do_not_learn_are_exact_in_bf16_too(mean_encoder: Path) -> None:
    kept = [_build(mean_encoder, "2", precision=precision).cache.hidden for precision in ("fp32", "bf16")]
    assert kept[0] is not None and kept[1] is not None
    torch.testing.assert_close(kept[0].values, kept[1].values, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_whole_model(cls_encoder: Path) -> None:
    top, whole = _build(cls_encoder, "2"), _build(cls_encoder, "all")
    weight = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for model in (top, whole):
        (model(torch.tensor([0, 2, 6])) * weight).sum().backward()
    own, full = dict(top.named_parameters()), dict(whole.named_parameters())
    compared = 0
    for layer in (0, 1):
        for name, p in own.items():
            if f".layer.{layer}." in name:
                other = full[name.replace(f".layer.{layer}.", f".layer.{layer + 2}.")]
                torch.testing.assert_close(p.grad, other.grad, atol=1e-4, rtol=1e-3)
                compared += 1
    assert compared == len(own)


@pytest.mark.parametrize("layers", ["5", "99", "0", "-1", "x", "1.5", "", "none ", "ALL"])
def test_a_number_of_layers_that_is_none_is_refused(mean_encoder: Path, layers: str) -> None:
    with pytest.raises(FosterError, match="train-layers"):
        _build(mean_encoder, layers)


def test_a_superscript_is_no_number(mean_encoder: Path) -> None:
    with pytest.raises(FosterError, match="train-layers"):
        _build(mean_encoder, "²")


@pytest.mark.parametrize("layers", ["none", "2"])
def test_the_disk_cache_gives_the_same_and_survives_damage(
    cls_encoder: Path, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    items = torch.arange(len(TEXTS))
    expected = _build(cls_encoder, layers)(items)
    first = _build(cls_encoder, layers, use_cache=True)(items)
    entries = sorted((cache_dir() / "texts").glob("*.safetensors"))
    assert len(entries) == 1 and entries[0].is_relative_to(tmp_path)
    whole = entries[0].read_bytes()

    with monkeypatch.context() as patch:  # from here on nothing may be computed
        for name in ("_pool_all", "_states"):
            patch.setattr(frozen.Frozen, name, lambda *a: pytest.fail("computed again"))
        second = _build(cls_encoder, layers, use_cache=True)(items)
    assert torch.equal(first, expected) and torch.equal(second, expected)

    for damage in (b"", b"junk", whole[: len(whole) // 2]):
        entries[0].write_bytes(damage)
        assert torch.equal(_build(cls_encoder, layers, use_cache=True)(items), expected)
        assert entries[0].read_bytes() == whole
    assert not [p for p in (tmp_path / "texts").iterdir() if p.suffix not in (".safetensors", ".lock", ".json")]


def test_the_cache_tells_texts_encoders_and_lengths_apart(
    mean_encoder: Path, cls_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    other = ["blue", *TEXTS[1:]]
    for texts in (TEXTS, other):
        for folder in (mean_encoder, cls_encoder):
            expected = _build(folder, "none", texts).cache.pooled
            assert torch.equal(_build(folder, "none", texts, use_cache=True).cache.pooled, expected)
    _build(mean_encoder, max_tokens=MAX - 4, use_cache=True)
    assert len(list((tmp_path / "texts").glob("*.safetensors"))) == 5


def test_a_full_disk_while_caching_is_one_line(
    mean_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FosterError, match="disk is full"):
        _build(mean_encoder, use_cache=True)
    assert not [p for p in (tmp_path / "texts").iterdir() if p.suffix != ".lock"]


def test_a_cache_entry_is_readable_by_others(
    mean_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    pooled = _build(mean_encoder, use_cache=True).cache.pooled
    (entry,) = (tmp_path / "texts").glob("*.safetensors")
    assert torch.equal(load_file(entry)["x"], pooled)
    save_file({"x": pooled + 1}, entry)  # it is really this file that is read
    assert torch.equal(_build(mean_encoder, use_cache=True).cache.pooled, pooled + 1)


def _factory(dataset: Any, folder: Path, layers: str, **more: Any) -> Factory:
    config = ModelConfig(encoder=str(folder), train_layers=layers, layers=1, **more)
    return recommender_factory(dataset, find_encoder(str(folder)), config, 6, Session(use_cache=False))


@pytest.mark.parametrize("layers", ["none", "1", "all"])
def test_fresh_recommenders_share_the_texts_but_no_weights(dataset: Any, mean_encoder: Path, layers: str) -> None:
    fresh = _factory(dataset, mean_encoder, layers, lexical=0)
    a, b, c = fresh(1), fresh(1), fresh(2)
    assert a.text.cache is b.text.cache
    assert (a.head is None) == (layers != "none")
    state_a, state_b, state_c = a.learnables(), b.learnables(), c.learnables()
    assert all(torch.equal(state_a[k], state_b[k]) for k in state_a)
    assert any(not torch.equal(state_a[k], state_c[k]) for k in state_a)
    assert all(torch.equal(v, state_c[k]) for k, v in state_a.items() if k.startswith("text."))
    with torch.no_grad():
        for p in a.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, state_b[k]) for k, v in b.learnables().items())
    own, *top = a.groups(1e-3, 5e-5)
    assert own["lr"] == 1e-3 and [g["lr"] for g in top] == ([] if layers == "none" else [5e-5])
    grouped = {id(p) for g in (own, *top) for p in g["params"]}
    assert grouped == {id(p) for p in a.parameters() if p.requires_grad}


def test_the_text_encoder_has_no_dropout_even_in_training(dataset: Any, mean_encoder: Path) -> None:
    model = _factory(dataset, mean_encoder, "all")(0).train()
    items = torch.arange(10)
    assert torch.equal(model.embed(items), model.embed(items))
    assert model.sequence.training


def test_a_narrow_head_starts_as_the_principal_components(mean_encoder: Path) -> None:
    from sklearn.decomposition import PCA

    text = _build(mean_encoder)
    X = text.all(CPU)
    np.testing.assert_array_equal(X.numpy(), np.concatenate([text(torch.tensor([i])).numpy() for i in range(len(X))]))
    weight, bias = principal_head(text, 3, False, CPU)
    found = X.numpy() @ weight.numpy().T + bias.numpy()
    expected = PCA(3, svd_solver="full").fit_transform(X.double().numpy())
    expected /= np.linalg.norm(expected, axis=1).mean()
    signs = np.sign((found * expected).sum(0))  # a component's sign is free
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)
    assert weight.shape == (3, 32) and np.linalg.norm(found, axis=1).mean() == pytest.approx(1.0, abs=1e-4)
    for wide, few in ((4, 3), (33, 32)):  # with a bias, and with more room than there are components
        weight, bias = principal_head(text, wide, True, CPU)
        expected, other = principal_head(text, few, False, CPU)
        torch.testing.assert_close(weight[:-1], expected)
        torch.testing.assert_close(bias[:-1], other)
        assert not weight[-1].any() and bias[-1] == 0


@pytest.mark.parametrize("layers", ["none", "2", "all"])
def test_lexical_vectors_stand_beside_the_encoders(mean_encoder: Path, layers: str) -> None:
    texts = [*TEXTS, "small red lamp", "a blue chair"]
    plain, both = (_build(mean_encoder, layers, texts, lexical=f) for f in (0, 3))
    items = torch.tensor([8, 0, 2, 0])
    lexical = lexical_vectors(texts, 3)
    assert lexical is not None and (both.cache.width, both.cache.features) == (32, 35)
    torch.testing.assert_close(both(items), torch.cat([plain(items), lexical[items]], dim=1), atol=1e-5, rtol=1e-5)
    assert torch.equal(both.cache.to(CPU).lexical, lexical)


def test_texts_that_share_no_word_are_read_by_the_encoder_alone(
    mean_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from foster_cli.console import Console
    from foster_cli.models.encoder import build_text_encoder

    source, texts = find_encoder(str(mean_encoder)), ["red", "blue", "iron lamp"]
    session = Session(use_cache=False, console=Console())
    found = build_text_encoder(texts, source, ModelConfig(), session)
    assert found.cache.lexical is None and found.cache.features == 32
    assert torch.equal(found.all(CPU), _build(mean_encoder, texts=texts).all(CPU))
    assert "no two texts share a word" in capsys.readouterr().err
