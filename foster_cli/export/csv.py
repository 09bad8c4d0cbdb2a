"""CSV: the hard sequences of a SyntheticView out, a row per synthetic user and position (M × L, UTF-8).

Columns: synthetic_user, position, item_id, title, probability. An item appears once in a synthetic sequence; real
ones (a coreset) are as they were, each of its own length. Where a position has a
goal of its own, next_item_id, next_title and next_probability name the likeliest item after it that the sequence has
not held so far: a hard training example is then the items up to a position, and that item (not the item of the next
row).

Spreadsheets run cells that begin with = + - @ (also their full-width forms, tab or carriage return) as
formulas. Such an item_id or title is written with a ' before it, and so is one that already begins with
quotes followed by such a character: to get the original back, drop one ' where ' + and a formula character
begin the cell. Line breaks and other control characters become spaces, so that a row is always one line.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from foster_cli.export.view import short

if TYPE_CHECKING:
    from foster_cli.export.view import Sink, SyntheticView

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SKIPPED = r"[\s\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*"  # what a spreadsheet may trim or not show
_FORMULA = re.compile(rf"{_SKIPPED}'*{_SKIPPED}[=+\-@＝＋－＠]")


def write(view: SyntheticView, file: Sink, top: int) -> None:
    """Write the hard sequences; `top` plays no part here."""
    rows: list[list[object]] = [["synthetic_user", "position", "item_id", "title", "probability"]]
    if view.goals is not None:
        rows[0] += ["next_item_id", "next_title", "next_probability"]
    for user in range(len(view.hard)):
        for position in range(view.positions(user)):
            item, probability = view.hard[user, position], view.hard_probability[user, position]
            rows.append([user, position, *_cells(view, item, probability)])
            if view.goals is not None:
                at = (user, position)
                rows[-1] += _cells(view, view.goals.hard[at], view.goals.hard_probability[at])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    file.write(text.getvalue().encode("utf-8"))


def _cells(view: SyntheticView, item: int, probability: float) -> list[object]:
    """An item's id and title, and its probability."""
    return [safe_cell(view.item_ids[item]), safe_cell(view.titles[item]), short(float(probability))]


def safe_cell(text: str) -> str:
    """`text` on one line, and with a ' before it where a spreadsheet would run it as a formula."""
    line = _CONTROL.sub(" ", text)
    risky = text[:1] in ("\t", "\r", "\n") or _FORMULA.match(line)
    return f"'{line}" if risky else line
