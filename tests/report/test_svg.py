"""Axes, paths and labels of the drawings, read back from the markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.report.content import Chart, ItemMap, Results, Series
from foster_cli.report.svg import (
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    chart_svg,
    interval_svg,
    line_path,
    linear_ticks,
    log_ticks,
    map_places,
    map_svg,
    tick_label,
)

EVIL = '</svg><script>x</script>"&'
_finite = st.floats(-1e9, 1e9)


@given(_finite, _finite)
def test_linear_ticks_cover_the_range_evenly(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if 0 < high - low < 1e-9 * max(abs(low), abs(high)):
        return  # closer than doubles can tell apart
    ticks = linear_ticks(low, high)
    gaps = np.diff(ticks)
    size = max(abs(t) for t in ticks)
    assert 2 <= len(ticks) <= 12
    assert gaps == pytest.approx(np.full(len(gaps), gaps[0]), abs=1e-6 * gaps[0] + 1e-12 * size) and gaps[0] > 0
    assert ticks[0] <= low + 1e-6 * gaps[0] and ticks[-1] >= high - 1e-6 * gaps[0]


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_log_ticks_are_powers_of_ten_around_the_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low * (1 + 1e-6) and ticks[-1] >= high * (1 - 1e-6)
    assert all(np.log10(t) == pytest.approx(round(np.log10(t))) for t in ticks)


@pytest.mark.parametrize(
    ("value", "label"),
    [(0.0, "0"), (0.05, "0.05"), (0.0575, "0.0575"), (1e-5, "1e-5"), (20.0, "20"), (1500.0, "1,500"), (2e7, "2e7")],
)
def test_tick_labels(value: float, label: str) -> None:
    assert tick_label(value) == label


def test_a_path_breaks_where_there_is_no_value() -> None:
    assert line_path(np.array([0.0, 1, 2, 3]), np.array([5.0, np.nan, 7, 8])) == "M0.0,5.0M2.0,7.0L3.0,8.0"


def _chart(**more: object) -> Chart:
    y = np.array([1.0, 3.0, 2.0])
    return Chart("k", "T", "step", "loss", np.array([0.0, 5.0, 10.0]), [Series("a", y, "real")], **more)  # type: ignore[arg-type]


def test_lines_stand_where_their_values_are() -> None:
    svg, shown = chart_svg(_chart(levels=[("best", 2.0)]))
    root = ElementTree.fromstring(svg)
    line = next(e for e in root.iter() if e.get("class") == "line real")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[ML]([\d.]+,[\d.]+)", line.get("d", ""))]
    assert [p[0] for p in points] == shown["px"] == [LEFT, (LEFT + WIDTH - 14) / 2, WIDTH - 14]
    level = next(e for e in root.iter() if e.tag == "path" and e.get("class") == "level")
    assert float(level.get("d", "").split(",")[1].split("H")[0]) == pytest.approx(points[2][1])  # both at 2
    assert TOP <= points[1][1] < points[2][1] < points[0][1] <= HEIGHT  # larger is higher
    assert points[0][1] - points[2][1] == pytest.approx(points[2][1] - points[1][1], abs=0.11)
    assert shown["series"] == [{"label": "a", "role": "real", "y": [1.0, 3.0, 2.0]}]


def test_equal_steps_on_a_logarithmic_axis_are_equal_factors() -> None:
    chart = Chart("k", "T", "x", "y", np.array([1.0, 10, 100]), [Series("a", np.array([1e-3, 1e-1, 10.0]))],
                  log_x=True, log_y=True)  # fmt: skip
    svg, shown = chart_svg(chart)
    assert shown["px"][1] - shown["px"][0] == pytest.approx(shown["px"][2] - shown["px"][1], abs=0.11)
    assert "1e" not in re.findall(r">([^<]*)</text>", str(svg))[0] or "0.001" in str(svg)


@pytest.mark.parametrize("y", [[0.0, 0.0, 0.0], [5.0, np.nan, np.nan], [-1.0, -2.0, -3.0]])
def test_flat_short_and_negative_lines_are_drawn(y: list[float]) -> None:
    svg, _ = chart_svg(Chart("k", "T", "x", "y", np.arange(3.0), [Series("a", np.array(y))]))
    assert "nan" not in str(svg) and "inf" not in str(svg)
    ElementTree.fromstring(svg)


def test_labels_are_escaped() -> None:
    chart = Chart("k", EVIL, EVIL, EVIL, np.arange(2.0), [Series(EVIL, np.arange(2.0))], levels=[(EVIL, 0.5)])
    value = {"mean": 0.2, "low": 0.1, "high": 0.3}
    results = Results([EVIL], [(EVIL, {EVIL: value}, {})], [], EVIL, [], None)
    for svg in (chart_svg(chart)[0], interval_svg(results)):
        root = ElementTree.fromstring(svg)  # it is well-formed, so nothing broke out
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert EVIL in "".join(root.itertext())


def test_intervals_are_where_they_belong() -> None:
    rows = [(name, {"R": {"mean": m, "low": m - 0.1, "high": m + 0.1}}, {}) for name, m in (("a", 0.3), ("b", 0.5))]
    root = ElementTree.fromstring(interval_svg(Results(["R"], rows, [], "t", [], None)))
    ranges = [e.get("d", "") for e in root.iter() if (e.get("class") or "").startswith("range")]
    (a, b), (c, d) = [(float(r[1:].split(",")[0]), float(r.split("H")[1])) for r in ranges]
    assert b - a == pytest.approx(d - c, abs=0.11) and c == pytest.approx(b, abs=0.11)  # 0.2…0.4 and 0.4…0.6


def test_the_map_keeps_proportions() -> None:
    xy = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [2.0, 1.5]])
    drawn = ItemMap(np.arange(4), xy, np.array([0.5, 0.2]), 4)
    places, height = map_places(drawn)
    p = np.array(places, dtype=float)
    right, up = np.linalg.norm(p[1] - p[0]), np.linalg.norm(p[2] - p[0])
    assert right / up == pytest.approx(4 / 3, rel=0.01) and p[2, 1] < p[0, 1]
    assert (p >= 0).all() and p[:, 0].max() <= 1000 and p[:, 1].max() <= height
    assert map_svg(drawn).count("h0") == 4
