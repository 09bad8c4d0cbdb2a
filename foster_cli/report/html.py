"""Renders a `Report` as one self-contained HTML page that needs no network and no other file.

Text from outside (titles, ids, names, paths) passes through `visible` and then the template's autoescape, or is part
of a JSON block in which <, > and & are written as \\u003c and so on. The page's Content-Security-Policy allows only
its script and its style, each by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from foster_cli.report.content import Position, Report
from foster_cli.report.svg import chart_svg, interval_svg, map_svg
from foster_cli.report.text import visible

#: Total characters of the titles of items that are only on the map. This limits the size of the page.
MAP_CHARACTERS = 1_000_000
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}


def _asset(name: str) -> str:
    return files("foster_cli.report").joinpath("page", name).read_text(encoding="utf-8")


def json_block(value: Any) -> Markup:
    """`value` as JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))


def policy(script: str, style: str) -> str:
    """The Content-Security-Policy that allows only this script and this style."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest(script)}'; style-src 'sha256-{digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def page(report: Report) -> str:
    """Render the whole page."""
    script, style = _asset("page.js"), _asset("page.css")
    environment = Environment(
        loader=DictLoader({"page.html": _asset("page.html")}), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    charts, shown = {}, {}
    for chart in (*report.curves, *report.popularity):
        charts[chart.key], shown[chart.key] = chart_svg(chart)
    return environment.get_template("page.html").render(
        report=report, policy=policy(script, style), script=Markup(script), style=Markup(style), charts=charts,
        intervals=None if report.results is None else interval_svg(report.results), map=map_svg(report.map),
        data=json_block({"charts": shown, **_sequences(report)}),
    ) + "\n"  # fmt: skip


def _sequences(report: Report) -> dict[str, Any]:
    """The data of the page's script: the sequences, the items they name, and the items of the map."""
    number: dict[int, int] = {}

    def cell(position: Position) -> list[Any]:
        items = [number.setdefault(int(i), len(number)) for i in position.items]
        return [items, [float(f"{p:.3g}") for p in position.probability], float(f"{position.spread:.4g}")]

    sequences = [[[cell(p) for p in s.read], [cell(p) for p in s.goals]] for s in report.sequences]
    named = len(number)
    on_map = [number.setdefault(int(i), len(number)) for i in report.map.items]
    short = max(20, min(200, MAP_CHARACTERS // max(1, len(on_map))))
    titles = [visible(report.titles[i], 200 if k < named else short) for i, k in number.items()]
    ids = [visible(report.ids[i], 80) for i, k in number.items() if k < named]
    return {
        "real": report.real, "own": report.own, "titles": titles, "ids": ids, "sequences": sequences, "map": on_map,
    }  # fmt: skip
