"""The C++ ops against numpy in float64 and against the plain PyTorch definitions, on easy and on hostile inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foster_cli import ops
from foster_cli.errors import FosterError
from foster_cli.ops import native, reference

REASON = native.load()
built = pytest.mark.skipif(native.built_against() is None, reason="the extension was left out of this installation")

SHAPES = [(1, 1, 1), (1, 513, 65), (3, 511, 65), (40, 512, 64), (513, 1, 5), (600, 2100, 33), (20, 1025, 384)]


def test_what_was_built_loads() -> None:
    if native.built_against() is not None:
        assert REASON is None


def _inputs(r: int, s: int, d: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    """Q (r, d), V (s, d), H (r, d), E (s, d); values that bf16 holds exactly, so that all types see the same."""
    rng = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, d, generator=rng, dtype=torch.float64) * scale / d**0.25 for n in (r, s, r, s)]
    return [x.bfloat16().to(dtype) for x in made]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _embed(Q: np.ndarray, V: np.ndarray, E: np.ndarray, G: np.ndarray) -> list[np.ndarray]:
    """X and its gradients to Q and E for an upstream gradient G, in float64."""
    P = _softmax(Q @ V.T)
    slope = P * (G @ E.T - (G * (P @ E)).sum(1, keepdims=True))
    return [P @ E, slope @ V, P.T @ G]


def _kl(Q: np.ndarray, V: np.ndarray, H: np.ndarray, E: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
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


def _close(found: list[Tensor], true: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(found, true, strict=True):
        bound = tolerance * max(float(np.abs(other).max()), 1.0)
        np.testing.assert_allclose(one.detach().double().numpy(), other, rtol=0, atol=bound)


def _run_embed(Q: Tensor, V: Tensor, E: Tensor, G: Tensor) -> list[Tensor]:
    Q, E = Q.clone().requires_grad_(), E.clone().requires_grad_()
    X, _ = torch.ops.foster.soft_embed(Q, V, E)
    X.backward(G.to(X.dtype))
    assert Q.grad is not None and E.grad is not None
    assert X.dtype == E.dtype and Q.grad.dtype == Q.dtype and E.grad.dtype == E.dtype
    return [X, Q.grad, E.grad]


def _run_kl(Q: Tensor, V: Tensor, H: Tensor, E: Tensor, g: Tensor) -> list[Tensor]:
    Q, H, E = (x.clone().requires_grad_() for x in (Q, H, E))
    loss = torch.ops.foster.soft_kl(Q, V, H, E)[0]
    loss.backward(g.to(loss.dtype))
    assert Q.grad is not None and H.grad is not None and E.grad is not None
    return [loss, Q.grad, H.grad, E.grad]


@built
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)]
)
def test_values_and_gradients_are_those_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    Q, V, H, E = _inputs(*shape, dtype)
    G, g = torch.randn(shape[0], shape[2], dtype=torch.float64), torch.rand(shape[0], dtype=torch.float64)
    G, g = G.bfloat16().double(), g.bfloat16().double()
    q, v, h, e = (x.double().numpy() for x in (Q, V, H, E))
    _close(_run_embed(Q, V, E, G), _embed(q, v, e, G.numpy()), tolerance)
    _close(_run_kl(Q, V, H, E, g), _kl(q, v, h, e, g.numpy()), tolerance)


@built
@pytest.mark.parametrize("scale", [1e-3, 30.0, 100.0])
def test_hard_and_flat_distributions(scale: float) -> None:
    """Scores from nearly equal up to about 1e4 apart: no overflow, no NaN, and float32's own accuracy."""
    Q, V, H, E = _inputs(50, 700, 64, torch.float32, scale)
    g = torch.ones(50)
    q, v, h, e = (x.double().numpy() for x in (Q, V, H, E))
    found, true = _run_kl(Q, V, H, E, g), _kl(q, v, h, e, np.ones(50))
    largest = float(max(np.abs(q @ v.T).max(), np.abs(h @ e.T).max()))
    for one, other in zip(found, true, strict=True):
        bound = 4e-6 * max(largest, 1.0) * max(float(np.abs(other).max()), 1.0)  # a score is only known to 2**-24
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=0, atol=bound)
    G = torch.ones(50, 64)
    found, true = _run_embed(Q, V, E, G), _embed(q, v, e, G.double().numpy())
    for one, other in zip(found, true, strict=True):
        bound = 4e-6 * max(largest, 1.0) * max(float(np.abs(other).max()), 1.0)
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=0, atol=bound)


@built
def test_bf16_errs_no_more_than_plain_pytorch_in_bf16() -> None:
    Q, V, H, E = _inputs(100, 900, 64, torch.bfloat16, 2.0)
    G, g = torch.randn(100, 64).bfloat16(), torch.ones(100)
    q, v, h, e = (x.double().numpy() for x in (Q, V, H, E))
    plain = [x.clone().requires_grad_() for x in (Q, H, E)]
    loss = reference.soft_kl(plain[0], V, plain[1], plain[2])
    loss.backward(g.to(loss.dtype))
    true = _kl(q, v, h, e, g.double().numpy())
    naive = [loss, *[x.grad for x in plain]]
    for one, other, exact in zip(_run_kl(Q, V, H, E, g), naive, true, strict=True):
        assert other is not None
        assert (
            np.abs(one.detach().double().numpy() - exact).max() <= np.abs(other.detach().double().numpy() - exact).max()
        )
    X = reference.soft_embed(Q, V, E)
    exact = _embed(q, v, e, G.double().numpy())[0]
    own = _run_embed(Q, V, E, G)[0]
    assert np.abs(own.detach().double().numpy() - exact).max() <= np.abs(X.double().numpy() - exact).max()


@built
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_and_second_derivatives_by_finite_differences(check: Callable[..., bool]) -> None:
    Q, V, H, E = _inputs(4, 7, 3, torch.float64)
    for x in (Q, H, E):
        x.requires_grad_()
    assert check(lambda a, c: torch.ops.foster.soft_embed(a, V, c)[0], (Q, E))
    assert check(lambda a, b, c: torch.ops.foster.soft_kl(a, V, b, c)[0], (Q, H, E))


@built
def test_ops_are_well_formed_for_torch() -> None:
    Q, V, H, E = _inputs(5, 9, 4, torch.float32)
    Q.requires_grad_(), E.requires_grad_(), H.requires_grad_()
    torch.library.opcheck(torch.ops.foster.soft_embed.default, (Q, V, E))
    torch.library.opcheck(torch.ops.foster.soft_kl.default, (Q, V, H, E))
    target = torch.tensor([0, 3, 8, 8, 1])
    torch.library.opcheck(torch.ops.foster.rank_counts.default, (H.detach(), E.detach(), target))


@built
def test_only_the_gradients_that_are_asked_for() -> None:
    Q, V, H, E = _inputs(30, 50, 8, torch.float32)
    g = torch.ones(30)
    whole = _run_kl(Q, V, H, E, g)
    for wanted in range(3):
        inputs = [Q.clone(), H.clone(), E.clone()]
        inputs[wanted].requires_grad_()
        torch.ops.foster.soft_kl(inputs[0], V, inputs[1], inputs[2])[0].backward(g)
        assert [x.grad is not None for x in inputs] == [i == wanted for i in range(3)]
        torch.testing.assert_close(inputs[wanted].grad, whole[1 + wanted])


@built
@settings(max_examples=30, deadline=None)
@given(r=st.integers(1, 40), s=st.integers(1, 1100), d=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_public_ops_equal_the_definition(r: int, s: int, d: int, seed: int, data: st.DataObject) -> None:
    """Any shape in front, transposed inputs: `ops` gives what `reference` gives."""
    Q, V, H, E = _inputs(r, s, d, torch.float64, 1.5, seed)
    if data.draw(st.booleans()):
        Q, E = Q.t().contiguous().t(), E.t().contiguous().t()
    lead = (r, 1) if data.draw(st.booleans()) else (r,)
    q, h = Q.reshape(*lead, d), H.reshape(*lead, d)
    torch.testing.assert_close(ops.soft_embed(q, V, E), reference.soft_embed(q, V, E))
    torch.testing.assert_close(ops.soft_kl(q, V, h, E), reference.soft_kl(q, V, h, E), atol=1e-12, rtol=1e-9)


@built
@pytest.mark.parametrize(("r", "n", "d"), [(1, 1, 1), (30, 2100, 16), (600, 1025, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_by_brute_force_with_ties_and_seen_items(r: int, n: int, d: int, dtype: torch.dtype) -> None:
    """Small whole numbers: scores are exact in any order of adding, so ties are ties."""
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
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
    items = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *seen]).astype(np.int64))
    found = torch.ops.foster.rank_counts(
        torch.from_numpy(H).to(dtype), torch.from_numpy(E).to(dtype), torch.from_numpy(target), items, offsets
    )
    assert found[0].tolist() == greater and found[1].tolist() == equal


@built
@pytest.mark.parametrize("items", [201, 3001, 4097, 6000])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_equal_embeddings_tie_wherever_they_stand(items: int, rows: int) -> None:
    """200 copies of one item all over the catalogue, real-valued: the target ties with 199 of them exactly."""
    rng = torch.Generator().manual_seed(0)
    H, E = torch.randn(rows, 96, generator=rng), torch.randn(items, 96, generator=rng)
    copies = torch.randperm(items, generator=rng)[:200]
    E[copies] = E[copies[0]].clone()
    target = copies[torch.arange(rows) % 200]
    greater, equal = torch.ops.foster.rank_counts(H, E, target)
    assert equal.tolist() == [199] * rows
    exact = H.double() @ E.double().T
    above = (exact > exact.gather(1, target[:, None]) + 1e-4).sum(1)
    close = (exact > exact.gather(1, target[:, None]) - 1e-4).sum(1) - 200
    assert ((above <= greater) & (greater <= close)).all()


@built
def test_nan_is_seen() -> None:
    Q, V, H, E = _inputs(3, 5, 2, torch.float32)
    Q[1, 0] = torch.nan
    assert torch.isnan(torch.ops.foster.soft_kl(Q, V, H, E)[0]).tolist() == [False, True, False]
    assert torch.isnan(torch.ops.foster.soft_embed(Q, V, E)[0]).any(1).tolist() == [False, True, False]


@built
def test_what_does_not_fit_is_refused() -> None:
    Q, V, H, E = _inputs(3, 5, 2, torch.float32)
    for bad in ((Q, V[:, :1], H, E), (Q[:2], V, H, E), (Q, V[:4], H, E), (Q, V.double(), H, E), (Q[0], V, H, E)):
        with pytest.raises(RuntimeError, match="soft_kl"):
            torch.ops.foster.soft_kl(*bad)
    for target in (torch.tensor([0, 1, 5]), torch.tensor([0, 1, -1]), torch.tensor([0, 1]), torch.tensor([0.0, 1, 2])):
        with pytest.raises(RuntimeError, match="rank_counts"):
            torch.ops.foster.rank_counts(H, E, target)
    with pytest.raises(RuntimeError, match="offsets"):
        torch.ops.foster.rank_counts(H, E, torch.zeros(3, dtype=torch.int64), torch.tensor([1]), torch.tensor([0, 1]))


@built
def test_the_same_numbers_every_time() -> None:
    Q, V, H, E = _inputs(400, 3000, 48, torch.float32)
    g = torch.ones(400)
    first, second = _run_kl(Q, V, H, E, g), _run_kl(Q, V, H, E, g)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOSTER_OPS", "reference")
    assert ops.fallback() is None and not ops._native()
    monkeypatch.setenv("FOSTER_OPS", "fast")
    with pytest.raises(FosterError, match="FOSTER_OPS=fast"):
        ops.fallback()


def test_an_extension_for_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    native.load.cache_clear()
    ops._use_native.cache_clear()
    try:
        assert "not built" in str(native.load())
        native.load.cache_clear()
        (tmp_path / "_C.json").write_text(json.dumps({"torch": "1.2.3"}))
        assert "1.2.3" in str(native.load())
        monkeypatch.setenv("FOSTER_OPS", "auto")
        assert "1.2.3" in str(ops.fallback())
        Q, V, H, E = _inputs(3, 5, 2, torch.float32)  # plain PyTorch does the work
        torch.testing.assert_close(ops.soft_kl(Q, V, H, E), reference.soft_kl(Q, V, H, E))
        monkeypatch.setenv("FOSTER_OPS", "native")
        with pytest.raises(FosterError, match="FOSTER_OPS=native"):
            ops.fallback()
    finally:
        native.load.cache_clear()
        ops._use_native.cache_clear()


@built
def test_the_definition_is_used_where_v_learns_or_types_differ() -> None:
    Q, V, H, E = _inputs(3, 5, 2, torch.float32)
    V.requires_grad_()
    ops.soft_kl(Q, V, H, E).sum().backward()
    assert V.grad is not None and float(V.grad.abs().max()) > 0
    assert not native.fits(Q, V.double())
    assert not native.fits(Q.half())
