"""SASRec with relative positions against its equations, head by head and pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import layer_norm, relative_attention
from weights import enlarged

from foster_cli.models.backbones.relative import RelativeBlock, RelativeSASRec, recency

D, L = 8, 6


def _affine(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def _block_by_hand(block: RelativeBlock, x: np.ndarray) -> np.ndarray:
    qkv = _affine(block.qkv, layer_norm(x, block.norm1))
    attended = relative_attention(qkv, block.relative.detach().numpy())
    x = x + _affine(block.out, attended)
    return x + _affine(block.down, np.maximum(_affine(block.up, layer_norm(x, block.norm2)), 0))


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, L), (2, 2, L), (2, 4, 3), (1, 2, 1)])
def test_forward_is_the_equations(layers: int, heads: int, size: int) -> None:
    model = RelativeSASRec(D, L, layers, heads, 0.0, torch.Generator().manual_seed(0))
    model = enlarged(model).double().eval()
    x = torch.randn(2, size, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = model(x).detach().numpy()
    for b in range(2):
        hand = x[b].numpy() * math.sqrt(D)
        for block in model.blocks:
            assert isinstance(block, RelativeBlock)
            hand = _block_by_hand(block, hand)
        np.testing.assert_allclose(found[b], layer_norm(hand, model.norm), rtol=1e-9, atol=1e-10)


def test_a_history_is_read_alike_wherever_it_stands() -> None:
    """With r falling steeply, what is far back does not count, and no place is special."""
    model = RelativeSASRec(D, L, 1, 1, 0.0, torch.Generator().manual_seed(0)).double().eval()
    block = model.blocks[0]
    assert isinstance(block, RelativeBlock)
    with torch.no_grad():
        block.relative.copy_(-1e3 * (torch.arange(L) >= 2))
    x = torch.randn(1, L, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(model(x)[0, -1], model(x[:, -2:])[0, -1])


def test_recent_items_count_more_at_the_start_and_most_in_the_first_heads() -> None:
    assert recency(3, 4).tolist() == [[0.0, -0.5, -1.0, -1.5], [0.0, -0.25, -0.5, -0.75], [0.0, -0.125, -0.25, -0.375]]
    assert recency(1, 3).tolist() == [[0.0, -0.5, -1.0]]
    assert not any(
        "position" in name for name, _ in RelativeSASRec(D, L, 1, 2, 0.0, torch.Generator()).named_parameters()
    )


def test_an_untrained_attention_is_a_mean_of_the_history_weighted_by_recency() -> None:
    """Queries and keys start near 0, so head h weights the item j steps back as softmax(r_h) and copies it."""
    model = RelativeSASRec(D, L, 2, 2, 0.0, torch.Generator().manual_seed(3)).double().eval()
    block = model.blocks[1]
    assert isinstance(block, RelativeBlock)
    with torch.no_grad():
        block.qkv.weight[: 2 * D].zero_()
        block.down.weight.zero_()
    x = torch.randn(1, L, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = layer_norm(x[0].numpy(), block.norm1)
    hand = x[0].numpy().copy()
    for t in range(L):
        for h, row in enumerate(block.relative.detach().double().numpy()):
            weight = np.exp(row[: t + 1])[::-1] / np.exp(row[: t + 1]).sum()  # the last one is 0 steps back
            part = slice(h * D // 2, (h + 1) * D // 2)
            hand[t, part] += weight @ y[: t + 1, part]
    np.testing.assert_allclose(block(x)[0].detach().numpy(), hand, rtol=1e-9, atol=1e-10)
