"""Tables on a terminal of few columns: every cell whole, on a table of its own where there is no room."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from foster_cli.console import Console

NAMES = ["", "R@10", "N@10", "R@20", "coverage"]
ROWS = [[name, *[f"0.{i}{k}23 [0.0101, 0.0202]" for k in range(3)], f"{i}.5%"]
        for i, name in enumerate(("text_similarity", "synthetic", "漢字漢字"))]  # fmt: skip


def _drawn(width: int) -> str:
    console, file = Console(), io.StringIO()
    console._out = RichConsole(file=file, force_terminal=True, width=width, color_system=None, highlight=False)
    console.table("shop \x1b[2J: 3 cases", NAMES, ROWS)
    return file.getvalue()


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_every_cell_is_whole(width: int) -> None:
    text = _drawn(width)
    assert "…" not in text and "\x1b" not in text
    for cell in [*NAMES, *[c for row in ROWS for c in row[1:]]]:
        assert cell in text
    tables = text.count("┏")
    assert (tables == 1) == (width == 200 or width == 120) and text.count("text_similarity") == tables
    assert text.count("shop") == 1


def test_what_no_terminal_holds_is_folded() -> None:
    assert "".join(_drawn(24).split()).count("…") == 0
