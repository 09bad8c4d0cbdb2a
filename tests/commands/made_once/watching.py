"""Which models are trained, and an end to it at one of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from spying import spy

#: Whatever trains or makes something for a table, below `foster_cli.evaluate`.
TRAINING = (
    "rows.fit_synthetic", "rows.fit_real", "references.full_teacher", "references.fit_real", "references.mixture_of",
    "references.counting_row", "references.ranked", "compare.run", "compare.run_coreset", "compare.model_row",
    "references.model_row",
)  # fmt: skip


def trainings(
    patch: pytest.MonkeyPatch, owner: ModuleType, stop: Callable[[str], bool] = lambda label: False
) -> list[str]:
    """The labels of all trainings on a few sequences that `owner` begins from now on, in order.

    One that is to `stop` is interrupted, as Ctrl-C would.
    """
    seen: list[str] = []

    def saw(given: dict[str, Any]) -> None:
        seen.append(given["label"])
        if stop(given["label"]):
            raise KeyboardInterrupt

    spy(patch, owner, "synthetic_model", saw)
    spy(patch, owner, "few_model", saw)
    return seen
