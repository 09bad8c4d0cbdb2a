"""NARM against its equations, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import gru

from foster_cli.models.backbones.gru4rec import GRU
from foster_cli.models.backbones.narm import NARM

D, L = 5, 6


@pytest.mark.parametrize("layers", [1, 2])
def test_forward_is_the_published_equations(layers: int) -> None:
    model = NARM(D, L, layers, 1, 0.0, torch.Generator().manual_seed(0)).double().eval()
    x = torch.randn(2, L, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = model(x).detach().numpy()
    A1, A2, v, out = (p.weight.detach().numpy() for p in (model.A1, model.A2, model.v, model.B))
    for b in range(2):
        h = x[b].numpy() * math.sqrt(D)
        for layer in model.layers:
            assert isinstance(layer, GRU)
            h = gru(layer, h)
        for t in range(L):
            local = np.zeros(D)
            for j in range(t + 1):
                alpha = v[0] @ (1 / (1 + np.exp(-(A1 @ h[t] + A2 @ h[j]))))
                local += alpha * h[j]
            np.testing.assert_allclose(found[b, t], out @ np.concatenate([h[t], local]), rtol=1e-10, atol=1e-12)
