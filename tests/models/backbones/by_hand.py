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


def relative_attention(qkv: np.ndarray, r: np.ndarray) -> np.ndarray:
    """(l, d) of queries, keys and values side by side (l, 3d), with r (heads, L) added to the scores by distance."""
    q, k, v = np.split(qkv, 3, axis=1)
    out, heads, d = np.zeros_like(q), len(r), q.shape[1]
    for h in range(heads):
        part = slice(h * d // heads, (h + 1) * d // heads)
        for t in range(len(q)):
            weight = np.exp([q[t, part] @ k[j, part] / np.sqrt(d / heads) + r[h, t - j] for j in range(t + 1)])
            out[t, part] = (weight / weight.sum()) @ v[: t + 1, part]
    return out
