"""The plain PyTorch definitions against loops in float64, and their gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.ops.reference import rank_counts, soft_embed, soft_kl, tucker


def _draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=rng, dtype=torch.float64)


def _softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    e = [math.exp(s - top) for s in scores]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 4, 2, 3, 5), (2, 7, 2, 1, 3)])
def test_tucker_is_the_sum_of_equation_2(shape: tuple[int, ...]) -> None:
    M, L, a, b, d = shape
    U, T, G = _draw(M, a, seed=1), _draw(L, b, seed=2), _draw(a, b, d, seed=3)
    expected = np.zeros((M, L, d))
    for m in range(M):
        for t in range(L):
            for i in range(a):
                for j in range(b):
                    expected[m, t] += float(U[m, i]) * float(T[t, j]) * G[i, j].numpy()
    np.testing.assert_allclose(tucker(U, T, G).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", [1, 2, 7])
def test_soft_embed_is_the_probability_weighted_mean(s: int) -> None:
    Q, V, E = _draw(2, 3, 4, seed=1), _draw(s, 4, seed=2), _draw(s, 4, seed=3)
    found = soft_embed(Q, V, E)
    for m in range(2):
        for t in range(3):
            p = _softmax([float((Q[m, t] * V[i]).sum()) for i in range(s)])
            expected = sum(p[i] * E[i].numpy() for i in range(s))
            np.testing.assert_allclose(found[m, t].numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", [1, 2, 7])
def test_soft_kl_is_the_divergence_in_nats(s: int) -> None:
    Q, V, H, E = _draw(2, 3, 4, seed=1), _draw(s, 4, seed=2), _draw(2, 3, 4, seed=3), _draw(s, 4, seed=4)
    found = soft_kl(Q, V, H, E)
    for m in range(2):
        for t in range(3):
            p = _softmax([float((Q[m, t] * V[i]).sum()) for i in range(s)])
            q = _softmax([float((H[m, t] * E[i]).sum()) for i in range(s)])
            expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            assert float(found[m, t]) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@given(st.integers(0, 10**6), st.floats(0.0, 20.0))
@settings(max_examples=40)
def test_soft_kl_is_never_negative_and_zero_for_equals(seed: int, scale: float) -> None:
    Q, V = _draw(5, 3, seed=seed, scale=scale), _draw(6, 3, seed=seed + 1)
    H, E = _draw(5, 3, seed=seed + 2, scale=scale), _draw(6, 3, seed=seed + 3)
    assert float(soft_kl(Q, V, H, E).min()) >= -1e-12
    assert float(soft_kl(Q, V, Q, V).abs().max()) <= 1e-12


def test_soft_kl_does_not_overflow_for_hard_distributions() -> None:
    Q, V = torch.full((1, 2), 1e4), torch.eye(2)
    H = torch.tensor([[1e4, -1e4]])
    # P is (1/2, 1/2), and the prediction gives almost all probability to the first: KL = log(1/2) + 1e4
    assert float(soft_kl(Q, V, H, V)) == pytest.approx(math.log(0.5) + 1e4, rel=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    def leaf(*shape: int, seed: int) -> torch.Tensor:
        return _draw(*shape, seed=seed).requires_grad_()

    U, T, G = leaf(2, 3, seed=1), leaf(4, 2, seed=2), leaf(3, 2, 3, seed=3)
    assert torch.autograd.gradcheck(tucker, (U, T, G))
    Q, V, E, H = leaf(2, 2, 3, seed=4), leaf(5, 3, seed=5), leaf(5, 3, seed=6), leaf(2, 2, 3, seed=7)
    assert torch.autograd.gradcheck(soft_embed, (Q, V, E))
    assert torch.autograd.gradcheck(soft_kl, (Q, V, H, E))


@st.composite
def _ranking(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]], int]:
    """Small integers, so that ties are common and every product is exact."""
    R, n, d = draw(st.integers(0, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    whole = st.integers(-2, 2)
    H = np.array(draw(st.lists(whole, min_size=R * d, max_size=R * d)), dtype=np.float64).reshape(R, d)
    E = np.array(draw(st.lists(whole, min_size=n * d, max_size=n * d)), dtype=np.float64).reshape(n, d)
    target = np.array(draw(st.lists(st.integers(0, n - 1), min_size=R, max_size=R)), dtype=np.int64)
    seen = draw(st.lists(st.lists(st.integers(0, n - 1), max_size=n), min_size=R, max_size=R))
    return H, E, target, seen, draw(st.sampled_from([1, 3, n, 2 * n + 1, 1 << 20]))


@given(_ranking(), st.booleans())
@settings(max_examples=150)
def test_rank_counts_is_brute_force(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]], int], masked: bool
) -> None:
    H, E, target, seen, block = case
    offsets = torch.tensor([0, *np.cumsum([len(s) for s in seen])], dtype=torch.int64)
    flat = torch.tensor([i for s in seen for i in s], dtype=torch.int64)
    greater, equal = rank_counts(
        torch.from_numpy(H), torch.from_numpy(E), torch.from_numpy(target), (flat, offsets) if masked else None, block
    )
    for r in range(len(H)):
        own = float(H[r] @ E[target[r]])
        rest = [i for i in range(len(E)) if i != target[r] and not (masked and i in seen[r])]
        scores = [float(H[r] @ E[i]) for i in rest]
        assert int(greater[r]) == sum(x > own for x in scores)
        assert int(equal[r]) == sum(x == own for x in scores)
    assert greater.dtype == equal.dtype == torch.int64


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["H", "E"])
def test_rank_counts_refuses_what_cannot_be_ranked(value: float, where: str) -> None:
    H, E = _draw(3, 2, seed=1), _draw(4, 2, seed=2)
    (H if where == "H" else E)[1, 1] = value
    with pytest.raises(ValueError, match="NaN or Inf"):
        rank_counts(H, E, torch.zeros(3, dtype=torch.int64))


def test_rank_counts_leaves_its_arguments_alone() -> None:
    H, E, target = _draw(3, 2, seed=1), _draw(4, 2, seed=2), torch.tensor([0, 1, 2])
    copies = H.clone(), E.clone(), target.clone()
    rank_counts(H, E, target, (torch.tensor([3]), torch.tensor([0, 1, 1, 1])))
    assert all(torch.equal(a, b) for a, b in zip((H, E, target), copies, strict=True))


def test_rank_counts_holds_no_more_scores_than_its_block() -> None:
    n, R, block = 64, 1000, 64 * 10

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, torch.Tensor) and x.dim() == 2 and x.shape[1] == n:
                    Watch.largest = max(Watch.largest, x.numel())
            return out

    H, E, target = _draw(R, 2, seed=1), _draw(n, 2, seed=2), torch.arange(R) % n
    with Watch():
        small = rank_counts(H, E, target, block=block)
    assert 0 < Watch.largest <= block
    whole = rank_counts(H, E, target)
    assert torch.equal(small[0], whole[0]) and torch.equal(small[1], whole[1])


def test_rank_counts_is_the_same_for_every_block_in_fp32() -> None:
    H, E = _draw(37, 5, seed=1).float(), _draw(23, 5, seed=2).float()
    target = torch.arange(37) % 23
    scores = H.double() @ E.double().T
    expected = torch.tensor(
        [sum(scores[r, i] > scores[r, t] for i in range(23) if i != t) for r, t in enumerate(target)]
    )
    for block in (1, 23, 100, 23 * 37, 1 << 26):
        assert torch.equal(rank_counts(H, E, target, block=block)[0], expected)
