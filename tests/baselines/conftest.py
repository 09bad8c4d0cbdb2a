"""A tiny surrogate and a tiny problem: recommenders in double with large random weights, windows and cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from foster_cli.data.windows import Cases, Windows

if TYPE_CHECKING:
    from foster_cli.distill.loop import Problem


def random_windows(count: int, n: int, longest: int, seed: int) -> Windows:
    """`count` windows of 2…longest items out of n."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    items = np.where(np.arange(longest) < lengths[:, None], rng.integers(0, n, (count, longest)), -1)
    return Windows(items, lengths)


@pytest.fixture
def surrogate_of(torch_one: None) -> Callable[..., Any]:
    """`surrogate_of(windows=…, width=…, loss=…)`: a `Surrogate` with a head that narrows, four anchors, n = 14."""
    import torch

    from foster_cli.baselines.surrogate import Surrogate, histories
    from foster_cli.config import ModelConfig, TrainConfig
    from foster_cli.models.encoder import TextCache, TextEncoder
    from foster_cli.models.recommender import Recommender
    from foster_cli.train.anchors import Teacher

    def make(
        windows: int = 12, width: int = 6, loss: str = "softmax", negatives: int = 5, layers: int = 2
    ) -> Surrogate:
        texts = torch.randn(14, 8, generator=torch.Generator().manual_seed(1)).double()
        encoder = TextEncoder(TextCache(texts, None, None, 14, 8), None, "mean", False)
        model = Recommender(encoder, ModelConfig(layers=layers, heads=2, width=width), 6, 0).double().eval()
        rng = torch.Generator().manual_seed(3)
        anchors = []
        for _ in range(4):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn(p.shape, generator=rng).double() * 0.15)
            anchors.append(model.learnables())
        teacher = Teacher(model, anchors, [{"R@10": 0.0}], 0.0, 0.0, False)
        some = random_windows(windows, 14, 7, 0)
        valid: Cases = histories(random_windows(9, 14, 7, 1))
        users = np.arange(windows) // 2
        return Surrogate(teacher, some, users, valid, TrainConfig(loss=loss, negatives=negatives))

    return make


def next_number_windows(count: int, n: int, longest: int) -> Windows:
    """`count` windows of 2…longest items out of n; the next item is the next number: there is something to learn."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, longest + 1, count)
    items = (rng.integers(0, n, (count, 1)) + np.arange(longest)) % n
    return Windows(np.where(np.arange(longest) < lengths[:, None], items, -1), lengths)


@pytest.fixture
def problem(small_model: Callable[..., Any]) -> Problem:
    """In double, 11 items of width 8, all of them at each step; M = 4, L = 6; three anchors."""
    import torch

    from foster_cli.config import DistillConfig, TrainConfig
    from foster_cli.distill.inner import uniform_subset
    from foster_cli.distill.loop import Problem
    from foster_cli.train.anchors import Teacher

    n, d, length = 11, 8, 6
    config = DistillConfig(
        budget=4, length=length, steps=3, items_per_step=None, check_every=2, targets="next", mix=False
    )
    teacher = small_model(n, d, length, seed=5)
    anchors = [small_model(n, d, length, seed=s).learnables() for s in (6, 7, 8)]
    return Problem(
        Teacher(teacher, anchors, [], 0.0, 0.0, False), lambda seed: small_model(n, d, length, seed=seed % 1000),
        teacher.embed_all(), next_number_windows(32, n, length + 1), uniform_subset(n, None, torch.device("cpu")),
        config, TrainConfig(negatives=6), 0,
    )  # fmt: skip
