"""Students whose item embeddings start at the item factor of a synthetic set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foster_cli.models import item_start
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.item_start import RIDGE, every_item, least_squares, resized, start_at
from foster_cli.models.recommender import Recommender
from foster_cli.settings import ModelConfig

N, W, L = 40, 12, 6
#: Every fifth item does not occur in training.
KNOWN = torch.arange(N) % 5 > 0


def _model(items: str, width: int = 8, **more: Any) -> Recommender:
    pooled = torch.randn(N, W, generator=torch.Generator().manual_seed(2))
    text: TextEncoder | int = TextEncoder(TextCache(pooled, None, None, N, W), None, "mean", False)
    return Recommender(N if items == "id" else text, ModelConfig(items=items, width=width, **more), L, 0, known=KNOWN)


def _factor(width: int = 8) -> torch.Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("items", ["both", "id"])
def test_a_vector_per_item_starts_at_v_also_for_new_items(items: str) -> None:
    model, V = _model(items), _factor()
    every_item(model)
    assert start_at(model, V) == 0.0
    torch.testing.assert_close(model.eval().embed_all(), V)
    assert model.offset is None and not any("offset" in name for name in model.learnables())


def test_in_training_no_item_is_left_on_its_text() -> None:
    model, V = _model("both", vector_dropout=0.9), _factor()
    every_item(model)
    start_at(model, V)
    torch.testing.assert_close(model.train().embed(torch.arange(N)), V)


def test_every_item_learns_a_vector() -> None:
    """Without that, an item that does not occur in training has none."""
    model = _model("both")
    every_item(model)
    loss = model.embed(torch.arange(N)).square().sum()
    loss.backward()
    assert model.table is not None and model.table.weight.grad is not None
    assert bool((model.table.weight.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("bias", [True, False])
def test_texts_alone_start_at_their_least_squares(bias: bool) -> None:
    """numpy's solution of the same ridge regression, as an augmented system; the biases are those of V."""
    model, V = _model("text", bias=bias), _factor()
    every_item(model)
    left = start_at(model, V)
    assert model.text is not None and model.text.cache.pooled is not None
    A = np.c_[model.text.cache.pooled.double().numpy(), np.ones(N)]
    ridge = np.sqrt(RIDGE * np.square(A).sum() / A.shape[1])
    found = A @ np.linalg.lstsq(
        np.r_[A, ridge * np.eye(A.shape[1])], np.r_[V.double().numpy(), np.zeros((A.shape[1], 8))], rcond=None
    )[0]  # fmt: skip
    if bias:
        found[:, -1] = V[:, -1].numpy()
    np.testing.assert_allclose(model.embed_all().detach().numpy(), found, atol=1e-5)
    V = V.double().numpy()
    assert left == pytest.approx(np.square(found - V).sum() / np.square(V).sum(), rel=1e-4)


def test_what_texts_say_comes_back_with_the_offset_of_new_items() -> None:
    """V of a recommender that knows items by their texts, one offset for all new ones: its students know it whole."""
    teacher, student = _model("text"), _model("text")
    assert teacher.offset is not None and teacher.head is not None
    with torch.no_grad():
        teacher.offset.fill_(-3.0)
        teacher.head.weight.normal_(generator=torch.Generator().manual_seed(6))
    V = teacher.eval().embed_all()
    every_item(student)
    left = start_at(student, V)
    assert left is not None and left < 1e-4
    torch.testing.assert_close(student.eval().embed_all()[:, -1], V[:, -1])
    torch.testing.assert_close(student.clone().embed_all(), student.embed_all())
    assert "biases" not in student.learnables() and student.frozen_texts() is None


def test_least_squares_do_not_depend_on_the_blocks() -> None:
    X, E = torch.randn(N, W, generator=torch.Generator().manual_seed(4)), _factor()
    whole, parts = least_squares([X], E), least_squares(X.split(7), E)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


class _Grams(TorchDispatchMode):
    """Counts the matrix products that have the shape of the texts' Gram matrix."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += func is torch.ops.aten.mm.default and out.shape == (W + 1, W + 1)
        return out


def test_students_on_the_same_texts_share_their_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is computed for the first one, a product for each block; the others start at the very same numbers, also on
    another V, as students with texts of their own."""
    monkeypatch.setattr(item_start, "BLOCK", 16)
    first = _model("text")
    for k, V in enumerate((_factor(), _factor(), _factor().flip(0))):
        shared, alone = first.clone(), _model("text")
        with _Grams() as grams:
            assert start_at(shared, V) is not None
        assert grams.count == (-(-N // 16) if k == 0 else 0)
        with _Grams() as grams:
            assert start_at(alone, V) is not None
        assert grams.count == -(-N // 16)
        assert torch.equal(shared.embed_all(), alone.embed_all())


def test_texts_whose_encoder_learns_share_nothing() -> None:
    """Their vectors differ from model to model."""
    model = _model("text")
    assert model.text is not None
    cache = model.text.cache
    pooled, cache.pooled = cache.pooled, None
    model.text.forward = lambda items: pooled[items]  # type: ignore[method-assign, index]
    assert start_at(model, _factor()) is not None and cache.gram is None


def test_an_encoder_that_learns_without_a_head_is_left_as_it_is() -> None:
    model = _model("text", width=W)
    model.head = None
    before = model.learnables()
    assert start_at(model, _factor(W)) is None
    assert all(torch.equal(x, before[name]) for name, x in model.learnables().items())


@pytest.mark.parametrize("bias", [True, False])
def test_a_smaller_width_keeps_what_a_projection_can(bias: bool) -> None:
    """Eckart and Young: no other E of this width has scores E E^T nearer to those of V; a bias stays one."""
    V, width = _factor(), 5
    E, body = resized(V, width, bias), V[:, :-1] if bias else V
    kept = width - bias
    assert E.shape == (N, width) and (not bias or torch.equal(E[:, -1], V[:, -1]))
    found = E[:, :kept].double() @ E[:, :kept].double().T
    values = np.linalg.svd(body.double().numpy(), compute_uv=False)
    left = np.square(np.square(values[kept:])).sum()
    assert float((found - body.double() @ body.double().T).square().sum()) == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_larger_width_keeps_all_scores_and_the_bias(bias: bool) -> None:
    V = _factor()
    E = resized(V, 13, bias)
    assert E.shape == (N, 13) and (not bias or torch.equal(E[:, -1], V[:, -1]))
    torch.testing.assert_close(E @ E.T, V @ V.T)
    assert resized(V, 8, bias) is V
