"""A tiny surrogate and a tiny problem: recommenders in double with large random weights, windows and cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems import make_problem
from sequences import next_number_windows, random_windows

from foster_cli.baselines.surrogate import Surrogate, histories
from foster_cli.distill.algorithm2 import Problem
from foster_cli.models.encoder import TextCache, TextEncoder
from foster_cli.models.recommender import Recommender
from foster_cli.settings import DistillConfig, ModelConfig, TrainConfig
from foster_cli.train.anchors import Teacher


@pytest.fixture
def surrogate_of(torch_one: None) -> Callable[..., Any]:
    """`surrogate_of(windows=…, loss=…, known=…, **more)`: a `Surrogate` with a head that narrows, four anchors,
    n = 14. It is the paper's, texts alone and no bias, unless `more` has other fields of `ModelConfig`.
    """

    def make(
        windows: int = 12, width: int = 6, loss: str = "softmax", negatives: int = 5, layers: int = 2,
        known: torch.Tensor | None = None, **more: Any,
    ) -> Surrogate:  # fmt: skip
        texts = torch.randn(14, 8, generator=torch.Generator().manual_seed(1)).double()
        encoder = TextEncoder(TextCache(texts, None, None, 14, 8), None, "mean", False)
        config = ModelConfig(
            **{
                "layers": layers,
                "heads": 2,
                "width": width,
                "items": "text",
                "bias": False,
                "backbone": "sasrec",
                **more,
            }
        )
        model = Recommender(encoder, config, 6, 0, known=known).double().eval()
        rng = torch.Generator().manual_seed(3)
        anchors = []
        for _ in range(4):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn(p.shape, generator=rng).double() * 0.15)
            anchors.append(model.learnables())
        teacher = Teacher(model, anchors, [{"R@10": 0.0}], {"R@10": 0.0}, {"R@10": 0.0}, 0.0, 0.0, False)
        some = random_windows(windows, 14, 7, 0)
        valid = histories(random_windows(9, 14, 7, 1))
        users = np.arange(windows) // 2
        return Surrogate(teacher, some, users, valid, TrainConfig(loss=loss, negatives=negatives))

    return make


@pytest.fixture
def problem(small_model: Callable[..., Any]) -> Problem:
    """M = 4, L = 6, 11 items of width 8, all of them at each step; three anchors."""
    config = DistillConfig(budget=4, length=6, steps=3, items_per_step=None, check_every=2, targets="next", mix=False)
    return make_problem(small_model, 11, 8, next_number_windows(32, 11, 7), config, (6, 7, 8))
