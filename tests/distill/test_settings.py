"""How S is drawn by the settings, and settings that are refused before anything slow begins."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from foster_cli.commands.settings import items_per_step, numbers
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.distill.loop import make_subset
from foster_cli.distill.pipeline import check_settings
from foster_cli.errors import FosterError

CONFIG = DistillConfig(items_per_step=6)


def test_kmeans_items_are_fixed_and_spread() -> None:
    centres = 50.0 * torch.eye(4)
    V = centres.repeat(10, 1) + torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    config = replace(CONFIG, subset="kmeans", items_per_step=4)
    draw = make_subset(config, V, 0)
    S = draw(torch.Generator())
    assert torch.equal(S, draw(torch.Generator().manual_seed(9))) and torch.equal(
        S, make_subset(config, V, 0)(torch.Generator())
    )
    assert sorted((S % 4).tolist()) == [0, 1, 2, 3]  # one item of each of the four groups
    for size in (None, 40, 41):
        with pytest.raises(FosterError, match="kmeans"):
            make_subset(replace(config, items_per_step=size), V, 0)


def test_the_default_subset_is_fresh_every_time() -> None:
    draw, rng = make_subset(CONFIG, torch.zeros(100, 2), 0), torch.Generator().manual_seed(0)
    assert len({tuple(draw(rng).tolist()) for _ in range(10)}) == 10


@pytest.mark.parametrize(("items", "expected"), [(9, 9), (None, 100), (1000, 100)])
def test_a_student_draws_as_many_items_as_it_is_told(items: int | None, expected: int) -> None:
    draw = make_subset(CONFIG, torch.zeros(100, 2), 0, StudentConfig(items_per_step=items))
    S = draw(torch.Generator().manual_seed(0))
    assert len(S) == len(S.unique()) == expected


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ({}, {"dh_items": 1}),
        ({"heads": 0}, {}),
        ({"layers": 0}, {}),
        ({"dropout": 1.0}, {}),
        ({"train_layers": "²"}, {}),
        ({"precision": "fp8"}, {}),
    ],
)
def test_settings_that_cannot_work_are_refused_early(model: dict[str, Any], config: dict[str, Any]) -> None:
    with pytest.raises(FosterError):
        check_settings(ModelConfig(**model), TrainConfig(), DistillConfig(**config), StudentConfig())


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("train", {"average": 0}), ("train", {"weight_decay": -1.0}), ("train", {"encoder_lr": -1.0}),
        ("train", {"warmup": -5}), ("student", {"average": 0}), ("student", {"weight_decay": -1.0}),
        ("student", {"encoder_lr": math.nan}), ("student", {"patience": 0}),
        ("distill", {"synthetic_weight_decay": -1.0}),
    ],
)  # fmt: skip
def test_what_only_a_settings_file_can_say(part: str, change: dict[str, Any]) -> None:
    given = {"train": TrainConfig(), "distill": DistillConfig(), "student": StudentConfig()}
    check_settings(ModelConfig(), given["train"], given["distill"], given["student"])  # type: ignore[arg-type]
    given[part] = replace(given[part], **change)  # type: ignore[type-var]
    with pytest.raises(FosterError, match=next(iter(change))):
        check_settings(ModelConfig(), given["train"], given["distill"], given["student"])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["10²", "²", "٣", "0", "", "1.5"])
def test_what_only_looks_like_a_number(value: str) -> None:
    with pytest.raises(FosterError, match="--k"):
        numbers("--k", value)
    if value != "0":
        with pytest.raises(FosterError, match="--student-items"):
            items_per_step("--student-items", value)


@pytest.mark.parametrize("items", [0, 1])
def test_a_student_needs_two_items(items: int) -> None:
    student = StudentConfig(items_per_step=items)
    with pytest.raises(FosterError, match="--student-items"):
        check_settings(ModelConfig(), TrainConfig(), DistillConfig(), student)
