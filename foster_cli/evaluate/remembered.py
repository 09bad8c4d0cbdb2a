"""A cache of validation results, keyed by the content of D~, so that no validation runs twice.

In: a `FreshCheck`, and the other fields that its result depends on. Out: a `Check` that reads `cells/check-*.json`
first. Two rows of an ablation, or two trials of a search, with the same start share its validations.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foster_cli.distill.run_folder import digest
from foster_cli.distill.validation import Check, FreshCheck
from foster_cli.evaluate.cells import Cell, Cells
from foster_cli.settings import DistillConfig


def check_fields(base: dict[str, Any], config: DistillConfig, check: FreshCheck) -> dict[str, Any]:
    """The fields that a validation of Q depends on besides Q: `base` (data, encoder, teacher, versions), the students
    and their reading."""
    reading = check.reading
    items = None if reading.items is None else reading.items.tolist()
    fixed = config.items_per_step if config.subset == "kmeans" else None
    return {
        **base, "student": dataclasses.asdict(check.student), "own": reading.own, "items": items, "mix": reading.mix,
        "subset": [config.subset, fixed], "count": check.count, "seed": check.seed,
        "teacher": None if check.answers is None else [digest(check.answers), digest(check.V)],
    }  # fmt: skip


@dataclass(frozen=True)
class Remembered:
    """A `ValidationCache` in `cells`, for distillations with `config`. `base`: see `check_fields`."""

    cells: Cells
    base: dict[str, Any]
    config: DistillConfig

    def __call__(self, check: FreshCheck, spent: Callable[[float], None] = lambda seconds: None) -> Check:
        """`check`, run once for each D~. `spent` is called with the seconds that a stored check took when it ran."""
        fields = check_fields(self.base, self.config, check)

        def recalled(Q: Tensor, step: int) -> dict[str, float]:
            made = False

            def make() -> Cell:
                nonlocal made
                made, began = True, time.perf_counter()
                return Cell({**check(Q, step), "seconds": time.perf_counter() - began})

            cell = self.cells.cell("check", {**fields, "shape": list(Q.shape), "Q": digest(Q)}, make)
            record = dict(cell.record)
            seconds = record.pop("seconds", 0.0)  # a cell of an older version has none
            if not made:
                spent(seconds)
            return record

        return recalled
