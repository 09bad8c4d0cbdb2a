"""Parts that several backbones have, in numpy."""

from __future__ import annotations

import numpy as np
import torch

from foster_cli.models.backbones.gru4rec import GRU


def layer_norm(x: np.ndarray, norm: torch.nn.LayerNorm) -> np.ndarray:
    """`norm` of the rows of x (l, d)."""
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def gru(layer: GRU, x: np.ndarray) -> np.ndarray:
    """h (l, d) of x (l, d): reset, update and new gate."""
    W, R, bw, br = (p.detach().numpy() for p in layer.gru.parameters())

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-v))

    h, out, d = np.zeros(x.shape[1]), [], x.shape[1]
    for item in x:
        i, s = W @ item + bw, R @ h + br
        reset, update = sigmoid(i[:d] + s[:d]), sigmoid(i[d : 2 * d] + s[d : 2 * d])
        h = (1 - update) * np.tanh(i[2 * d :] + reset * s[2 * d :]) + update * h
        out.append(h)
    return np.stack(out)
