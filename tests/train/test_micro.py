"""The real part of the outer loss some windows at a time, against all of them at once in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.data.windows import Windows
from foster_cli.errors import FosterError
from foster_cli.train.batch import Pool, RealBatch, real_batch, real_loss, real_outputs
from foster_cli.train.micro import CPU_POSITIONS, ELEMENTS, Micro, outer_real, rows_at_once

N, L = 12, 6
BOTH = {"items": "both", "bias": True, "known": torch.arange(N) % 5 > 0}
Model = Callable[..., Any]


def _batch(loss: str, full: bool) -> RealBatch:
    rng = np.random.default_rng(3)
    lengths = np.full(7, L + 1) if full else np.array([2, 7, 3, 5, 2, 4, 6])
    items = np.where(np.arange(L + 1) < lengths[:, None], rng.integers(0, N, (7, L + 1)), -1)
    windows = Windows(items, lengths)
    share = np.bincount(items[items >= 0], minlength=N) / (items >= 0).sum()
    return real_batch(windows, Pool(np.arange(N), share), loss, 5, np.random.default_rng(4), torch.device("cpu"))


def _at_once(phi: Any, teacher: Any, batch: RealBatch, loss: str, alpha: float) -> tuple[Any, float, float]:
    H, E = real_outputs(phi, batch)
    base = real_loss(H, E, batch, loss)
    with torch.no_grad():
        apart = real_outputs(teacher, batch)[0]
    feature = (H - apart).square().mean()
    return base + alpha * feature, base.item(), feature.item()


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize(("rows", "more"), [*[(rows, {}) for rows in (None, 1, 2, 3, 7, 50)], (2, BOTH)])
def test_value_parts_and_gradient(
    small_model: Model, rows: int | None, more: dict[str, Any], loss: str, alpha: float, full: bool
) -> None:
    batch, teacher = _batch(loss, full), small_model(N, 8, L, seed=5, **more)
    phi = small_model(N, 8, L, seed=1, **more)
    parameters = [p for p in phi.parameters() if p.requires_grad]
    expected, real, feature = _at_once(phi, teacher, batch, loss, alpha)
    expected_gradient = torch.autograd.grad(expected, parameters)
    found = outer_real(phi, teacher, batch, loss, alpha, Micro(rows))
    assert found.value == pytest.approx(expected.item(), rel=1e-12)
    assert found.parts == pytest.approx({"outer_real": real, "outer_feature": feature if alpha else 0.0}, rel=1e-12)
    for g, e in zip(found.gradients, expected_gradient, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)


def test_all_windows_at_once_give_the_same_bits(small_model: Model) -> None:
    batch = _batch("bce", False)
    teacher, phi = small_model(N, 8, L, seed=5, double=False), small_model(N, 8, L, seed=1, double=False)
    parameters = [p for p in phi.parameters() if p.requires_grad]
    expected = _at_once(phi, teacher, batch, "bce", 1.0)[0]
    found = outer_real(phi, teacher, batch, "bce", 1.0)
    assert found.value == expected.item()
    gradients = torch.autograd.grad(expected, parameters)
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, gradients, strict=True))


def test_no_model_collects_a_gradient_and_a_second_derivative_is_refused(small_model: Model) -> None:
    teacher, phi = small_model(N, 8, L, seed=5), small_model(N, 8, L, seed=1)
    found = outer_real(phi, teacher, _batch("bce", False), "bce", 1.0, Micro(2))
    assert all(p.grad is None for m in (phi, teacher) for p in m.parameters())
    with pytest.raises(RuntimeError, match="does not require grad"):
        found.gradients[0].sum().backward()


CPU_SAYS = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU_SAYS)])
def test_where_memory_is_short_half_as_many_give_the_same_result(
    small_model: Model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Memory for two windows: seven are tried, then three, then one. What was found stays, and is said once."""
    batch, said = _batch("bce", False), list[str]()
    teacher, phi = small_model(N, 8, L, seed=5), small_model(N, 8, L, seed=1)
    parameters = [p for p in phi.parameters() if p.requires_grad]
    expected = torch.autograd.grad(_at_once(phi, teacher, batch, "bce", 0.3)[0], parameters)
    at, tried = type(phi).at, list[int]()

    def small(model: Any, x: torch.Tensor, chosen: torch.Tensor) -> Any:
        tried.append(len(x))
        if len(x) > 2:
            raise error
        return at(model, x, chosen)

    monkeypatch.setattr(type(phi), "at", small)
    micro = Micro(note=said.append)
    for _ in range(2):
        found = outer_real(phi, teacher, batch, "bce", 0.3, micro)
        for g, e in zip(found.gradients, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-13)
    assert [n for n in tried if n > 2] == [7, 3] and micro.rows == 1
    assert said == [f"out of memory with {a} real windows at a time; continuing with {b}, to the same result"
                    for a, b in ((7, 3), (3, 1))]  # fmt: skip


def test_no_memory_for_one_window_is_an_error_and_other_faults_are_theirs(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, teacher, phi = _batch("bce", False), small_model(N, 8, L, seed=5), small_model(N, 8, L, seed=1)

    def never(model: Any, x: torch.Tensor, chosen: torch.Tensor) -> Any:
        raise fault

    monkeypatch.setattr(type(phi), "at", never)
    fault: Exception = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(FosterError, match="one real window"):
        outer_real(phi, teacher, batch, "bce", 0.3)
    fault = RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        outer_real(phi, teacher, batch, "bce", 0.3)


def test_how_many_windows_at_once() -> None:
    """A default batch of 256 windows of 20, 384 wide, in one go; narrow ones by positions on a CPU; never none."""
    cpu, gpu, threads = torch.device("cpu"), torch.device("cuda"), torch.get_num_threads()
    assert rows_at_once(20, 384, cpu) >= 256 and rows_at_once(20, 384, gpu) == 273
    assert rows_at_once(50, 32, cpu) == min(CPU_POSITIONS * threads, ELEMENTS // 32) // 50
    assert rows_at_once(50, 32, gpu) == 1310
    assert rows_at_once(5000, 4096, cpu) == rows_at_once(5000, 4096, gpu) == 1
