"""GRU4Rec against the equations of a GRU, position by position."""

from __future__ import annotations

import math

import numpy as np
import torch
from by_hand import gru
from weights import enlarged

from foster_cli.models.backbones.gru4rec import GRU, GRU4Rec

D, L = 5, 4


def _model(layers: int) -> GRU4Rec:
    model = GRU4Rec(D, L, layers, 1, 0.0, torch.Generator().manual_seed(0))
    return enlarged(model).double().eval()


def test_forward_is_the_gru_equations() -> None:
    x = torch.randn(2, L, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for layers in (1, 2):
        model = _model(layers)
        found = model(x).detach().numpy()
        for b in range(2):
            h = x[b].numpy() * math.sqrt(D)
            for layer in model.layers:
                assert isinstance(layer, GRU)
                h = gru(layer, h)
            np.testing.assert_allclose(found[b], h, rtol=1e-10, atol=1e-12)


def test_two_layers_are_torchs_stacked_gru() -> None:
    model = _model(2)
    stacked = torch.nn.GRU(D, D, 2, batch_first=True).double()
    with torch.no_grad():
        for own, theirs in zip(model.parameters(), stacked.parameters(), strict=True):
            theirs.copy_(own)
    x = torch.randn(3, L, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(model(x), stacked(x * math.sqrt(D))[0])


def test_the_gru_itself_is_never_in_eval_mode() -> None:
    """cuDNN refuses a gradient there, and the outer loop takes one of a model in eval mode."""
    model = _model(2)
    assert not model.training and not model.dropout.training
    assert all(m.training for m in model.modules() if isinstance(m, torch.nn.GRU))


def test_initial_weights_are_glorot_gate_by_gate() -> None:
    model = GRU4Rec(64, L, 1, 1, 0.0, torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / 128)
    for p in model.parameters():
        if p.dim() > 1:
            assert 0.99 * bound < p.abs().max().item() <= bound
            assert abs(p.mean().item()) < 0.01
        else:
            assert p.abs().max().item() == 0
