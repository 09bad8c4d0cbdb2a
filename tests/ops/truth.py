"""The true results of the ops, computed by numpy in float64, and the inputs of their tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Rows, items and width: 1, sizes around a tile of every kernel, odd widths, and several tiles of rows and of items.
SHAPES = [(1, 1, 1), (1, 513, 65), (3, 511, 65), (40, 512, 64), (513, 1, 5), (600, 2100, 33), (20, 1025, 384)]


def inputs(r: int, s: int, d: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Q (r, d), V (s, d), H (r, d), E (s, d). bf16 represents the values exactly, so they are equal in all types."""
    rng = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, d, generator=rng, dtype=torch.float64) * scale / d**0.25 for n in (r, s, r, s)]
    return [x.bfloat16().to(dtype) for x in made]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def embed(Q: np.ndarray, V: np.ndarray, E: np.ndarray, G: np.ndarray) -> list[np.ndarray]:
    """X, and the gradients to Q and E for an upstream gradient G, in float64."""
    P = _softmax(Q @ V.T)
    dS = P * (G @ E.T - (G * (P @ E)).sum(1, keepdims=True))
    return [P @ E, dS @ V, P.T @ G]


def kl(Q: np.ndarray, V: np.ndarray, H: np.ndarray, E: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    """The losses, and the gradients to Q, H and E for an upstream gradient g, in float64."""
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


def labelled(
    r: int, s: int, d: int, dtype: torch.dtype, corrected: bool, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """H, E, target and correction of a cross-entropy."""
    _, _, H, E = inputs(r, s, d, dtype, 2.0, seed)
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(s, (r,), generator=rng)
    return H, E, target, torch.rand(s, generator=rng).to(H) * 3 if corrected else None


def ce(H: Tensor, E: Tensor, target: Tensor, correction: Tensor | None) -> list[np.ndarray]:
    """The mean loss, and its gradients to H and E, in float64, row by row."""
    h, e = numpy(H, E)
    extra = np.zeros(len(e)) if correction is None else numpy(correction)[0]
    losses, dS = [], np.zeros((len(h), len(e)))
    for i, y in enumerate(target.tolist()):
        scores = e @ h[i] + np.where(np.arange(len(e)) == y, 0.0, extra)
        top = scores.max()
        z = np.exp(scores - top).sum()
        losses.append(np.log(z) + top - scores[y])
        dS[i] = np.exp(scores - top) / z
        dS[i, y] -= 1
    dS /= len(h)
    return [np.array(np.mean(losses)), dS @ e, dS.T @ h]


def numpy(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors as float64 arrays."""
    return [x.detach().cpu().double().numpy() for x in tensors]


def close(found: list[Tensor], true: list[np.ndarray], tolerance: float) -> None:
    """Assert that each error is at most `tolerance` times the largest true value, or times 1 if that is larger."""
    for one, other in zip(numpy(*found), true, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(float(np.abs(other).max()), 1.0))


def largest_score(Q: Tensor, V: Tensor, H: Tensor, E: Tensor) -> float:
    """The largest score; in float32 its rounding error is up to 2**-24 of it."""
    q, v, h, e = numpy(Q, V, H, E)
    return float(max(np.abs(q @ v.T).max(), np.abs(h @ e.T).max(), 1.0))


def ranking(r: int, n: int, d: int) -> dict[str, np.ndarray]:
    """A ranking with ties and seen items, and its counts by brute force.

    All values are small integers: their scores are exact in any order of summation, so equal scores are exactly equal.
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
    """H, E and target. E, real-valued, has `share` copies of one item at random places; each target is one of them."""
    rng = torch.Generator().manual_seed(0)
    H, E = torch.randn(rows, width, generator=rng), torch.randn(items, width, generator=rng)
    same = torch.randperm(items, generator=rng)[:share]
    E[same] = E[same[0]].clone()
    return H, E, same[torch.arange(rows) % share]


def check_copies(H: Tensor, E: Tensor, target: Tensor, greater: Tensor, equal: Tensor, share: int = 200) -> None:
    """Assert that the target ties with all its copies, and that its rank is right up to rounding."""
    assert equal.tolist() == [share - 1] * len(H)
    exact = H.double() @ E.double().T
    own = exact.gather(1, target[:, None])
    above, close_ = (exact > own + 1e-4).sum(1), (exact > own - 1e-4).sum(1) - share
    assert ((above <= greater) & (greater <= close_)).all()
