"""What is said of the memory that a distillation needs, beside what its outer steps read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spying import spy

from foster_cli.baselines import METHODS, adapted
from foster_cli.data.schema import Dataset
from foster_cli.distill import algorithm2, follow, pipeline
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, ModelConfig, Settings, StudentConfig, TrainConfig


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("foster", {}),
        ("foster", {"outer": "bome", "real_batch": 7}),
        ("foster", {"steps": 0}),
        ("rollout", {}),
    ],
)
def test_the_memory_of_outer_steps_is_that_of_the_windows_they_read(
    method: str, config: dict[str, Any], dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, read = list[int](), set[int]()
    spy(monkeypatch, pipeline, "note_memory", lambda given: said.append(given["real_batch"]))
    spy(monkeypatch, follow, "target_positions", lambda given: read.add(len(given["windows"])))
    spy(monkeypatch, algorithm2, "real_batch", lambda given: read.add(len(given["windows"])))
    settings = Settings(
        model=ModelConfig(items="id", width=8, layers=1),
        train=TrainConfig(epochs=1, batch=32),
        distill=DistillConfig(**{"budget": 2, "length": 5, "steps": 2, "draws": 1, "check_seeds": 1, **config}),
        student=StudentConfig(steps=2),
        method=method,
    )
    loop = METHODS[method].loop
    pipeline.run(adapted(settings), dataset, tmp_path / "bundle", Session(use_cache=False), loop)
    assert len(said) == 1 and said[0] == pytest.approx(max(read, default=0), rel=0.2)  # batches are of about that size
    assert bool(read) == (adapted(settings).distill.steps > 0)
