"""What validations of a D~ found, kept by content: none is made twice.

In: a `Check`, and what decides it beside D~. Out: the same `Check`, which reads `cells/check-*.json` first. Two rows of
an ablation, two trials of a search, that begin at the same start share its validations.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from torch import Tensor

from foster_cli.config import DistillConfig, StudentConfig
from foster_cli.distill.keep import digest
from foster_cli.distill.loop import Check
from foster_cli.distill.pipeline import Memory, Spent
from foster_cli.evaluate.cells import Cell, Cells
from foster_cli.ops.reading import Reading


def remembered(check: Check, cells: Cells, fields: dict[str, Any], spent: Spent = lambda seconds: None) -> Check:
    """`check`, once for each D~: what it found is kept under `fields` and the bytes of Q.

    `spent` is told the seconds that a check of an earlier call took.
    """

    def recalled(Q: Tensor) -> dict[str, float]:
        made = False

        def make() -> Cell:
            nonlocal made
            made, began = True, time.perf_counter()
            return Cell({**check(Q), "seconds": time.perf_counter() - began})

        record = dict(cells.cell("check", {**fields, "shape": list(Q.shape), "Q": digest(Q)}, make).record)
        seconds = record.pop("seconds", 0.0)  # one written before they were kept has none
        if not made:
            spent(seconds)
        return record

    return recalled


def check_fields(
    base: dict[str, Any], config: DistillConfig, student: StudentConfig, reading: Reading, count: int, seed: int
) -> dict[str, Any]:
    """What decides a validation of Q beside Q: `base` (data, encoder, teacher, versions), the students, how they
    read."""
    items = None if reading.items is None else reading.items.tolist()
    fixed = config.items_per_step if config.subset == "kmeans" else None
    return {
        **base, "student": dataclasses.asdict(student), "own": reading.own, "items": items, "mix": reading.mix,
        "subset": [config.subset, fixed], "count": count, "seed": seed,
    }  # fmt: skip


def memory(cells: Cells, base: dict[str, Any], config: DistillConfig, student: StudentConfig, seed: int) -> Memory:
    """What `pipeline.run` takes: all validations of a distillation with these settings, remembered in `cells`."""

    def remember(check: Check, reading: Reading, count: int, spent: Spent) -> Check:
        return remembered(check, cells, check_fields(base, config, student, reading, count, seed), spent)

    return remember
