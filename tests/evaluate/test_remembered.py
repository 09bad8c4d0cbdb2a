"""A validation of a D~ is made once for what decides it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foster_cli.config import DistillConfig, StudentConfig
from foster_cli.console import SILENT
from foster_cli.evaluate.cells import Cells
from foster_cli.evaluate.remembered import check_fields, memory, remembered
from foster_cli.ops.reading import PAPER


def test_once_for_each_content(tmp_path: Path) -> None:
    """Other values, another shape of the same values, or other students are other validations."""
    seen: list[tuple[int, ...]] = []

    def check(Q: Tensor) -> dict[str, float]:
        seen.append(tuple(Q.shape))
        return {"R@10": float(Q.sum())}

    cells, Q = Cells(tmp_path, SILENT), torch.arange(6.0).reshape(1, 2, 3)
    both = [remembered(check, cells, {"count": count}) for count in (1, 2)]
    assert [f(Q) for f in both for _ in range(2)] == [{"R@10": 15.0}] * 4 and len(seen) == 2
    assert both[0](Q.reshape(1, 3, 2)) == {"R@10": 15.0} and len(seen) == 3
    changed = Q.clone()
    changed[0, 1, 2] += 2**-21  # one step of float32 at 5
    both[0](changed)
    assert len(seen) == 4
    both[0](Q.transpose(1, 2).contiguous().transpose(1, 2))  # the layout in memory is no content
    assert len(seen) == 4


def test_the_seconds_of_one_that_was_read_are_told(tmp_path: Path) -> None:
    def check(Q: Tensor) -> dict[str, float]:
        time.sleep(0.02)
        return {"R@10": 0.5}

    told: list[float] = []
    cells, Q = Cells(tmp_path, SILENT), torch.zeros(1, 2, 3)
    for _ in range(3):
        keep = memory(cells, {"data": "x"}, DistillConfig(), StudentConfig(), 0)
        assert keep(check, PAPER, 2, told.append)(Q) == {"R@10": 0.5}
    (path,) = tmp_path.glob("check-*.json")
    kept = json.loads(path.read_text(encoding="utf-8"))["record"]
    assert told == [kept["seconds"]] * 2 and kept["seconds"] >= 0.02


@pytest.mark.parametrize("change", ["student", "subset", "count", "seed", "base", "mix", "own", "items"])
def test_what_decides_it(change: str) -> None:
    config, student, reading = DistillConfig(), StudentConfig(), PAPER
    plain = check_fields({"data": "x"}, config, student, reading, 2, 0)
    if change == "student":
        student = replace(student, lr=0.5)
    elif change == "subset":
        config = replace(config, subset="kmeans")
    elif change == "mix":
        reading = replace(reading, mix=4)
    elif change == "own":
        reading = replace(reading, own=True)
    elif change == "items":
        reading = replace(reading, items=torch.tensor([1, 2]))
    base = {"data": "y" if change == "base" else "x"}
    count, seed = 3 if change == "count" else 2, 1 if change == "seed" else 0
    assert check_fields(base, config, student, reading, count, seed) != plain
    assert (
        check_fields({"data": "x"}, replace(DistillConfig(), steps=7, dh_weight=0.0), StudentConfig(), PAPER, 2, 0)
        == plain
    )
