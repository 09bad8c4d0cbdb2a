"""A tiny surrogate: a recommender in double with large random weights, random windows and cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foster_cli.data.windows import Cases, Windows


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
