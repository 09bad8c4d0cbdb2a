"""Quick trainings: a small configuration, a store that watches, cases of which some are of new items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sequences import next_number_cases, next_number_windows
from torch import Tensor

from foster_cli.data.windows import Cases, Windows
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender
from foster_cli.settings import ModelConfig, TrainConfig
from foster_cli.train.fit import NOWHERE, ResumeStore, fit_real

QUICK = TrainConfig(batch=32, epochs=3, negatives=20, patience=10, warmup=3, average=5)


class Watched(ResumeStore):
    """Stores nothing; `told` hears of every state that is validated."""

    def __init__(self, told: Callable[[int, Any], object]) -> None:
        self.told = told

    def saw(self, epoch: int, model: Any) -> None:
        self.told(epoch, model)


def trained(
    task: Any, config: TrainConfig = QUICK, seed: int = 0, model_seed: int = 0, store: ResumeStore = NOWHERE
) -> tuple[Any, Any]:
    """The course of a training on the windows of `task`, and the recommender."""
    model = task.fresh(model_seed)
    return fit_real(model, task.windows, task.valid, config, seed, store=store), model


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all parameters of `a` have the same bits in `b`."""
    return all(torch.equal(a[k], b[k]) for k in a)


def part_way(
    untrained: dict[str, Tensor], state: dict[str, Tensor], way: float, origin: float = 0.0
) -> dict[str, Tensor]:
    """`state` with the backbone (1 - way) untrained + way trained, in double; the rest as it is. From `origin` 1, what
    attentions add is only scaled by way."""

    def start(name: str) -> Tensor:
        return untrained[name].double() * (0.0 if origin and ".out." in name else 1.0)

    return {
        name: (1.0 - way) * start(name) + way * x.double() if name.startswith("sequence.") else x
        for name, x in state.items()
    }


#: The ways and origins that a validation tries, in its order.
PATHS = [(0.5, 0.0), (0.5, 1.0), (0.75, 0.0), (0.75, 1.0), (1.0, 0.0)]


def targets_of(windows: Windows) -> np.ndarray:
    """(B, l): the positions whose next item is a target of this window, not of the one before it."""
    items = windows.items[:, : windows.lengths.max()]
    first = np.zeros(len(windows)) if windows.first is None else windows.first
    return (items[:, 1:] >= 0) & (np.arange(items.shape[1] - 1) >= first[:, None])


def new_items(cases: int) -> tuple[Callable[[], Recommender], Windows, Cases]:
    """Forty items of which the last ten are new, in a third of the cases too."""
    known = torch.arange(40) < 30

    def fresh() -> Recommender:
        texts = torch.randn(40, 12, generator=torch.Generator().manual_seed(4))
        encoder = TextEncoder(TextCache(texts, None, None, 40, 12), None, "mean", False)
        return Recommender(encoder, ModelConfig(width=8, layers=1), 6, 0, known=known).eval()

    some = next_number_cases(cases, 30, 6)
    rng = np.random.default_rng(1)
    target = np.where(np.arange(cases) % 3 == 0, rng.integers(30, 40, cases), some.target)
    return fresh, next_number_windows(120, 30, 7), replace(some, target=target, new_share=0.5)


def small(items: str) -> Recommender:
    """Thirty items, all in training."""
    texts = torch.randn(30, 12, generator=torch.Generator().manual_seed(4))
    encoder = TextEncoder(TextCache(texts, None, None, 30, 12), None, "mean", False)
    return Recommender(encoder, ModelConfig(width=8, layers=1, items=items), 6, 0).eval()
