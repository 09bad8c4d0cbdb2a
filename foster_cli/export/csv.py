"""Writes the hard sequences as CSV, one row per synthetic user and position (M × L or M × copies × L rows; UTF-8).

Columns: synthetic_user, position, item_id, title, probability; with several copies, copy after synthetic_user. An item
appears once in a synthetic sequence. Real sequences (a coreset) are written unchanged and differ in length. If
positions have separate targets, next_item_id, next_title and next_probability name an item to predict after the
position, one that is not yet in the sequence. A training example is then the items up to a position and that item,
not the item of the next row.

Spreadsheets run cells that begin with = + - @ (also their full-width forms, tab or carriage return) as formulas. Such
an item_id or title gets a ' in front, and so does one that already begins with ' before such a character. To restore
the original, drop one ' from each cell that begins with ' before such a character. Line breaks and other control
characters become spaces, so that a row is always one line.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from foster_cli.export.text import one_line, short

if TYPE_CHECKING:
    from foster_cli.export.hard import HardSet
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink

_SKIPPED = r"[\s\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"  # what a spreadsheet may trim or hide
_FORMULA = re.compile(rf"{_SKIPPED}'*{_SKIPPED}[=+\-@＝＋－＠]")


def write(job: Job, file: Sink) -> None:
    """Write the hard sequences."""
    hard = job.hard
    head = ["synthetic_user", "copy"] if hard.copies > 1 else ["synthetic_user"]
    head += ["position", "item_id", "title", "probability"]
    if hard.goals is not None:
        head += ["next_item_id", "next_title", "next_probability"]
    rows: list[list[object]] = [[*head]]
    for row in range(len(hard)):
        who = [int(hard.user[row]), int(hard.copy[row])] if hard.copies > 1 else [int(hard.user[row])]
        for position in range(int(hard.lengths[row])):
            at = (row, position)
            cells = [*who, position, *_cells(hard, hard.items[at], hard.probability[at])]
            if hard.goals is not None and hard.goal_probability is not None:
                cells += _cells(hard, hard.goals[at], hard.goal_probability[at])
            rows.append(cells)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    file.write(text.getvalue().encode("utf-8"))


def _cells(hard: HardSet, item: int, probability: float) -> list[object]:
    """An item's id and title, and its probability."""
    return [safe_cell(hard.item_ids[item]), safe_cell(hard.titles[item]), short(float(probability))]


def safe_cell(text: str) -> str:
    """`text` on one line, with a ' in front if a spreadsheet would run it as a formula."""
    line = one_line(text)
    risky = text[:1] in ("\t", "\r", "\n") or _FORMULA.match(line)
    return f"'{line}" if risky else line
