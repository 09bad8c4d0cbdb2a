"""LoRA in the top layers: its start, its arithmetic against merged weights, its seeds, what copies share.

To run it alone: `pytest tests/models/test_lora.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import read_encoder, write_encoder

from foster_cli.distill.checks import check_model
from foster_cli.errors import FosterError
from foster_cli.models import lora as lora_module
from foster_cli.models.encoder import TextEncoder
from foster_cli.models.lora import Lora
from foster_cli.models.recommender import Recommender, recommender_factory
from foster_cli.models.source import find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig

TEXTS = ["red lamp", "blue iron chair 12 with a large glass knife", "x", "small lamp"]
#: Linear layers in one layer of each, and (in + out) summed over them.
LINEAR = {"bert": (6, 4 * (32 + 32) + 2 * (32 + 48)), "qwen3": (7, 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, mean_encoder: Path) -> dict[str, Path]:
    """A text encoder and a causal LM of 4 layers, fp32."""
    qwen3 = write_encoder(tmp_path_factory.mktemp("lora") / "qwen3", texts=TEXTS, kind="qwen3")
    return {"bert": mean_encoder, "qwen3": qwen3}


USUAL = Lora(3, 12.0, 0.1)


def _build(folder: Path, layers: str = "2", lora: Lora | None = USUAL, **more: Any) -> TextEncoder:
    if lora is not None:
        more |= {"lora": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return read_encoder(folder, TEXTS, train_layers=layers, max_tokens=16, **more)


def _learning(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {k: p for k, p in model.named_parameters() if p.requires_grad}


def _stir(model: torch.nn.Module, seed: int = 0) -> None:
    """Random A and B, as after some training."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in _learning(model).values():
            p.copy_(torch.empty_like(p).normal_(0.0, 0.3, generator=rng))


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("layers", ["1", "2", "all"])
def test_the_start_is_exactly_the_frozen_model(folders: dict[str, Path], kind: str, layers: str) -> None:
    items = torch.arange(len(TEXTS))
    number = "4" if layers == "all" else layers
    assert torch.equal(_build(folders[kind], layers)(items), _build(folders[kind], number, None)(items))


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("layers", ["1", "2", "all"])
def test_a_and_b_of_every_linear_layer_learn_and_nothing_else(folders: dict[str, Path], kind: str, layers: str) -> None:
    found = _build(folders[kind], layers)
    learning, (linear, width) = _learning(found), LINEAR[kind]
    count = 4 if layers == "all" else int(layers)
    assert all(".lora_A." in k or ".lora_B." in k for k in learning)
    assert len(learning) == 2 * linear * count
    assert sum(p.numel() for p in learning.values()) == 3 * width * count
    assert found.cache.tokens is None and found.cache.hidden is not None  # all below is kept
    found(torch.arange(4)).square().sum().backward()
    for name, p in found.named_parameters():
        reached = p.grad is not None and float(p.grad.abs().max()) > 0
        # at the start B = 0, so that A has no gradient; a softmax sees no constant, so a key's B has little at most
        assert reached or ".lora_B." not in name or re.search(r"\.key\.|q_proj|k_proj", name), name
        assert not reached or ".lora_B." in name, name


@pytest.mark.parametrize("alpha", [3.0, 12.0])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_its_vectors_are_those_of_merged_weights(folders: dict[str, Path], kind: str, alpha: float) -> None:
    """W + alpha / r * B A, put into the whole model by hand and run by transformers on one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    found = _build(folders[kind], "2", Lora(3, alpha, 0.5))
    _stir(found)
    model, tokenizer = AutoModel.from_pretrained(folders[kind]).eval(), AutoTokenizer.from_pretrained(folders[kind])
    learned = {k.removeprefix("top."): p.detach() for k, p in _learning(found).items()}
    merged = 0
    with torch.no_grad():
        for name in [k for k in learned if ".lora_A." in k]:
            a, b = learned[name], learned[name.replace(".lora_A.", ".lora_B.")]
            target = re.sub(r"(layers?)\.(\d)\.", lambda m: f"{m[1]}.{int(m[2]) + 2}.", name.split(".lora_A.")[0])
            model.get_submodule(target).weight += alpha / 3 * b @ a
            merged += 1
    assert merged == 2 * LINEAR[kind][0]
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double()
        row = hidden.mean(0) / hidden.mean(0).norm() if kind == "bert" else hidden[-1]
        rows.append(row.numpy())
    vectors = found(torch.arange(4)).detach().numpy()
    np.testing.assert_allclose(vectors, np.stack(rows), atol=2e-4)
    frozen = _build(folders[kind], "2", None)(torch.arange(4)).detach().numpy()
    assert np.abs(vectors - frozen).max() > 0.01


def _factory(dataset: Any, folder: Path, **changes: Any) -> Any:
    config = ModelConfig(encoder=str(folder), train_layers="2", lora=4, layers=1)
    session = Session(use_cache=False)
    return recommender_factory(dataset, find_encoder(str(folder)), replace(config, **changes), 6, session)


def test_a_seed_fixes_a_and_the_dropout_whatever_else_draws(dataset: Any, folders: dict[str, Path]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    _build(folders["bert"]).start(1)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not drawn from
    fresh = _factory(dataset, folders["bert"], lora_dropout=0.5)
    a = fresh(3)
    torch.manual_seed(2)
    b, c = fresh(3), fresh(4)
    A = [k for k in a.learnables() if ".lora_A." in k]
    assert A and all(torch.equal(a.learnables()[k], b.learnables()[k]) for k in a.learnables())
    assert all(not torch.equal(a.learnables()[k], c.learnables()[k]) for k in A)
    for k in A:
        p = a.learnables()[k]
        assert p.abs().max() <= p.shape[1] ** -0.5 < 1.1 * p.abs().max()  # peft's own start
    for model in (a, b, c):
        _stir(model.text, 5)
    items = torch.arange(10)
    assert torch.equal(a.embed(items), a.embed(items)) and torch.equal(a.embed(items), c.embed(items))  # eval: none
    for model in (a, b, c):
        model.train()
    first, second = a.embed(items), a.embed(items)
    assert not torch.equal(first, second)
    assert torch.equal(first, b.embed(items)) and torch.equal(second, b.embed(items))
    assert not torch.equal(first, c.embed(items))
    a.eval()
    assert torch.equal(a.embed(items), a.embed(items))


def test_the_dropout_is_of_what_a_reads(dataset: Any, folders: dict[str, Path]) -> None:
    """A value is scaled by 1 / (1 - p) or 0; the pretrained layers' own dropout stays off."""
    model = _factory(dataset, folders["bert"], lora_dropout=0.25)(0).train()
    linear = next(m for m in model.text.modules() if hasattr(m, "lora_A"))
    x = torch.ones(2000, linear.in_features)
    y = linear.lora_dropout["default"](x)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    others = [m for m in model.text.modules() if isinstance(m, torch.nn.Dropout)]
    assert others and not any(m.training for m in others)  # the pretrained layers' own
    none = _factory(dataset, folders["bert"], lora_dropout=0.0)(0).train()
    _stir(none.text)
    assert torch.equal(none.embed(torch.arange(5)), none.embed(torch.arange(5)))


def test_copies_share_what_is_frozen_and_learn_by_themselves(dataset: Any, folders: dict[str, Path]) -> None:
    fresh = _factory(dataset, folders["qwen3"])
    a, b = fresh(0), fresh(1)
    c = a.clone()
    own = dict(a.named_parameters())
    shared = 0
    for other in (b, c):
        for name, p in other.named_parameters():
            if name.startswith("text.") and not p.requires_grad:
                assert p is own[name]
                shared += 1
            else:
                assert p is not own[name]
    assert shared > 2 * 2 * 7
    before, vectors = a.learnables(), a.embed_all()
    for p in c.parameters():
        p.requires_grad_(False)  # as the outer step does with phi^T
    with torch.no_grad():
        for name, p in c.named_parameters():
            if "lora" in name or not name.startswith("text."):
                p.add_(0.1)
    assert all(torch.equal(before[k], v) for k, v in a.learnables().items())
    assert torch.equal(a.embed_all(), vectors) and not torch.equal(c.embed_all(), vectors)


def test_what_an_anchor_keeps_is_all_that_learns(dataset: Any, folders: dict[str, Path]) -> None:
    fresh = _factory(dataset, folders["qwen3"], width=16)
    a, b = fresh(0), fresh(1)
    _stir(a.text)
    state = a.learnables()
    parts = {k.split(".")[0] for k in state}
    assert parts == {"text", "head", "table", "sequence"}
    assert all("lora_" in k for k in state if k.startswith("text."))
    b.restore(state)
    assert torch.equal(a.embed_all(), b.embed_all())
    own, top = a.groups(1e-3, 5e-5)
    assert top["lr"] == 5e-5 and {id(p) for p in top["params"]} == {id(p) for p in _learning(a.text).values()}
    assert {id(p) for p in own["params"]} == {id(p) for k, p in _learning(a).items() if not k.startswith("text.")}


def test_bf16_differs_by_rounding_alone(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        exact, found = _build(folder), _build(folder, precision="bf16")
        for model in (exact, found):
            _stir(model)
        a, b = exact(torch.arange(4)).detach(), found(torch.arange(4)).detach()
        assert b.dtype == torch.float32 and 1e-5 < float((a - b).norm() / a.norm()) < 3e-2


def test_alpha_is_four_times_the_rank_without_one() -> None:
    assert Lora.of(ModelConfig(train_layers="2", lora=32)) == Lora(32, 128.0, 0.1)  # the paper's
    assert Lora.of(ModelConfig(train_layers="2", lora=8, lora_alpha=16.0)) == Lora(8, 16.0, 0.1)
    assert Lora.of(ModelConfig(train_layers="2")) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lora": 0}, "--lora 0"), ({"lora": -3}, "--lora -3"),
        ({"lora": 4, "train_layers": "none"}, "--train-layers 2"),
        ({"lora": 4, "items": "id", "train_layers": "none"}, "--items id"),
        ({"lora_alpha": 4.0}, "give a rank too"), ({"lora": 4, "lora_alpha": 0.0}, "--lora-alpha 0"),
        ({"lora": 4, "lora_alpha": float("nan")}, "--lora-alpha nan"), ({"lora": 4, "lora_dropout": 1.0}, "dropout"),
        ({"pooling": "max"}, "--pooling max"), ({"pooling": "last", "items": "id", "train_layers": "none"}, "--items"),
        ({"cache_precision": "fp16"}, "--cache-precision fp16"),
        ({"cache_precision": "bf16", "train_layers": "all"}, "keeps no hidden states"),
        ({"cache_precision": "bf16", "train_layers": "none"}, "keeps no hidden states"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_line(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(FosterError, match=re.escape(match)) as caught:
        check_model(replace(ModelConfig(train_layers="2"), **changes))
    assert caught.value.hint and "\n" not in str(caught.value)


def test_settings_that_fit_are_taken() -> None:
    for layers, lora, kept in (("2", 32, None), ("all", 4, "bf16"), ("1", None, "bf16"), ("none", None, None)):
        check_model(ModelConfig(train_layers=layers, lora=lora, cache_precision=kept, pooling="mean"))


def test_a_missing_peft_names_the_command(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    find = lora_module.importlib.util.find_spec
    monkeypatch.setattr(lora_module.importlib.util, "find_spec", lambda n, *a: None if n == "peft" else find(n, *a))
    with pytest.raises(FosterError, match=r"pip install 'foster-cli\[llm\]'"):
        check_model(ModelConfig(train_layers="2", lora=4))
    check_model(ModelConfig(train_layers="2"))  # without LoRA it is not needed
    assert _build(folders["bert"], "2", None)(torch.arange(2)).shape == (2, 32)


def test_a_peft_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    monkeypatch.setattr(lora_module, "require_peft", lambda: None)
    with pytest.raises(FosterError, match="pip install --upgrade peft"):
        _build(folders["bert"])


def test_a_recommender_without_lora_is_as_before(dataset: Any, folders: dict[str, Path]) -> None:
    fresh = _factory(dataset, folders["bert"], lora=None)
    a, b = fresh(0), fresh(0)
    assert isinstance(a, Recommender) and all("lora" not in k for k in a.learnables())
    assert len([k for k in a.learnables() if k.startswith("text.")]) > 20
    assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}
