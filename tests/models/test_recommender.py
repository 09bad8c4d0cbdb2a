"""The recommender: its head or its table of items, what it shares with its clones, what an anchor keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender, recommender_factory
from foster_cli.models.source import find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig

L = 6


def _text(n: int = 7, width: int = 12) -> TextEncoder:
    pooled = torch.randn(n, width, generator=torch.Generator().manual_seed(2))
    return TextEncoder(TextCache(pooled, None, None, n, width), None, "mean", False)


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (None, 5), (7, 2)])
def test_heads_must_divide_the_width(width: int | None, heads: int) -> None:
    with pytest.raises(FosterError, match="not divisible"):
        Recommender(_text(), ModelConfig(width=width, heads=heads), L, 0)


def test_an_untrained_head_hands_the_text_through() -> None:
    text = _text()
    same = Recommender(text, ModelConfig(), L, 0)
    assert torch.allclose(same.embed_all(), text.cache.pooled)
    narrow = Recommender(text, ModelConfig(width=4), L, 0)
    W = narrow.head.weight.detach()
    torch.testing.assert_close(W @ W.T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(narrow.embed(torch.tensor([3, 1])), text.cache.pooled[[3, 1]] @ W.T)


def test_embed_all_does_not_depend_on_its_blocks(small_model: Callable[..., Any]) -> None:
    model = small_model(n=11)
    expected = model.embed(torch.arange(11))
    for block in (1, 4, 11, 100):
        torch.testing.assert_close(model.embed_all(block), expected)


def test_a_clone_learns_by_itself_and_shares_the_texts(small_model: Callable[..., Any]) -> None:
    model = small_model()
    before = model.learnables()
    copy = model.clone()
    assert copy.text.cache is model.text.cache
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(1.0)
    assert all(torch.equal(before[k], v) for k, v in model.learnables().items())
    model.restore(copy.learnables())
    assert all(torch.equal(v, copy.learnables()[k]) for k, v in model.learnables().items())


def test_learnables_are_copies(small_model: Callable[..., Any]) -> None:
    model = small_model()
    state = model.learnables()
    kept = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert all(torch.equal(state[k], kept[k]) for k in state)


@pytest.mark.parametrize("name", ["gru4rec", "narm"])
def test_heads_need_not_divide_the_width_where_there_are_none(name: str) -> None:
    model = Recommender(_text(), ModelConfig(backbone=name, heads=5), L, 0)
    assert model(model.embed(torch.arange(4))[None]).shape == (1, 4, 12)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(FosterError, match=r"--backbone lstm.*sasrec, gru4rec, bert4rec, narm, hstu, ligr"):
        Recommender(_text(), ModelConfig(backbone="lstm"), L, 0)


def test_items_by_id_have_embeddings_of_their_own() -> None:
    model = Recommender(2000, ModelConfig(items="id"), L, 0)
    assert model.text is None and model.head is None and (model.n, model.width) == (2000, 64)
    assert model.embed_all().shape == (2000, 64)
    weight = model.table.weight.detach()
    assert torch.equal(model.embed(torch.tensor([7, 3])), weight[[7, 3]])
    assert weight.std().item() == pytest.approx(0.02, rel=0.01) and abs(weight.mean().item()) < 2e-4
    again, other = (Recommender(2000, ModelConfig(items="id"), L, seed) for seed in (0, 1))
    assert torch.equal(weight, again.table.weight) and not torch.equal(weight, other.table.weight)
    assert Recommender(9, ModelConfig(items="id", width=10), L, 0).width == 10
    with pytest.raises(FosterError, match="not divisible"):
        Recommender(9, ModelConfig(items="id", width=9), L, 0)


def test_an_id_table_learns_like_other_parameters_and_is_kept_by_anchors() -> None:
    model = Recommender(9, ModelConfig(items="id", width=8), L, 0)
    assert model.learnables()["table.weight"].shape == (9, 8)
    (group,) = model.groups(1e-3, 5e-5)
    assert any(p is model.table.weight for p in group["params"]) and group["lr"] == 1e-3
    copied = model.clone()
    with torch.no_grad():
        copied.table.weight.add_(1.0)
    assert not torch.equal(copied.embed_all(), model.embed_all())
    model.restore(copied.learnables())
    assert torch.equal(copied.embed_all(), model.embed_all())
    model(model.embed(torch.tensor([1, 2]))[None]).square().sum().backward()
    assert model.table.weight.grad[[1, 2]].abs().sum() > 0 and model.table.weight.grad[3:].abs().sum() == 0


@pytest.mark.parametrize("name", BACKBONES)
def test_a_factory_fixes_weights_and_dropout_by_the_seed(dataset: Any, mean_encoder: Path, name: str) -> None:
    config = ModelConfig(encoder=str(mean_encoder), backbone=name, dropout=0.5)
    for given in (config, replace(config, items="id", width=8)):
        source = find_encoder(str(mean_encoder)) if given.items == "text" else None
        fresh = recommender_factory(dataset, source, given, L, Session(use_cache=False))
        torch.manual_seed(1)
        a = fresh(3)
        torch.manual_seed(2)  # the global generator has no say
        b, c = fresh(3), fresh(4)
        assert all(torch.equal(v, b.learnables()[k]) for k, v in a.learnables().items())
        assert any(not torch.equal(v, c.learnables()[k]) for k, v in a.learnables().items())
        E = a.embed(torch.arange(12).view(2, 6))
        assert torch.equal(a.train()(E), b.train()(E)) and not torch.equal(a(E), a.eval()(E))
        own = a.clone()
        assert torch.equal(own(E), a(E))
        with torch.no_grad():
            for p in own.parameters():
                p.add_(0.1)
        assert not torch.equal(own(E), a(E))  # its weights are its own, and the ones that are used
