"""Draws the charts, intervals and map of a report as PNG and SVG files with matplotlib.

In: a `Report` and a folder. Out: NAME.png (200 dpi) and NAME.svg per figure, each written atomically. With the same
version of matplotlib, the same bundle gives the same bytes: files hold no dates, and ids are fixed. Item titles are
not drawn. Text from outside is drawn literally: `$` starts no formula.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foster_cli.errors import FosterError
from foster_cli.files import writing
from foster_cli.report.content import Chart, ItemMap, Report, Results, Sequence
from foster_cli.report.svg import tick_label

INSTALL = "type `pip install 'foster-cli[plot]'`"
#: Okabe and Ito's colours, as on the page.
COLOURS = {"real": "#0072b2", "synthetic": "#d55e00", "goal": "#009e73", "other": "#5b616a"}
#: Untyped, because matplotlib's names of settings differ between versions.
STYLE: Any = {
    "figure.figsize": (4.8, 3.2), "figure.dpi": 100, "savefig.dpi": 200, "figure.constrained_layout.use": True,
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e8e6e1",
    "grid.linewidth": 0.6, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "foster",
    "text.parse_math": False,
}  # fmt: skip


def check_matplotlib() -> None:
    """Raise FosterError with the command that installs matplotlib, if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FosterError(f"--figures needs matplotlib ({error})", INSTALL) from error


Draw = Callable[[Any], None]


def _drawings(report: Report) -> list[tuple[str, Draw]]:
    """The figures of a report: their names, and what draws them on an axis."""
    drawn: list[tuple[str, Draw]] = []
    if report.results is not None:
        drawn.append(("result", partial(draw_intervals, results=report.results)))
    drawn += [(c.key, partial(draw_chart, chart=c)) for c in (*report.curves, *report.popularity)]
    return [*drawn, ("map", partial(draw_map, drawn=report.map, sequences=report.sequences, own=report.own))]


def figure_files(report: Report, folder: Path) -> list[Path]:
    """The files that `write_figures` writes."""
    return [folder / f"{name}.{ending}" for name, _ in _drawings(report) for ending in ("png", "svg")]


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Draw every figure into `folder`; returns the paths. Raises FosterError without matplotlib or on a full disk."""
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in _drawings(report):
            figure = Figure(figsize=(6.4, 4.8) if name == "map" else None)
            draw(figure.add_subplot())
            for ending in ("png", "svg"):
                target = folder / f"{name}.{ending}"
                with writing(target) as temporary:
                    metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {"Software": None}
                    figure.savefig(temporary, format=ending, metadata=metadata)
                written.append(target)
    return written


def draw_chart(axis: Any, chart: Chart) -> None:
    """Draw the lines of a chart."""
    for series in chart.series:
        axis.plot(
            chart.x, series.y, label=series.label, color=COLOURS[series.role], linewidth=1.4,
            linestyle="--" if series.role == "goal" else "-", marker="o" if chart.marks else None, markersize=4,
        )  # fmt: skip
    for label, value in chart.levels:
        axis.axhline(value, color=COLOURS["other"], linewidth=0.8, linestyle=":")
        if label:
            axis.annotate(
                label, (1, value), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", color="#5b616a"
            )
    axis.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.log_x:
        axis.set_xscale("log")
    if chart.log_y:
        axis.set_yscale("log")
    for scale, one in ((chart.log_x, axis.xaxis), (chart.log_y, axis.yaxis)):
        if scale:  # matplotlib labels powers with formulas, which are not parsed here
            one.set_major_formatter(lambda value, _: tick_label(value))
            one.set_minor_formatter(lambda value, _: "")
    if len(chart.series) > 1:
        axis.legend()


def draw_intervals(axis: Any, results: Results) -> None:
    """Draw the first metric of every row with its 95 % interval."""
    name = results.metrics[0]
    for i, (_, values, _) in enumerate(results.rows):
        value, colour = values[name], COLOURS["synthetic" if i == 0 else "real"]
        axis.plot([value["low"], value["high"]], [i, i], color=colour, linewidth=1.6)
        axis.plot(value["mean"], i, "o", color=colour, markersize=5)
    axis.set_yticks(range(len(results.rows)), [label for label, _, _ in results.rows])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(title="Result", xlabel=f"{name}, 95 % interval")


def draw_map(axis: Any, drawn: ItemMap, sequences: list[Sequence], own: bool) -> None:
    """Draw the items, and each sequence as a line through its most probable inputs. The first one is highlighted."""
    place = {int(item): xy for item, xy in zip(drawn.items, drawn.xy, strict=True)}
    axis.scatter(*drawn.xy.T, s=3, color="#9aa3ad", alpha=0.5, linewidths=0, rasterized=True)
    for i, sequence in reversed(list(enumerate(sequences))):
        line = np.array([place[int(position.items[0])] for position in sequence.read])
        first = i == 0
        axis.plot(
            *line.T, color=COLOURS["synthetic"], linewidth=1.4 if first else 0.5, alpha=1.0 if first else 0.2,
            marker="o" if first else None, markersize=3.5,
        )  # fmt: skip
    shares = [f"{100 * share:.1f} %" for share in drawn.explained]
    what = "what is read" if own else "their items"
    axis.set(
        title=f"Items by V's principal components, sequences through {what}",
        xlabel=f"first component ({shares[0]} of the variance)", ylabel=f"second component ({shares[1]})",
    )  # fmt: skip
    axis.set_aspect("equal", "datalim")
