"""The item factor in few bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foster_cli.synthetic.quantise import restored, rounded, stored


@given(hnp.arrays("float32", (7, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_a_code_is_within_half_a_step(values: object) -> None:
    V = torch.tensor(values)
    tensors = stored(V, 8)
    span = V.max(0).values - V.min(0).values
    assert tensors["codes"].dtype == torch.uint8
    room = 1e-6 * V.abs().max() + 1e-30
    assert bool(((restored(tensors) - V).abs() <= span / 255 / 2 * 1.001 + room).all())


@pytest.mark.parametrize(("bits", "size"), [(8, 1), (16, 2), (32, 4)])
def test_bits_are_what_a_number_takes(bits: int, size: int) -> None:
    V = torch.randn(50, 6)
    tensors = stored(V, bits)
    assert tensors["codes" if bits == 8 else "V"].element_size() == size
    assert restored(tensors).dtype == torch.float32
    assert bits < 32 or torch.equal(restored(tensors), V)


@pytest.mark.parametrize(("least", "bits"), [(0.0, 8), (1e-2, 16), (1e-6, 32)])
def test_the_fewest_bits_that_lose_less_than_a_hundredth(least: float, bits: int) -> None:
    """The measure falls below 0.99 where the rounding error exceeds `least`."""
    V = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

    def measure(found: torch.Tensor) -> float:
        return 0.98 if least and float((found - V).abs().max()) > least else 1.0

    tensors = rounded(V, measure)
    assert 8 * next(iter(tensors.values())).element_size() == bits


def test_numbers_that_16_bits_cannot_hold_keep_32() -> None:
    V = torch.tensor([[1e30, 0.0], [-1e30, 1.0], [0.0, 2.0]])
    tensors = rounded(V, lambda found: float(torch.equal(found, V)))
    assert torch.equal(restored(tensors), V)
