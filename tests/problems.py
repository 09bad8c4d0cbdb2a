"""A tiny outer problem on random recommenders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from foster_cli.data.windows import Windows
from foster_cli.distill.algorithm2 import Problem
from foster_cli.settings import DistillConfig, TrainConfig
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.anchors import Teacher


def make_problem(
    small_model: Callable[..., Any], n: int, width: int, windows: Windows, config: DistillConfig,
    anchors: Sequence[int], **more: Any,
) -> Problem:  # fmt: skip
    """In double, so that gradients can be compared; the teacher is `small_model` of seed 5, its anchors have others.

    `more`: see `small_model`.
    """

    def model(seed: int) -> Any:
        return small_model(n, width, config.length, seed=seed % 1000, **more)

    states, valid = [model(seed).learnables() for seed in anchors], {"R@10": 0.0}
    teacher = Teacher(model(5), states, [], valid, valid, 0.0, 0.0, False)
    subset = uniform_subset(n, config.items_per_step, torch.device("cpu"))
    return Problem(teacher, model, teacher.model.embed_all(), windows, subset, config, TrainConfig(negatives=6), 0)
