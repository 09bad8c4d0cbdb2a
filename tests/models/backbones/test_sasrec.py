"""SASRec: the published equations; causal, indifferent to padding, its dropout seeded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import layer_norm
from weights import enlarged

from foster_cli.models.backbones.sasrec import SASRec

B, L, D = 3, 6, 8


def _x(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _sasrec(dropout: float = 0.0, seed: int = 0) -> SASRec:
    model = SASRec(D, L, 2, 2, dropout, torch.Generator().manual_seed(seed))
    return enlarged(model).double()


def _by_hand(model: SASRec, x: np.ndarray) -> np.ndarray:
    """One sequence (l, d) through the published equations, head by head, position by position."""

    def affine(layer: torch.nn.Linear, v: np.ndarray) -> np.ndarray:
        return v @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    x = x * np.sqrt(D) + model.position.detach().numpy()[: len(x)]
    for block in model.blocks:
        qkv = affine(block.qkv, layer_norm(x, block.norm1))
        q, k, v = qkv[:, :D], qkv[:, D : 2 * D], qkv[:, 2 * D :]
        attended = np.zeros_like(x)
        for h in range(2):
            part = slice(h * D // 2, (h + 1) * D // 2)
            for t in range(len(x)):
                weight = np.array([np.exp(q[t, part] @ k[u, part] / np.sqrt(D / 2)) for u in range(t + 1)])
                weight /= weight.sum()
                attended[t, part] = sum(weight[u] * v[u, part] for u in range(t + 1))
        x = x + affine(block.out, attended)
        x = x + affine(block.down, np.maximum(affine(block.up, layer_norm(x, block.norm2)), 0.0))
    return layer_norm(x, model.norm)


def test_forward_is_the_published_equations() -> None:
    model, x = _sasrec().eval(), _x()
    found = model(x).detach().numpy()
    for b in range(B):
        np.testing.assert_allclose(found[b], _by_hand(model, x[b].numpy()), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("changed", range(L))
def test_a_later_item_changes_no_earlier_output(changed: int) -> None:
    model, x = _sasrec().eval(), _x()
    other = x.clone()
    other[:, changed] = _x(seed=1)[:, changed]
    before, after = model(x), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-12)
    assert (before[:, changed:] - after[:, changed:]).abs().amax((0, 2)).min() > 1e-6  # and every later one does


def test_right_padding_has_no_influence() -> None:
    model, x = _sasrec().eval(), _x()
    for size in range(1, L + 1):
        torch.testing.assert_close(model(x)[:, :size], model(x[:, :size]), rtol=1e-12, atol=1e-12)


def test_last_is_forward_at_that_position() -> None:
    model, x = _sasrec().eval(), _x()
    whole = model(x)
    for last in ([0, 0, 0], [5, 5, 5], [0, 3, 5], [2, 1, 4]):
        at = torch.tensor(last)
        torch.testing.assert_close(model.last(x, at), whole[torch.arange(B), at], rtol=1e-10, atol=1e-12)


def test_dropout_is_off_in_eval_and_fixed_by_its_seed_in_training() -> None:
    model, x = _sasrec(dropout=0.5), _x()
    model.eval()
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), _sasrec(dropout=0.0).eval()(x))
    model.train()
    model.seed_dropout(11)
    first, second = model(x), model(x)
    torch.manual_seed(999)  # the global generator has no say
    model.seed_dropout(11)
    again = model(x)
    model.seed_dropout(12)
    other = model(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_dropout_keeps_the_mean_and_drops_the_stated_share() -> None:
    model = _sasrec(dropout=0.3).train()
    model.seed_dropout(1)
    out = model.dropout(torch.ones(200, 500, dtype=torch.float64))
    zero = (out == 0).double().mean().item()
    assert zero == pytest.approx(0.3, abs=0.01)  # 100,000 draws: 7 standard errors
    assert out.mean().item() == pytest.approx(1.0, abs=0.015)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


def test_a_seed_fixes_the_initial_weights() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        return list(SASRec(D, L, 2, 2, 0.0, torch.Generator().manual_seed(seed)).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(4), weights(4), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(4), weights(5), strict=True))


def test_initial_weights_are_normal_with_deviation_002() -> None:
    model = SASRec(64, 20, 2, 2, 0.0, torch.Generator().manual_seed(0))
    values = torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() > 1]).double()
    assert values.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(values.mean().item()) < 0.0005
