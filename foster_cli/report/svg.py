"""Charts as inline SVG: axes, labels and lines, coloured by the page's style sheet, readable without scripts.

In: `content.Chart`, `Results`, `ItemMap`. Out: markup, and for a chart the numbers that the page's script shows on
hovering. A chart is 400 units wide, about a phone's width, so that its text stays readable there. All text is escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from foster_cli.report.content import Chart, Float, ItemMap, Results

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 14, 44
#: About the width of a character in the names of rows.
CHARACTER = 6.4
MAP_WIDTH = 1000


def linear_ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    size = max(abs(low), abs(high))
    if not high - low > max(1e-9 * size, 1e-300):  # no range, or one that doubles cannot divide
        pad = size * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / 4  # about five ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around [low, high]; only every second or third if there are many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = max(1, math.ceil((last - first) / 6))
    return [10.0**k for k in range(first, last + every, every)]


def tick_label(value: float) -> str:
    """A short label: 0.05, 1,000, 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}" if abs(value) < 1e3 else f"{value:,.0f}"


@dataclass(frozen=True)
class Axis:
    """Maps data `low`…`high` to units `start`…`stop`, on a logarithmic scale with `log`. Ticks are in this range."""

    ticks: list[float]
    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def over(cls, low: float, high: float, start: float, stop: float, log: bool = False, tight: bool = False) -> Axis:
        """An axis for data from `low` to `high`. It runs from tick to tick or, if `tight`, from `low` to `high`."""
        ticks = log_ticks(low, high) if log else linear_ticks(low, high)
        if not tight or not high > low:
            return cls(ticks, ticks[0], ticks[-1], start, stop, log)
        within = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        return cls(within, low, high, start, stop, log)

    def at(self, value: Any) -> Any:
        """Convert a number or an array to units."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), np.log10(value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def axes(chart: Chart) -> tuple[Axis, Axis]:
    """The x and y axis of a chart. They span everything that is drawn, including the levels."""
    ys = np.concatenate([s.y[np.isfinite(s.y)] for s in chart.series] + [np.array([v for _, v in chart.levels])])
    low, high = float(ys.min()), float(ys.max())
    x_low, x_high = float(chart.x.min()), float(chart.x.max())
    if not chart.log_x and 0 < x_low <= 1 < x_high:
        x_low = 0.0  # steps are counted from 1, an axis from 0
    return (
        Axis.over(x_low, x_high, LEFT, WIDTH - RIGHT, chart.log_x, tight=True),
        Axis.over(low, high, HEIGHT - BOTTOM, TOP, chart.log_y),
    )


def line_path(x: Float, y: Float) -> str:
    """The attribute `d` of a path through the points, broken where y is not finite."""
    parts, pen = [], "M"
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if not math.isfinite(b):
            pen = "M"
            continue
        parts.append(f"{pen}{a:.1f},{b:.1f}")
        pen = "L"
    return "".join(parts)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    """Grid, tick labels and axis labels."""
    out = []
    for tick in y.ticks:
        at = y.at(tick)
        out.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>')
    for tick in x.ticks:
        at = x.at(tick)
        out.append(f'<path class="tick" d="M{at:.1f},{HEIGHT - BOTTOM}v4"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick_label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
        f'<text class="label" transform="translate(11 {height}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return out


def chart_svg(chart: Chart) -> tuple[Markup, dict[str, Any]]:
    """The drawing, and the data shown on hovering: units of x, values of x and y, labels."""
    x, y = axes(chart)
    out = _frame(x, y, chart.x_label, chart.y_label)
    for label, value in chart.levels:
        at = y.at(value)
        out.append(f'<path class="level" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT}"/>')
        above = at - 5 if at > TOP + 14 else at + 14
        out.append(
            f'<text class="level" x="{WIDTH - RIGHT - 2}" y="{above:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    px = x.at(chart.x)
    for series in chart.series:
        with np.errstate(divide="ignore", invalid="ignore"):
            py = y.at(series.y)
        out.append(f'<path class="line {series.role}" d="{line_path(px, py)}"/>')
        if chart.marks or len(chart.x) == 1:
            dots = "".join(f"M{a:.1f},{b:.1f}h0" for a, b in zip(px, py, strict=True) if math.isfinite(b))
            out.append(f'<path class="dots {series.role}" d="{dots}"/>')
    out.append(f'<path class="cursor" d="M0,{TOP}V{HEIGHT - BOTTOM}" visibility="hidden"/>')
    described = f"{chart.title}: {chart.y_label} over {chart.x_label}. {summary(chart)}"
    svg = Markup(  # every part of it is a number or escaped
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{"".join(out)}</svg>'
    )
    shown = {
        "px": [round(float(v), 1) for v in px],
        "x": [_short(v) for v in chart.x],
        "x_label": chart.x_label,
        "series": [{"label": s.label, "role": s.role, "y": [_short(v) for v in s.y]} for s in chart.series],
    }
    return svg, shown


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def summary(chart: Chart) -> str:
    """The first and last value of each line in words, for readers who cannot see the drawing."""
    parts = []
    for s in chart.series:
        found = s.y[np.isfinite(s.y)]
        parts.append(f"{s.label}: from {found[0]:.4g} to {found[-1]:.4g}")
    return "; ".join(parts) + "."


def interval_svg(results: Results) -> Markup:
    """The first metric of every row as a point with its 95 % interval, on one axis."""
    name, step = results.metrics[0], 26
    left = 16 + CHARACTER * max(len(label) for label, _, _ in results.rows)
    values = [row[1][name] for row in results.rows]
    axis = Axis.over(min(v["low"] for v in values), max(v["high"] for v in values), left, WIDTH - RIGHT)
    height = TOP + step * len(values) + BOTTOM - 6
    base = TOP + step * len(values)
    out = []
    for tick in axis.ticks:
        at = axis.at(tick)
        out.append(f'<path class="grid" d="M{at:.1f},{TOP - 6}V{base}"/>')
        out.append(f'<text x="{at:.1f}" y="{base + 16}" text-anchor="middle">{tick_label(tick)}</text>')
    for i, ((label, _, _), value) in enumerate(zip(results.rows, values, strict=True)):
        at, role = TOP + step * i + step / 2 - 4, "synthetic" if i == 0 else "real"
        low, mean, high = (axis.at(value[key]) for key in ("low", "mean", "high"))
        out.append(f'<text class="row" x="{left - 10}" y="{at + 4}" text-anchor="end">{escape(label)}</text>')
        out.append(f'<path class="range {role}" d="M{low:.1f},{at}H{high:.1f}"/>')
        out.append(f'<path class="dots {role}" d="M{mean:.1f},{at}h0"/>')
    out.append(
        f'<text class="label" x="{(left + WIDTH - RIGHT) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{escape(name)}, 95 % interval</text>"
    )
    words = "; ".join(
        f"{label} {v['mean']:.4f} ({v['low']:.4f} to {v['high']:.4f})"
        for (label, _, _), v in zip(results.rows, values, strict=True)
    )
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{name}: {words}")}">'
    ) + Markup("".join(out) + "</svg>")


def map_places(drawn: ItemMap) -> tuple[list[tuple[int, int]], int]:
    """Integer units (p, 2) of the map's items, y downwards, and the map's height. Both axes have the same scale."""
    low, high = drawn.xy.min(0), drawn.xy.max(0)
    span = np.maximum(high - low, 1e-12)
    height = int(np.clip(MAP_WIDTH * span[1] / span[0], 400, 900))
    scale = min((MAP_WIDTH - 40) / span[0], (height - 40) / span[1])
    centred = (drawn.xy - (low + high) / 2) * scale
    x, y = centred[:, 0] + MAP_WIDTH / 2, height / 2 - centred[:, 1]
    return list(zip(x.round().astype(int).tolist(), y.round().astype(int).tolist(), strict=True)), height


def map_svg(drawn: ItemMap) -> Markup:
    """One dot per item in one path (`M12,34h0…`, in the order of `drawn.items`), and a layer for the sequences."""
    places, height = map_places(drawn)
    dots = "".join(f"M{x},{y}h0" for x, y in places)
    words = f"{len(places):,} items by the first two principal components of their vectors."
    return Markup(
        f'<svg id="map" viewBox="0 0 {MAP_WIDTH} {height}" role="img" aria-label="{words}">'
        f'<path id="cloud" d="{dots}"/><g id="trails"></g></svg>'
    )
