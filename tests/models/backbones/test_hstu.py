"""HSTU against its equations, head by head and pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_hand import layer_norm
from weights import enlarged

from foster_cli.models.backbones.hstu import HSTU, Unit

D, L = 8, 6


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _by_hand(model: HSTU, x: np.ndarray, heads: int) -> np.ndarray:
    x = x * math.sqrt(D) + model.position.detach().numpy()[: len(x)]
    for unit in model.units:
        assert isinstance(unit, Unit)
        u, v, q, k = np.split(_silu(layer_norm(x, unit.norm) @ unit.uvqk.weight.detach().numpy().T), 4, axis=1)
        r = unit.relative.detach().numpy()[0]
        attended = np.zeros_like(x)
        for h in range(heads):
            part = slice(h * D // heads, (h + 1) * D // heads)
            for t in range(len(x)):
                for j in range(t + 1):
                    attended[t, part] += _silu(q[t, part] @ k[j, part] + r[t - j]) / L * v[j, part]
        gated = layer_norm(attended, unit.norm_attended) * u
        x = x + gated @ unit.out.weight.detach().numpy().T + unit.out.bias.detach().numpy()
    return layer_norm(x, model.norm)


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, L), (2, 2, L), (2, 4, 3)])
def test_forward_is_the_published_equations(layers: int, heads: int, size: int) -> None:
    model = HSTU(D, L, layers, heads, 0.0, torch.Generator().manual_seed(0))
    model = enlarged(model).double().eval()
    x = torch.randn(2, size, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = model(x).detach().numpy()
    for b in range(2):
        np.testing.assert_allclose(found[b], _by_hand(model, x[b].numpy(), heads), rtol=1e-9, atol=1e-10)
