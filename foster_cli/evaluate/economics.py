"""What a synthetic set costs and saves: seconds to make it and to train on it, the trainings after which it has paid,
and bytes. In: a bundle, and the mean seconds of a training on all the data and on the set. Out: numbers, and a line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from foster_cli.bundle import Bundle, stated_sums


def economics(bundle: Bundle, full: float, own: float) -> dict[str, Any]:
    """`full`, `own`: seconds of one training on all the data and on the set; `make`: of the teacher and distillation.
    `pays_after`: the trainings after which the set has cost less in all; None if it never does. `bytes`, `data_bytes`:
    of the bundle, and of the files that it was made from; None if these are gone."""
    metrics, made = bundle.manifest["metrics"], bundle.made
    make = float(
        metrics.get("teacher_seconds", 0.0) + metrics.get("seconds_distill", metrics.get("seconds_select", 0.0))
    )
    files = [Path(p) for p in made.paths]
    return {
        "full": full, "own": own, "make": make, "pays_after": math.ceil(make / (full - own)) if full > own else None,
        "bytes": sum((bundle.path / name).stat().st_size for name in stated_sums(bundle.path)),
        "data_bytes": sum(p.stat().st_size for p in files) if files and all(p.is_file() for p in files) else None,
    }  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """The numbers in words."""
    full, own, pays, data = found["full"], found["own"], found["pays_after"], found["data_bytes"]
    said = f"one training takes {full:.0f} s on all the data and {own:.0f} s on the set"
    said += f" ({full / max(own, 1e-9):.0f} times less)" if own < full else ""
    said += f"; making the set took {found['make']:.0f} s and "
    said += "never pays" if pays is None else f"pays after {pays} training{'s' if pays != 1 else ''}"
    said += f"; {found['bytes'] / 1e6:.2f} MB" + ("" if data is None else f" instead of {data / 1e6:.2f} MB")
    return said
