"""Validation of D~ by fresh models."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from sequences import next_number_cases
from tiny_problem import D, L, N, drawn

from foster_cli.distill.validation import FreshCheck
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import PAPER
from foster_cli.synthetic.subset import uniform_subset


def test_fresh_check_uses_the_same_seeds_every_time(small_model: Callable[..., Any]) -> None:
    seeds: list[int] = []

    def fresh(seed: int) -> Any:
        seeds.append(seed)
        return small_model(N, D, L, seed=seed % 1000, double=False)

    V = small_model(N, D, L, seed=5, double=False).embed_all()
    student = StudentConfig(steps=4, check_every=2)
    subset = uniform_subset(N, 6, torch.device("cpu"))
    task: Any = SimpleNamespace(fresh=fresh, valid=next_number_cases(40, N, L, 1))
    check = FreshCheck(task, V, subset, PAPER, student, 3, 2)
    Q = drawn(double=False)
    first, second = check(Q, 0), check(Q, 5)
    assert first == second and set(first) == {"R@10", "N@10", "sd", "student_steps"}
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]
