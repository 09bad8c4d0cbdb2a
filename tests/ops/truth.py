"""What the ops must give, in numpy and float64, and the inputs they are tried on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: rows, items, width: single ones, one around a tile of every kernel, odd widths, several tiles each way.
SHAPES = [(1, 1, 1), (1, 513, 65), (3, 511, 65), (40, 512, 64), (513, 1, 5), (600, 2100, 33), (20, 1025, 384)]


def inputs(r: int, s: int, d: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Q (r, d), V (s, d), H (r, d), E (s, d); values that bf16 holds exactly, so that all types see the same."""
    rng = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, d, generator=rng, dtype=torch.float64) * scale / d**0.25 for n in (r, s, r, s)]
    return [x.bfloat16().to(dtype) for x in made]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def embed(Q: np.ndarray, V: np.ndarray, E: np.ndarray, G: np.ndarray) -> list[np.ndarray]:
    """X and its gradients to Q and E for an upstream gradient G, in float64."""
    P = _softmax(Q @ V.T)
    slope = P * (G @ E.T - (G * (P @ E)).sum(1, keepdims=True))
    return [P @ E, slope @ V, P.T @ G]


def kl(Q: np.ndarray, V: np.ndarray, H: np.ndarray, E: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    """The losses and their gradients to Q, H, E for an upstream gradient g, in float64."""
    a, b = Q @ V.T, H @ E.T
    log_p = a - a.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    log_q = b - b.max(1, keepdims=True)
    log_q = log_q - np.log(np.exp(log_q).sum(1, keepdims=True))
    p, q = np.exp(log_p), np.exp(log_q)
    loss = (p * (log_p - log_q)).sum(1)
    da = g[:, None] * p * (log_p - log_q - loss[:, None])
    db = g[:, None] * (q - p)
    return [loss, da @ V, db @ E, db.T @ H]


def numpy(*tensors: Tensor) -> list[np.ndarray]:
    """In float64."""
    return [x.detach().cpu().double().numpy() for x in tensors]


def close(found: list[Tensor], true: list[np.ndarray], tolerance: float) -> None:
    """Each within `tolerance` of the truth's largest value (or of 1)."""
    for one, other in zip(numpy(*found), true, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(float(np.abs(other).max()), 1.0))


def largest_score(Q: Tensor, V: Tensor, H: Tensor, E: Tensor) -> float:
    """The largest score: in float32 it is only known to 2**-24 of itself."""
    q, v, h, e = numpy(Q, V, H, E)
    return float(max(np.abs(q @ v.T).max(), np.abs(h @ e.T).max(), 1.0))


def ranking(r: int, n: int, d: int) -> dict[str, np.ndarray]:
    """A ranking with ties and seen items, and its counts by brute force.

    Small whole numbers: scores are exact in any order of adding, so ties are ties.
    """
    rng = np.random.default_rng(0)
    H, E = rng.integers(-3, 4, (r, d)), rng.integers(-3, 4, (n, d))
    target = rng.integers(0, n, r)
    sizes = rng.integers(0, min(n, 50) + 1, r)
    seen = [rng.choice(n, size, replace=False) for size in sizes]
    scores = (H @ E.T).astype(float)
    greater, equal = [], []
    for i in range(r):
        left = np.setdiff1d(np.arange(n), np.append(seen[i], target[i]))
        own = scores[i, target[i]]
        greater.append(int((scores[i, left] > own).sum()))
        equal.append(int((scores[i, left] == own).sum()))
    return {
        "H": H, "E": E, "target": target, "greater": np.array(greater), "equal": np.array(equal),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "items": np.concatenate([np.empty(0, np.int64), *seen]).astype(np.int64),
    }  # fmt: skip


def copies(rows: int, items: int, width: int = 96, share: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """H, E, target: `share` copies of one item all over the catalogue, real-valued; every target is one of them."""
    rng = torch.Generator().manual_seed(0)
    H, E = torch.randn(rows, width, generator=rng), torch.randn(items, width, generator=rng)
    same = torch.randperm(items, generator=rng)[:share]
    E[same] = E[same[0]].clone()
    return H, E, same[torch.arange(rows) % share]


def check_copies(H: Tensor, E: Tensor, target: Tensor, greater: Tensor, equal: Tensor, share: int = 200) -> None:
    """The target ties with all its copies exactly, and its place is right up to rounding."""
    assert equal.tolist() == [share - 1] * len(H)
    exact = H.double() @ E.double().T
    own = exact.gather(1, target[:, None])
    above, close_ = (exact > own + 1e-4).sum(1), (exact > own - 1e-4).sum(1) - share
    assert ((above <= greater) & (greater <= close_)).all()
