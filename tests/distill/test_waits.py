"""How often a step waits for a GPU, counted on a CPU: every operation whose result has to be known before the next one.

These are reads of a number, and selections by a mask, whose size is not known before. Copies are not seen here; the
figures of a real GPU are in docs/ops.md.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_problem import changed, fresh_start
from torch.utils._python_dispatch import TorchDispatchMode

from foster_cli.distill import algorithm2
from foster_cli.distill.algorithm1 import inner_steps
from foster_cli.distill.algorithm2 import Problem, State, outer_step
from foster_cli.runtime import adamw, generator
from foster_cli.synthetic.reading import Reading, SyntheticSet
from foster_cli.train.average import Average

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.repeat_interleave.Tensor,
}  # fmt: skip


class Count(TorchDispatchMode):
    """Counts operations, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.operations = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        # whole numbers are drawn on the CPU in any case
        drawn = (
            func is aten._local_scalar_dense.default and not args[0].is_floating_point() and args[0].dtype != torch.bool
        )
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if func is aten.index.Tensor else []
        self.waits += (func in WAITS and not drawn) + len(masks)
        return func(*args, **(kwargs or {}))


def test_a_step_on_the_synthetic_set_waits_for_nothing(problem: Problem) -> None:
    phi, Q = problem.fresh(1), torch.randn(3, 5, problem.V.shape[1], dtype=problem.V.dtype)
    D = SyntheticSet(Q, problem.V, problem.subset, Reading(mix=6))
    average, optimizer = Average(phi, 5), adamw(phi.groups(1e-3, 1e-3))
    with Count() as count:
        inner_steps(phi, D, 7, optimizer, generator(0, "steps"), average)
    assert count.waits == 0 and count.operations > 100


def test_an_outer_step_waits_once(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the row of the log, which is read once."""
    reads: list[int] = []
    monkeypatch.setattr(algorithm2, "read", lambda scalars: reads.append(len(scalars)) or {"q": 0.0})
    state = State.fresh(problem, fresh_start())
    outer_step(problem, state, 1)
    counts = []
    for steps in (2, 3):
        with Count() as count:
            outer_step(changed(problem, inner_steps=steps), state, 2)
        counts.append(count)
    assert len(reads) == 3 and [count.waits for count in counts] == [0, 0]
    assert counts[0].operations < counts[1].operations < 2200
