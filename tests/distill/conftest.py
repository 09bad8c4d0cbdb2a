"""A tiny outer problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from problems import make_problem
from sequences import random_windows
from tiny_problem import CONFIG, D, L, N

from foster_cli.distill.algorithm2 import Problem


@pytest.fixture
def problem(small_model: Callable[..., Any]) -> Problem:
    """M = 3, L = 5, 12 items of width 8, six of them at each step; three anchors, the teacher itself among them."""
    return make_problem(small_model, N, D, random_windows(30, N, L + 1), CONFIG, (6, 7, 5))
