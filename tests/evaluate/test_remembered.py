"""A validation of a D~ is made once for what decides it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foster_cli.console import SILENT
from foster_cli.distill.validation import FreshCheck
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.remembered import Remembered, check_fields
from foster_cli.settings import DistillConfig, StudentConfig
from foster_cli.synthetic.reading import PAPER


@dataclass(frozen=True)
class Answered(FreshCheck):
    """A validation that trains nothing: `answer` says what is found on Q."""

    answer: Callable[[Tensor], dict[str, float]] = lambda Q: {}

    def __call__(self, Q: Tensor, step: int) -> dict[str, float]:
        return self.answer(Q)


def answered(answer: Callable[[Tensor], dict[str, float]], count: int = 2) -> FreshCheck:
    nothing: Any = None  # the task, V and the subset of items: an `Answered` reads none of them
    return Answered(nothing, nothing, nothing, PAPER, StudentConfig(), 0, count, answer=answer)


def test_once_for_each_content(tmp_path: Path) -> None:
    """Other values, another shape of the same values, or other students are other validations."""
    seen: list[tuple[int, ...]] = []

    def found(Q: Tensor) -> dict[str, float]:
        seen.append(tuple(Q.shape))
        return {"R@10": float(Q.sum())}

    cache, Q = Remembered(Cells(tmp_path, SILENT), {}, DistillConfig()), torch.arange(6.0).reshape(1, 2, 3)
    both = [cache(answered(found, count)) for count in (1, 2)]
    assert [f(Q, step) for f in both for step in range(2)] == [{"R@10": 15.0}] * 4 and len(seen) == 2
    assert both[0](Q.reshape(1, 3, 2), 0) == {"R@10": 15.0} and len(seen) == 3
    changed = Q.clone()
    changed[0, 1, 2] += 2**-21  # one step of float32 at 5
    both[0](changed, 0)
    assert len(seen) == 4
    both[0](Q.transpose(1, 2).contiguous().transpose(1, 2), 0)  # the layout in memory is no content
    assert len(seen) == 4


def test_the_seconds_of_one_that_was_read_are_told(tmp_path: Path) -> None:
    def found(Q: Tensor) -> dict[str, float]:
        time.sleep(0.02)
        return {"R@10": 0.5}

    told: list[float] = []
    cells, Q = Cells(tmp_path, SILENT), torch.zeros(1, 2, 3)
    for _ in range(3):
        cache = Remembered(cells, {"data": "x"}, DistillConfig())
        assert cache(answered(found), told.append)(Q, 0) == {"R@10": 0.5}
    (path,) = tmp_path.glob("check-*.json")
    stored = json.loads(path.read_text(encoding="utf-8"))["record"]
    assert told == [stored["seconds"]] * 2 and stored["seconds"] >= 0.02


@pytest.mark.parametrize("change", ["student", "subset", "count", "seed", "base", "mix", "own", "items"])
def test_what_decides_it(change: str) -> None:
    config, check = DistillConfig(), answered(lambda Q: {})
    plain = check_fields({"data": "x"}, config, check)
    changed: dict[str, Any] = {
        "student": {"student": replace(check.student, lr=0.5)}, "count": {"count": 3}, "seed": {"seed": 1},
        "mix": {"reading": replace(PAPER, mix=4)}, "own": {"reading": replace(PAPER, own=True)},
        "items": {"reading": replace(PAPER, items=torch.tensor([1, 2]))},
    }  # fmt: skip
    other = replace(config, subset="kmeans") if change == "subset" else config
    base = {"data": "y" if change == "base" else "x"}
    assert check_fields(base, other, replace(check, **changed.get(change, {}))) != plain
    assert check_fields({"data": "x"}, replace(config, steps=7, dh_weight=0.0), check) == plain
