"""The curves of `foster sweep` as a figure. In: its JSON. Out: a PNG with two panels for each parameter.

Matplotlib is an optional dependency (`foster-cli[plot]`), imported only in this file, lazily, to draw a figure.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from foster_cli.console import clean
from foster_cli.errors import FosterError
from foster_cli.evaluate.formats import ranked_words

#: Okabe and Ito's colours, which the colour-blind can tell apart: curve, full, untrained.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
_REFERENCES = (("full", ORANGE, "--", "full data"), ("untrained", GREY, ":", "untrained"))

_LEGEND = ("synthetic set", "the start is best", "default setting", *[label for *_, label in _REFERENCES])


def need_matplotlib() -> None:
    """Raise FosterError if matplotlib is not installed, before anything slow begins."""
    if importlib.util.find_spec("matplotlib") is None:
        raise FosterError(
            "drawing needs matplotlib, which is not installed",
            "type `pip install 'foster-cli[plot]'`, or give --no-plot for the CSV and JSON alone",
        )


def scale(xs: list[float]) -> tuple[str, dict[str, float]]:
    """The scale of the x axis: logarithmic if the values span a factor of 4 or more, with a linear part below the
    smallest positive one if there is a 0."""
    positive = [x for x in xs if x > 0]
    if len(positive) < 2 or max(positive) < 4 * min(positive):
        return "linear", {}
    return ("log", {}) if len(positive) == len(xs) else ("symlog", {"linthresh": min(positive), "linscale": 0.5})


def _panel(ax: Any, found: dict[str, Any], curve: dict[str, Any], metric: str) -> None:
    points, rows = curve["points"], found["rows"]
    xs = [float(p["x"]) for p in points]
    values = [rows[p["row"]][metric] for p in points]
    means = [v["mean"] for v in values]
    kind, options = scale(xs)
    ax.set_xscale(kind, **options)
    for name, colour, style, label in _REFERENCES:
        if name in rows:
            value = rows[name][metric]
            ax.axhspan(value["low"], value["high"], color=colour, alpha=0.10, linewidth=0)
            ax.axhline(value["mean"], color=colour, linestyle=style, linewidth=1.3, label=label)
    below = [max(0.0, v["mean"] - v["low"]) for v in values]  # 0 up to rounding if no resample differs
    above = [max(0.0, v["high"] - v["mean"]) for v in values]
    ax.errorbar(xs, means, yerr=[below, above], color=BLUE, marker="o", markersize=5, linewidth=1.6, elinewidth=1.1,
                capsize=3, label="synthetic set")  # fmt: skip
    starts = [(x, y) for p, x, y in zip(points, xs, means, strict=True) if rows[p["row"]]["best_step"] == 0]
    if starts:
        ax.plot(*zip(*starts, strict=True), linestyle="none", marker="o", markersize=5, markerfacecolor="white",
                color=BLUE, zorder=3, label="the start is best")  # fmt: skip
    default = [(x, y) for p, x, y in zip(points, xs, means, strict=True) if p["value"] == curve["default"]]
    for x, y in default:
        ax.plot([x], [y], linestyle="none", marker="o", markersize=10, markerfacecolor="none", color=BLUE,
                label="default setting")  # fmt: skip
    ax.set_xticks(xs, [p["value"] for p in points])
    ax.minorticks_off()
    ax.set_ylabel(metric)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def make_figure(found: dict[str, Any]) -> Any:
    """A matplotlib Figure: R@k and N@k over each parameter, k the first cut-off; 95 % intervals as bars and, for the
    references, as bands. White points: the start was best, so the settings of the outer loop do not affect them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves, k = found["curves"], found["k"][0]
    figure = Figure(figsize=(1.0 + 3.6 * max(len(curves), 2), 6.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col", sharey="row")
    for column, curve in enumerate(curves):
        for line, metric in enumerate((f"R@{k}", f"N@{k}")):
            _panel(axes[line][column], found, curve, metric)
            axes[line][column].label_outer()
        axes[1][column].set_xlabel(f"${curve['symbol']}$, {curve['text'].replace('L_DH', r'$L_{DH}$')}")
    figure.suptitle(
        f"{clean(found['data']['name'], 60)}: {ranked_words(found)}; bars and bands: 95 % intervals",
        fontsize=10, parse_math=False,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for panel in axes[0]:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(handles, key=_LEGEND.index)
    figure.legend([handles[label] for label in order], order, loc="outside lower center", ncols=5, frameon=False)
    return figure


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the figure to `path` as a PNG; the same JSON gives the same bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        make_figure(found).savefig(path, format="png", metadata={"Software": None})
