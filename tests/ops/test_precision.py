"""The settings of `--precision`: what they are inside a block and after it, and what always stays in fp32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foster_cli.errors import FosterError
from foster_cli.ops.precision import exact, matmul_precision
from foster_cli.ranking.full import ranks

CPU = torch.device("cpu")
SWITCH = getattr(torch.backends.mkldnn, "matmul", None)


def _now() -> str:
    return "none" if SWITCH is None else str(SWITCH.fp32_precision)


def test_bf16_is_on_inside_only_and_exact_wins_within() -> None:
    before = _now()
    with matmul_precision("fp32", CPU):
        assert _now() == before
    with matmul_precision("bf16", CPU):
        inside = _now()
        with exact():
            assert _now() in ("ieee", "none")
        assert _now() == inside
    assert _now() == before
    if SWITCH is not None:
        assert inside == "bf16"


def test_the_switches_are_back_after_an_error() -> None:
    before = _now()
    with pytest.raises(ZeroDivisionError), matmul_precision("bf16", CPU), exact():
        raise ZeroDivisionError
    assert _now() == before


def test_bf16_products_are_within_bf16_of_float64() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 200, generator=rng), torch.randn(200, 100, generator=rng)
    true = a.double() @ b.double()
    with matmul_precision("bf16", CPU):
        found = a @ b
    assert float((found - true).abs().max()) < 2**-8 * float((a.abs().double() @ b.abs().double()).max())


def test_ranks_are_exact_in_a_bf16_run() -> None:
    """The scores differ in the 20th bit, so rounding the inputs to bf16 would make them ties."""
    E = (1.0 + torch.arange(64, dtype=torch.float32)[:, None] * 2.0**-20).repeat(1, 4)
    H = torch.ones(64, 4)
    with matmul_precision("bf16", CPU):
        found = ranks(H, E, np.arange(64))
    np.testing.assert_array_equal(found, np.arange(64, 0, -1))


def test_other_devices_are_refused() -> None:
    with (
        pytest.raises(FosterError, match="--precision bf16: not on mps"),
        matmul_precision("bf16", torch.device("mps")),
    ):
        pass
