"""The ranges of `foster sweep`: what the texts of `--over` mean, and which are refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.errors import FosterError
from foster_cli.evaluate.parameters import PARAMETERS, parse_over
from foster_cli.settings import DistillConfig


def test_ranges() -> None:
    found = parse_over(["M=40,10,20", "lambda=0.1, 0,1e-2", "S=all,64", "reset-every=5,50", "inner_steps=1,2"])
    assert [(r.parameter.field, r.values) for r in found] == [
        ("budget", (10, 20, 40)), ("dh_weight", (0.0, 0.01, 0.1)), ("items_per_step", (64, None)),
        ("reset_every", (5, 50)), ("inner_steps", (1, 2)),
    ]  # fmt: skip
    fields = {f.name for f in dataclasses.fields(DistillConfig)}
    assert {p.field for p in PARAMETERS.values()} <= fields
    assert {"budget", "items_per_step", "reset_every", "dh_weight", "inner_steps"} <= {
        p.field for p in PARAMETERS.values()
    }


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["bugdet=1,2"], ("--over bugdet", "did you mean budget?")),
        (["budget"], ("--over budget", "no values", "--over budget=10,20,40")),
        (["budget="], ("no values",)),
        (["=1,2"], ("--over", "unknown")),
        (["budget=10"], ("one value",)),
        (["budget=10,10"], ("one value",)),
        (["budget=10,0"], ("--over budget=0", "whole numbers of 1 or more")),
        (["budget=10,2.5"], ("--over budget=2.5", "whole numbers")),
        (["budget=10,all"], ("--over budget=all",)),
        (["S=1,4"], ("--over items-per-step=1", "of 2 or more, or all")),
        (["lambda=0,-1"], ("--over dh-weight=-1", "numbers of 0 or more")),
        (["lambda=0,nan"], ("--over dh-weight=nan",)),
        (["lambda=0,inf"], ("--over dh-weight=inf",)),
        (["tau=1,2", "reset-every=3,4"], ("reset-every", "given twice")),
    ],
)
def test_wrong_ranges(over: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(FosterError) as caught:
        parse_over(over)
    assert all(word in f"{caught.value.message}; {caught.value.hint}" for word in words)


@given(
    st.text(max_size=30) | st.builds("{}={}".format, st.sampled_from(["budget", "lambda", "S"]), st.text(max_size=20))
)
def test_any_text_is_a_range_or_a_foster_error(text: str) -> None:
    try:
        (found,) = parse_over([text])
    except FosterError:
        return
    numbers = [v for v in found.values if v is not None]
    assert len(found.values) > 1 and numbers == sorted(set(numbers))
    assert all(found.parameter.least <= v < math.inf for v in numbers)
