"""Which settings of the distillation a report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foster_cli.baselines import adapted
from foster_cli.bundle import load
from foster_cli.report.gather import gather
from foster_cli.settings import DistillConfig, Settings

TD3 = {
    "budget", "length", "steps", "items_per_step", "check_every", "check_seeds", "exact", "init", "targets", "mix",
    "rank_user", "rank_time",
}  # fmt: skip
ALGORITHM_2 = {"eta", "barrier", "inner_steps", "alpha", "real_batch", "reset"}


@pytest.mark.parametrize(
    ("method", "config", "shown", "hidden"),
    [
        ("td3", {}, TD3, {"outer", "teacher", "model_lr", "gain", "draws"} | ALGORITHM_2),
        ("kcenter", {}, {"budget", "length"}, {"outer", "steps", "items_per_step"}),
        ("rollout", {}, {"outer", "draws", "gain", "targets", "steps"}, {"teacher", "model_lr"} | ALGORITHM_2),
        ("foster", {}, {"outer", "model_lr", "reset_every", "gain", "mix"}, ALGORITHM_2),
        ("foster", {"outer": "bome"}, {"outer", "model_lr", "reset_every", "gain"} | ALGORITHM_2, set()),
        ("of another program", {}, {"outer", "gain"}, ALGORITHM_2),
    ],
)
def test_settings_that_nothing_read_are_not_shown(
    make_bundle: Callable[..., Path], tmp_path: Path, method: str, config: dict[str, Any], shown: set[str],
    hidden: set[str],
) -> None:  # fmt: skip
    settings = Settings(distill=DistillConfig(**config), method=method)
    made = (settings if method == "of another program" else adapted(settings)).distill
    path = make_bundle(tmp_path / "b", method=method, distill=dataclasses.asdict(made))
    found = {name for name, _ in dict(gather(load(path), None, "gone").settings)["Distillation"]}
    assert shown <= found and not hidden & found
    if method in ("td3", "kcenter"):
        assert found == shown
