"""The compared methods, by name. Importing this loads no torch: the command line reads it for `--help`.

A coreset method is a module here with `select(surrogate, M, rng, console) -> (M,)`, indices of real training
windows, and an entry in METHODS with `real=True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

    from foster_cli.baselines.surrogate import Surrogate
    from foster_cli.console import Console
    from foster_cli.data.windows import Int


class Select(Protocol):
    """Chooses `M` of the surrogate's training windows; deterministic given the generator. Returns indices (M,)."""

    def __call__(self, surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console) -> Int: ...


@dataclass(frozen=True)
class Method:
    """A way to shrink a dataset. `real`: it chooses real sequences (a coreset); else it makes a synthetic set."""

    name: str
    description: str
    real: bool = True


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("foster", "the paper's", real=False),
        Method("random", "random users"),
        Method("kcenter", "farthest points"),
        Method("herding", "mean matching"),
        Method("dealrec", "influence and effort"),
        Method("goracs", "optimal transport"),
        Method("nacs", "noise-aware gradients"),
        Method("rollout", "foster's starting point alone", real=False),
        Method("td3", "bi-level Tucker", real=False),
    )
}


def selector(name: str) -> Select:
    """The `select` of the coreset method `name` (an entry of METHODS that is `real`)."""
    return cast(Select, import_module(f"foster_cli.baselines.{name}").select)
