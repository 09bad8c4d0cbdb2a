"""LiGR against its equations, head by head and pair by pair, and its gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import layer_norm, relative_attention
from weights import enlarged

from foster_cli.models.backbones.ligr import GatedBlock, LiGR

D, L = 8, 6


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _affine(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def _block_by_hand(block: GatedBlock, x: np.ndarray) -> np.ndarray:
    qkv = _affine(block.qkv, layer_norm(x, block.norm1))
    attended = relative_attention(qkv, block.relative.detach().numpy())
    x = x + _affine(block.out, attended) * _sigmoid(_affine(block.pass1, x))
    y = layer_norm(x, block.norm2)
    gate = _affine(block.gate, y)
    swiglu = _affine(block.down, gate * _sigmoid(gate) * _affine(block.up, y))
    return x + swiglu * _sigmoid(_affine(block.pass2, x))


def _made(layers: int = 2, heads: int = 2) -> LiGR:
    model = LiGR(D, L, layers, heads, 0.0, torch.Generator().manual_seed(0))
    return enlarged(model).double().eval()


def _x(size: int = L) -> torch.Tensor:
    return torch.randn(2, size, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, L), (2, 2, L), (2, 4, 3)])
def test_forward_is_the_published_equations(layers: int, heads: int, size: int) -> None:
    model, x = _made(layers, heads), _x(size)
    found = model(x).detach().numpy()
    for b in range(2):
        hand = x[b].numpy() * math.sqrt(D)
        for block in model.blocks:
            assert isinstance(block, GatedBlock)
            hand = _block_by_hand(block, hand)
        np.testing.assert_allclose(found[b], layer_norm(hand, model.norm), rtol=1e-9, atol=1e-10)


def test_closed_gates_leave_the_input_and_each_gate_has_a_branch_of_its_own() -> None:
    block, x = _made().blocks[0], _x()
    assert isinstance(block, GatedBlock)
    with torch.no_grad():
        for gate in (block.pass1, block.pass2):
            gate.weight.zero_()
            gate.bias.fill_(-1e4)
        assert torch.equal(block(x), x)
        block.pass1.bias.fill_(1e4)  # wide open: plain attention, still no feed-forward
        changed = block(x)
        at_first = x[:, 0] + block.out(block.qkv(block.norm1(x[:, 0]))[:, 2 * D :])  # position 0 attends to itself
    torch.testing.assert_close(changed[:, 0], at_first)


def test_the_inner_width_is_four_times_the_width_and_gates_start_half_open() -> None:
    model = LiGR(D, L, 1, 2, 0.0, torch.Generator().manual_seed(0))
    block = model.blocks[0]
    assert isinstance(block, GatedBlock)
    assert [tuple(layer.weight.shape) for layer in (block.gate, block.up, block.down)] == [(32, 8), (32, 8), (8, 32)]
    assert block.gate.bias is None and block.up.bias is None and block.down.bias is None
    for gate in (block.pass1, block.pass2):
        assert torch.equal(gate.bias, torch.zeros(D))
        assert (gate(torch.ones(D)).sigmoid() - 0.5).abs().max() < 0.1


def test_recent_items_count_more_at_the_start_and_most_in_the_first_heads() -> None:
    model = LiGR(D, L, 2, 4, 0.0, torch.Generator().manual_seed(0))
    for block in model.blocks:
        assert isinstance(block, GatedBlock)
        expected = [[-j * slope for j in range(L)] for slope in (0.5, 0.25, 0.125, 0.0625)]
        assert block.relative.tolist() == expected
    alone = LiGR(D, L, 1, 1, 0.0, torch.Generator().manual_seed(0)).blocks[0]
    assert isinstance(alone, GatedBlock) and alone.relative[0].tolist() == [-0.5 * j for j in range(L)]
