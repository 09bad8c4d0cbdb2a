"""Settings that are refused before anything slow begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from foster_cli.commands.shared import numbers
from foster_cli.distill.checks import check_budget, check_settings
from foster_cli.errors import FosterError
from foster_cli.settings import DistillConfig, ModelConfig, Settings, StudentConfig


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
        check_settings(Settings(model=ModelConfig(**model), distill=DistillConfig(**config)))


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
    settings = Settings()
    check_settings(settings)
    with pytest.raises(FosterError, match=next(iter(change))):
        check_settings(replace(settings, **{part: replace(getattr(settings, part), **change)}))


@pytest.mark.parametrize("value", ["10²", "²", "٣", "0", "", "1.5"])
def test_what_only_looks_like_a_number(value: str, call_foster: Callable[..., tuple[int, str, str]]) -> None:
    with pytest.raises(FosterError, match="--k"):
        numbers("--k", value)
    if value != "0":
        code, out, err = call_foster("distill", "x.parquet", "--student-items", value)
        assert code and not out and "--student-items" in err and "Traceback" not in err


@pytest.mark.parametrize("items", [0, 1])
def test_a_student_needs_two_items(items: int) -> None:
    with pytest.raises(FosterError, match="--student-items"):
        check_settings(Settings(student=StudentConfig(items_per_step=items)))


def test_more_sequences_than_windows_are_refused() -> None:
    check_budget(40, DistillConfig(budget=40))
    with pytest.raises(FosterError, match=r"--budget 41.*--budget 40"):
        check_budget(40, DistillConfig(budget=41))
