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


def test_the_first_heads_start_by_reading_recent_items_and_the_last_reads_all_alike() -> None:
    assert recency(3, 4).tolist() == [[0.0, -0.5, -1.0, -1.5], [0.0, -0.25, -0.5, -0.75], [0.0] * 4]
    assert recency(1, 3).tolist() == [[0.0, -0.5, -1.0]]
    assert not any(
        "position" in name for name, _ in RelativeSASRec(D, L, 1, 2, 0.0, torch.Generator()).named_parameters()
    )
