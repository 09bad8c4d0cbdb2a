"""What a synthetic set costs and saves: seconds to make it and to train on it, the trainings after which it has paid,
and bytes. In: a bundle, and the mean seconds of a training on all the data and on the set. Out: numbers, and a line.
Also the ratio of two numbers, which a table may not have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foster_cli.bundle import FILES, WINDOWS, Bundle

#: A metric, or seconds, below this is nothing to divide by.
NOTHING = 1e-6
#: What a row of the table needs of a bundle, of the files that it has; all others need the data.
NEEDS = {
    "synthetic": (*FILES, WINDOWS), "synthetic_text": FILES, "without_factor": FILES,
    "item_factor": ("item_factor.safetensors", "items.parquet"), "untrained": ("items.parquet",),
    "text_similarity": ("items.parquet",),
}  # fmt: skip


def ratio(value: float, whole: float) -> float | None:
    """`value` / `whole`; None where `whole` is 0, or so near that the quotient says nothing."""
    return value / whole if abs(whole) > NOTHING else None


def data_bytes(paths: Iterable[str]) -> int | None:
    """The size of the files of the data; None if one is gone, or there are none."""
    files = [Path(p) for p in paths]
    return sum(p.stat().st_size for p in files) if files and all(p.is_file() for p in files) else None


def needed(name: str, bundle: Path, data: int | None) -> int | None:
    """The bytes that the row `name` needs, weights of encoders aside. `data`: those of the data, None if unknown."""
    if name not in NEEDS:
        return data
    return sum((bundle / file).stat().st_size for file in NEEDS[name] if (bundle / file).is_file())


def mean_bytes(name: str, bundles: Sequence[Bundle], data: int | None) -> int | None:
    """The mean of `needed` over the bundles, rounded; None if it is unknown."""
    found = [size for bundle in bundles if (size := needed(name, bundle.path, data)) is not None]
    return round(sum(found) / len(found)) if found else None


def make_seconds(bundle: Bundle) -> float:
    """The seconds of the teachers and the distillation, as far as the bundle says."""
    m = bundle.manifest.get("metrics", {})
    teachers = m.get("teacher_seconds", 0.0) + sum(m.get("teacher", {}).get("seconds", {}).values())
    return float(teachers + m.get("seconds_distill", m.get("seconds_select", 0.0)))


def economics(bundles: Sequence[Bundle], full: float, own: float) -> dict[str, Any]:
    """`full`, `own`: seconds of one training on all the data and on the set; `make`: of the teachers and distillation.
    `pays_after`: the trainings after which the set has cost less in all; None if it never does. `bytes`, `data_bytes`:
    of the bundle, and of the files that it was made from; None if these are gone. Of several bundles, from the same
    data: the means."""
    data = data_bytes(bundles[0].made.paths)
    make = sum(make_seconds(bundle) for bundle in bundles) / len(bundles)
    return {
        "full": full, "own": own, "make": make, "pays_after": math.ceil(make / (full - own)) if full > own else None,
        "bytes": mean_bytes("synthetic", bundles, data), "data_bytes": data,
    }  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """The numbers in words."""
    full, own, pays, data = found["full"], found["own"], found["pays_after"], found["data_bytes"]
    said = f"one training takes {full:.0f} s on all the data and {own:.0f} s on the set"
    times = ratio(full, own)
    said += f" ({times:.0f} times less)" if own < full and times is not None else ""
    said += f"; making the set took {found['make']:.0f} s and "
    said += "never pays" if pays is None else f"pays after {pays} training{'s' if pays != 1 else ''}"
    said += f"; {found['bytes'] / 1e6:.2f} MB" + ("" if data is None else f" instead of {data / 1e6:.2f} MB")
    return said
