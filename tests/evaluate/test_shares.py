"""Ratios to what all the data give: a dash where that is nothing, and a line where training on it taught nothing."""

from __future__ import annotations

from typing import Any

import pytest

from foster_cli.bench.formats import train_cells
from foster_cli.evaluate.economics import line, ratio
from foster_cli.evaluate.formats import nothing_learned, shares, shares_words


def _rows(synthetic: float, full: float, untrained: float) -> dict[str, Any]:
    values = {"synthetic": synthetic, "full": full, "untrained": untrained}
    return {name: {"R@1": {"mean": value}, "cold R@1": None} for name, value in values.items()}


def test_nothing_is_divided_by_nothing() -> None:
    assert ratio(1.0, 0.0) is ratio(0.0, 0.0) is None and ratio(1.0, 4.0) == 0.25


@pytest.mark.parametrize(
    ("values", "shown", "said"),
    [
        ((0.018348623853211, 0.0, 0.1), "R@1 -", "full finds nothing (R@1 is 0)"),
        ((0.2, 0.2, 0.2), "R@1 1.000", "full is equal to untrained in R@1"),
        ((0.1, 0.2, 0.0), "R@1 0.500", None),
    ],
)
def test_the_share_of_the_full_data(values: tuple[float, float, float], shown: str, said: str | None) -> None:
    rows = _rows(*values)
    found = shares(rows, ["R@1", "cold R@1"])
    assert shares_words(found) == f"synthetic / full: {shown}, cold R@1 -"
    useless = nothing_learned(rows, ["R@1", "cold R@1"])
    assert (useless is None) == (said is None) and (said or "") in (useless or "")


def test_there_is_no_share_without_the_two_rows() -> None:
    assert shares({"full": {"R@1": {"mean": 0.1}}}, ["R@1"]) == {}


def test_a_training_of_no_step_is_not_so_many_times_faster() -> None:
    costs = {"full": 2.0, "own": 3e-9, "make": 5.0, "pays_after": 3, "bytes": 1000, "data_bytes": None}
    assert "times" not in line(costs) and "(2 times less)" in line({**costs, "own": 1.0})
    row = {"status": "done", "train_seconds": 0.0, **{m: {"mean": 0.1} for m in ("R@10", "N@10")}}
    entry = {"encoder": "ids", "train_layers": "none", "rows": {"full": row, "synthetic": row}, "made_seconds": None}
    assert train_cells({"bundles": [entry]})[0][-1] == "-"
