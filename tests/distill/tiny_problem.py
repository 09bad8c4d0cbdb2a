"""A tiny `Problem` in double, where D~ starts in it, and a check that says what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foster_cli.distill.algorithm2 import Problem
from foster_cli.distill.validation import Check
from foster_cli.settings import DistillConfig, StudentConfig
from foster_cli.synthetic.factors import Synthetic, from_tensor
from foster_cli.synthetic.reading import make_reading

N, D, M, L = 12, 8, 3, 5
CONFIG = DistillConfig(
    budget=M, length=L, steps=4, items_per_step=6, inner_steps=2, real_batch=8, check_every=2, dh_items=4, reset_every=2
)


def drawn(seed: int = 0, double: bool = True) -> Tensor:
    """A random Q (M, L, D)."""
    dtype = torch.float64 if double else torch.float32
    return torch.randn(M, L, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fresh_start(seed: int = 0) -> Synthetic:
    """A random D~ of ranks 2 and 3."""
    return from_tensor(drawn(seed), 2, 3)[0]


def changed(problem: Problem, **changes: Any) -> Problem:
    """`problem` with other values of `DistillConfig`."""
    return replace(problem, config=replace(problem.config, **changes))


def own_start(seed: int = 0) -> Synthetic:
    """A random D~ with separate targets, of full rank."""
    Q = torch.randn(M, 2 * L, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return from_tensor(Q, None, None)[0]


def following(problem: Problem, **changes: Any) -> Problem:
    """`problem` with separate targets, read as `own_start` is, and quick students."""
    reading = make_reading(True, True, own_start()().detach(), problem.V)
    student = StudentConfig(steps=3, items_per_step=6, average=2)
    return replace(changed(problem, outer="follow", **changes), reading=reading, student=student)


def told(values: Sequence[float]) -> tuple[Check, list[Tensor]]:
    """A check that says `values` one after the other, and the Q it was asked about."""
    asked: list[Tensor] = []

    def check(Q: Tensor, step: int) -> dict[str, float]:
        asked.append(Q.clone())
        return {"R@10": values[len(asked) - 1]}

    return check, asked


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states hold the same tensors."""
    return all(torch.equal(a[k], b[k]) for k in a)
