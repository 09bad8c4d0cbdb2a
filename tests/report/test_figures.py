"""The figures as files: all of them, whole, the same bytes twice, and a clear word without matplotlib.

To run it alone: `pytest tests/report/test_figures.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.image import imread

from foster_cli.bundle import load
from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.report.content import Chart, Report, Series
from foster_cli.report.figures import STYLE, check_matplotlib, draw_chart, write_figures
from foster_cli.report.gather import gather

NAMES = ["result", "validation", "inner", "q", "lambda", "outer", "entropy", "popularity", "cumulative", "map"]


@pytest.fixture
def report(make_bundle: Callable[..., Path], tmp_path: Path, data: Dataset, evaluation: dict[str, Any]) -> Report:
    return gather(load(make_bundle(tmp_path / "b")), evaluation, data)


def test_every_figure_and_the_same_bytes_again(report: Report, tmp_path: Path) -> None:
    written = write_figures(report, tmp_path / "a" / "new")
    assert [p.name for p in written] == [f"{n}.{e}" for n in NAMES for e in ("png", "svg")]
    assert sorted(p.name for p in (tmp_path / "a" / "new").iterdir()) == sorted(p.name for p in written)
    for path in written:
        if path.suffix == ".png":
            pixels = imread(path)
            assert min(pixels.shape[:2]) >= 600 and pixels[..., :3].std() > 0.02  # something is drawn
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    again = write_figures(replace(report, curves=[], popularity=report.popularity[:1]), tmp_path / "again")
    assert [p.stem for p in again[::2]] == ["result", "popularity", "map"]
    assert all(p.read_bytes() == (tmp_path / "a" / "new" / p.name).read_bytes() for p in again)


def test_a_coreset_has_no_curves(coreset: Path, data: Dataset, tmp_path: Path) -> None:
    written = write_figures(gather(load(coreset), None, data), tmp_path / "f")
    assert [p.stem for p in written[::2]] == ["popularity", "cumulative", "map"]


def test_lines_and_text_are_the_charts_own() -> None:
    y = np.array([1.0, np.nan, 100.0])
    chart = Chart("k", r"$\frac{a}$ <b>", "x", "y", np.array([1.0, 10, 100]), [Series("a", y, "real")], log_x=True,
                  log_y=True, levels=[("", 2.0), ("lev", 5.0)])  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure()
        axis = figure.add_subplot()
        draw_chart(axis, chart)
        figure.canvas.draw()  # a formula that is none would stop this
    lines = [line.get_ydata() for line in axis.get_lines()]
    assert np.array_equal(lines[0], y, equal_nan=True) and [line[0] for line in lines[1:]] == [2.0, 5.0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert axis.get_title(loc="left") == r"$\frac{a}$ <b>"
    labels = [t.get_text() for t in axis.get_xticklabels()]
    assert "10" in labels and not any("$" in label for label in labels)


def test_without_matplotlib(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (check_matplotlib, lambda: write_figures(report, tmp_path / "f")):
        with pytest.raises(FosterError, match=r"pip install 'foster-cli\[plot\]'"):
            call()
    assert not (tmp_path / "f").exists()
