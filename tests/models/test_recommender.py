"""The recommender: its head or its table of items, what it shares with its clones, what an anchor keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weights import enlarged

from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender, known_items, recommender_factory
from foster_cli.models.source import find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig

L = 6
PAPER = ModelConfig(items="text", bias=False, lexical=0)
#: Items 2 and 5 of seven do not occur in training.
KNOWN = torch.tensor([True, True, False, True, True, False, True])


def _text(n: int = 7, width: int = 12) -> TextEncoder:
    pooled = torch.randn(n, width, generator=torch.Generator().manual_seed(2))
    return TextEncoder(TextCache(pooled, None, None, n, width), None, "mean", False)


def _both(known: torch.Tensor | None = KNOWN, stir: bool = True, **more: Any) -> Recommender:
    """A vector per item beside its text, in eval mode; with `stir`, with weights that are not those of the start."""
    model = Recommender(_text(), ModelConfig(**{"width": 8, **more}), L, 0, known=known)
    return (enlarged(model) if stir else model).eval()


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (None, 5), (7, 2)])
@pytest.mark.parametrize("items", ["both", "text"])
def test_heads_must_divide_the_width(width: int | None, heads: int, items: str) -> None:
    with pytest.raises(FosterError, match="not divisible"):
        Recommender(_text(), ModelConfig(width=width, heads=heads, items=items), L, 0)


@pytest.mark.parametrize("config", [PAPER, ModelConfig(width=12)])
def test_an_untrained_head_hands_the_text_through(config: ModelConfig) -> None:
    """With a vector per item too: it starts at 0."""
    text = _text()
    same = Recommender(text, config, L, 0)
    assert torch.allclose(same.embed_all(), text.cache.pooled)
    narrow = Recommender(text, replace(config, width=4), L, 0)
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
    model = Recommender(_text(), ModelConfig(backbone=name, heads=5, width=12), L, 0)
    assert model(model.embed(torch.arange(4))[None]).shape == (1, 4, 12)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(FosterError, match=r"--backbone lstm.*sasrec, .*gru4rec, bert4rec, narm, hstu, ligr"):
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
    for given in (config, replace(config, items="text", bias=False), replace(config, items="id", width=8)):
        source = None if given.items == "id" else find_encoder(str(mean_encoder))
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


def test_the_width_is_64_unless_items_are_texts_alone_or_layers_of_their_encoder_learn() -> None:
    texts = _text(9, 128)
    assert Recommender(texts, ModelConfig(), L, 0).width == 64 == Recommender(9, ModelConfig(items="id"), L, 0).width
    assert Recommender(texts, ModelConfig(items="text"), L, 0).width == 128
    assert Recommender(texts, ModelConfig(train_layers="2"), L, 0).width == 128
    assert all(Recommender(texts, ModelConfig(items=items, width=10), L, 0).width == 10 for items in ("both", "text"))


def test_an_item_is_its_text_and_its_vector_and_a_new_one_its_text_and_the_shared_offset() -> None:
    model, text = _both(), _text().cache.pooled.double().numpy()
    W, b = (x.detach().double().numpy() for x in (model.head.weight, model.head.bias))
    expected = text @ W.T + b
    expected[KNOWN.numpy()] += model.table.weight.detach().double().numpy()[KNOWN.numpy()]
    expected[~KNOWN.numpy(), -1] += float(model.offset)
    assert abs(float(model.offset)) > 0.01
    np.testing.assert_allclose(model.embed_all().numpy(), expected, atol=1e-5)
    order = torch.tensor([5, 0, 5, 3])
    np.testing.assert_allclose(model.embed(order).detach().numpy(), expected[order.numpy()], atol=1e-5)


def test_an_item_that_is_not_in_training_never_gets_a_vector() -> None:
    for model in (_both(), _both(bias=False), _table()):
        model.train()
        E = model.embed(torch.arange(7))
        H = model(E[:5][None])
        (H[0] @ E.T).logsumexp(-1).sum().backward()
        grad = model.table.weight.grad
        assert not grad[~KNOWN].any() and grad[KNOWN].abs().amax(1).min() > 0
        before = model.eval().embed_all()
        with torch.no_grad():
            model.table.weight.add_(1.0)
        moved = (model.embed_all() - before).abs().amax(1)
        assert moved[~KNOWN].max() == 0 and moved[KNOWN].min() > 0.99


def _table() -> Recommender:
    """Items known by their ids alone; a new one is at 0 but for its bias."""
    model = enlarged(Recommender(7, ModelConfig(items="id", width=8), L, 0, known=KNOWN))
    assert not model.embed_all()[~KNOWN][:, :-1].any()
    return model.eval()


@pytest.mark.parametrize(
    ("known", "bias", "there"),
    [(KNOWN, True, True), (KNOWN, False, False), (None, True, False), (KNOWN | True, True, False)],
)
def test_there_is_an_offset_where_there_are_new_items_and_a_bias(
    known: torch.Tensor | None, bias: bool, there: bool
) -> None:
    for items in ("both", "text"):
        model = _both(known, stir=False, bias=bias, items=items)
        assert (model.offset is not None) == there == ("offset" in model.learnables())
        assert model.offset is None or model.offset.item() == 0.0


@pytest.mark.parametrize("name", BACKBONES)
def test_with_a_bias_the_last_coordinate_of_every_output_is_one(name: str) -> None:
    model, plain = (_both(backbone=name, bias=bias) for bias in (True, False))
    plain.restore({k: v for k, v in model.learnables().items() if k != "offset"})
    X = torch.randn(3, L, 8, generator=torch.Generator().manual_seed(1))
    chosen, last = torch.arange(L) % 2 == torch.arange(3)[:, None] % 2, torch.tensor([5, 0, 3])
    places = chosen.flatten().nonzero()[:, 0]
    Z = X.clone()
    Z[..., -1] = 0  # the bias of an item that was read says nothing about the next one
    for H, h in (
        (model(X), plain(Z)), (model.at(X, places), plain.at(Z, places)), (model.last(X, last), plain.last(Z, last))
    ):  # fmt: skip
        assert H.shape == h.shape and bool((H[..., -1] == 1).all()) and not (h[..., -1] == 1).any()
        torch.testing.assert_close(H[..., :-1], h[..., :-1])
    torch.testing.assert_close(model.at(X, places), model(X)[chosen])
    torch.testing.assert_close(model.last(X, last), model(X)[torch.arange(3), last])


def test_a_bias_is_added_to_every_score_whatever_the_history() -> None:
    model = _both()
    X = torch.randn(4, L, 8)
    before, biases = model(X) @ model.embed_all().T, torch.linspace(-1, 1, 7)
    with torch.no_grad():
        model.table.weight[:, -1] += biases
        model.offset += 0.5
    moved = model(X) @ model.embed_all().T - before
    torch.testing.assert_close(moved, torch.where(KNOWN, biases, 0.5).expand_as(moved), atol=1e-5, rtol=1e-5)


def test_in_training_whole_vectors_are_left_out_and_never_in_evaluation() -> None:
    model = _both(vector_dropout=0.3, dropout=0.0)
    items = torch.arange(7).repeat(400)
    with torch.no_grad():
        whole = model.embed(items)
        assert torch.equal(whole, model.eval().embed(items))
        alone = whole - torch.where(KNOWN[items, None], model.table(items), 0.0)
        found = model.train().embed(items)
    kept, left = ((found - x).abs().amax(1) < 1e-6 for x in (whole, alone))
    assert bool((kept | left).all()) and bool((kept & left)[~KNOWN[items]].all())
    rate = left[KNOWN[items]].double().mean().item()
    assert rate == pytest.approx(0.3, abs=0.05)  # 2,000 draws: 5 standard deviations
    model.sequence.seed_dropout(3)
    first, second = model.embed(items), model.embed(items)
    model.sequence.seed_dropout(3)
    assert torch.equal(first, model.embed(items)) and not torch.equal(first, second)
    for other in (_both(vector_dropout=0.0, dropout=0.0).train(), _table().train()):
        expected = other.eval().embed_all()
        torch.testing.assert_close(other.train().embed(torch.arange(7)), expected)  # nothing stands in for an id


def test_an_anchor_keeps_vectors_and_offset_and_a_clone_has_its_own() -> None:
    model, other = _both(), _both(stir=False)
    state = model.learnables()
    assert {"table.weight", "head.weight", "head.bias", "offset"} <= state.keys() and state["offset"].shape == ()
    assert "known" not in state
    copy = model.clone()
    with torch.no_grad():
        copy.table.weight.add_(1.0)
        copy.offset.add_(1.0)
    assert torch.equal(copy.known, KNOWN)
    assert all(torch.equal(v, state[k]) for k, v in model.learnables().items())
    other.restore(copy.learnables())
    assert torch.equal(other.embed_all(), copy.embed_all()) and not torch.equal(other.embed_all(), model.embed_all())
    (group,) = other.groups(1e-3, 5e-5)
    assert {id(p) for p in group["params"]} == {id(p) for p in other.parameters()}


def test_only_texts_alone_are_a_linear_map_of_something_frozen() -> None:
    texts = _text().cache.pooled
    assert torch.equal(_both(items="text", bias=False).frozen_texts(), texts)
    assert torch.equal(_both(None, items="text").frozen_texts(), texts)
    assert all(model.frozen_texts() is None for model in (_both(), _both(items="text"), _table()))


def test_known_items_are_those_of_the_training_split(dataset_of: Callable[..., Any]) -> None:
    rows = [(0, 4, 0), (0, 1, 0), (1, 1, 0), (0, 2, 1), (1, 5, 2), (1, 4, 2), (1, 6, 0)]
    data = dataset_of(rows, 8, [""] * 8)
    assert known_items(data).nonzero()[:, 0].tolist() == [1, 4, 6]
    fresh = recommender_factory(data, None, ModelConfig(items="id", width=8), L, Session(use_cache=False))
    assert torch.equal(fresh(0).known, known_items(data)) and fresh(0).offset is not None


def test_fresh_recommenders_start_on_the_principal_components_with_lexical_vectors(
    dataset: Any, mean_encoder: Path
) -> None:
    """An untrained recommender ranks items as their centred text vectors do, and has no bias yet."""
    config = ModelConfig(encoder=str(mean_encoder), width=40)
    fresh = recommender_factory(dataset, find_encoder(str(mean_encoder)), config, L, Session(use_cache=False))
    E, texts = fresh(0).embed_all().double().numpy(), fresh(0).text.all(torch.device("cpu")).double().numpy()
    assert texts.shape[1] > 40 > np.linalg.matrix_rank(texts - texts.mean(0))  # 30 items: nothing is lost
    centred = texts - texts.mean(0)
    scale = np.linalg.norm(centred, axis=1).mean()
    np.testing.assert_allclose(E @ E.T, centred @ centred.T / scale**2, atol=1e-4)
    assert not E[:, -1].any() and np.array_equal(E, fresh(1).embed_all().double().numpy())
