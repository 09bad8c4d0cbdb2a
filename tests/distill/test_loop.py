"""The outer loop: the best D~ by validation, the number of its steps, NaN, determinism."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_problem import changed, fresh_start, told

from foster_cli.distill import loop
from foster_cli.distill.algorithm2 import Problem, State
from foster_cli.distill.loop import bome
from foster_cli.errors import NotFinite


def _q(factors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.einsum("ma,tb,abd->mtd", factors["U"], factors["T"], factors["G"])


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.3, 0.2], 1), ([0.3, 0.3, 0.2], 0), ([0.1, 0.2, 0.3], 2)])
def test_the_best_validated_set_is_kept(problem: Problem, values: list[float], best: int) -> None:
    check, asked = told(values)
    out = bome(problem, fresh_start(), check)
    assert out.best_step == (0, 2, 4)[best]
    torch.testing.assert_close(_q(out.factors), asked[best])
    assert [row["step"] for row in out.checks] == [0.0, 2.0, 4.0]
    assert [row["step"] for row in out.log] == [1.0, 2.0, 3.0, 4.0] and out.stopped is None
    assert not torch.equal(asked[0], asked[2])


def test_the_last_step_is_always_validated(problem: Problem) -> None:
    check, _ = told([0.1, 0.2, 0.3])
    out = bome(changed(problem, steps=3), fresh_start(), check)
    assert [row["step"] for row in out.checks] == [0.0, 2.0, 3.0] and out.best_step == 3


def test_no_outer_step_gives_the_start(problem: Problem) -> None:
    synthetic = fresh_start()
    start = synthetic.factors()
    out = bome(changed(problem, steps=0), synthetic, told([0.1])[0])
    assert out.log == [] and out.best_step == 0 and len(out.checks) == 1
    assert all(torch.equal(out.factors[k], v) for k, v in start.items())


def test_the_same_seed_gives_the_same_set(problem: Problem) -> None:
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(outs))  # the global generators have no say
        np.random.seed(len(outs))
        start = fresh_start()
        outs.append(bome(replace(problem, seed=seed), start, told([0.1, 0.2, 0.3])[0]))
    for k in "UTG":
        assert torch.equal(outs[0].factors[k], outs[1].factors[k])
    assert any(not torch.equal(outs[0].factors[k], outs[2].factors[k]) for k in "UTG")
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in out.log] for out in outs]
    assert rows[0] == rows[1] != rows[2]


def test_the_first_steps_do_not_depend_on_how_many_follow(problem: Problem) -> None:
    short = bome(changed(problem, steps=2), fresh_start(), told([0.1, 0.2])[0])
    long = bome(problem, fresh_start(), told([0.1, 0.2, 0.15])[0])
    assert (short.best_step, long.best_step) == (2, 2)
    assert all(torch.equal(short.factors[k], long.factors[k]) for k in "UTG")


@pytest.mark.parametrize("where", ["row", "factors", "inner"])
def test_nan_stops_with_the_last_good_set(problem: Problem, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    original = loop.outer_step

    def step(problem: Problem, state: State, k: int) -> dict[str, float]:
        if k == 3 and where == "inner":
            with torch.no_grad():
                state.synthetic.G[0, 0, 0] = math.nan  # the inner loss meets it
        row = original(problem, state, k)
        if k == 3 and where == "row":
            row["outer_real"] = math.inf
        if k == 3 and where == "factors":
            with torch.no_grad():
                state.synthetic.U[0, 0] = math.nan
        return row

    monkeypatch.setattr(loop, "outer_step", step)
    check, asked = told([0.1, 0.2])
    out = bome(problem, fresh_start(), check)
    assert out.stopped is not None and out.stopped.startswith("step 4:")
    assert len(out.log) == 3 and out.best_step == 2
    assert all(torch.isfinite(v).all() for v in out.factors.values())
    torch.testing.assert_close(_q(out.factors), asked[1])


def test_a_fresh_model_that_diverges_on_the_set_does_not_lose_the_best(problem: Problem) -> None:
    def check(Q: torch.Tensor, step: int) -> dict[str, float]:
        calls.append(Q)
        if len(calls) == 2:
            raise NotFinite("the inner loss became nan")
        return {"R@10": 0.1}

    calls: list[torch.Tensor] = []
    out = bome(problem, fresh_start(), check)
    assert out.stopped is not None and out.best_step == 0
