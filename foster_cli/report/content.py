"""The content of a report as plain values, from which both the page and the figures are drawn.

Shapes: M sequences, L positions, n items; a chart has one x (p,) and series y (p,) with NaN for missing values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """One line of a chart. `role`: real, synthetic, goal or other; it sets colour and dash."""

    label: str
    y: Float
    role: str = "synthetic"


@dataclass(frozen=True)
class Chart:
    """Lines over one x. `levels`: horizontal lines (label, value). `marks`: points are drawn on the lines."""

    key: str
    title: str
    x_label: str
    y_label: str
    x: Float
    series: list[Series]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    levels: list[tuple[str, float]] = field(default_factory=list)
    marks: bool = False


@dataclass(frozen=True)
class Position:
    """One position of a sequence: its most probable items, and over how many items it is spread.

    `items` and `probability` (top,), falling; `spread` = exp(entropy): 1 for a single item, n for equal probabilities.
    """

    items: Int
    probability: Float
    spread: float


@dataclass(frozen=True)
class Sequence:
    """One synthetic user: the input of each position, and the target after it if there are separate targets."""

    read: list[Position]
    goals: list[Position]


@dataclass(frozen=True)
class ItemMap:
    """V in two dimensions. `items` (p,) are drawn at `xy` (p, 2); `explained` (2,): shares of variance.

    The most probable item of every position is drawn. `total` is n.
    """

    items: Int
    xy: Float
    explained: Float
    total: int


@dataclass(frozen=True)
class Results:
    """The table of `foster eval`. `rows`: (name, mean/low/high per metric, other cells by their name)."""

    metrics: list[str]
    rows: list[tuple[str, dict[str, dict[str, float]], dict[str, str]]]
    paired: list[tuple[str, dict[str, dict[str, float]]]]
    title: str
    notes: list[str]
    share: float | None  # synthetic / full, in the first metric; None if there is none
    compared: bool = False  # whether both rows are there


@dataclass(frozen=True)
class Report:
    """Everything that a report shows. `missing_*` say why a part is missing and what to do."""

    name: str
    path: str
    method: str
    real: bool  # the M sequences are real ones (a coreset)
    own: bool  # positions have separate targets
    lead: str
    tiles: list[tuple[str, str, str]]  # value, label, detail
    facts: list[tuple[str, list[tuple[str, str]]]]
    settings: list[tuple[str, list[tuple[str, str]]]]
    results: Results | None
    missing_results: str
    curves: list[Chart]
    missing_curves: str
    popularity: list[Chart]
    missing_real: str
    map: ItemMap
    sequences: list[Sequence]
    titles: list[str]  # n, untrusted and unescaped
    ids: list[str]  # n, untrusted and unescaped
