"""Writes a SyntheticView as JSON lines, one line per synthetic user and position (M × L lines, UTF-8).

{"synthetic_user": 0, "position": 0, "mass": 0.83, "items": [{"item_id": …, "title": …, "probability": …}, …]}

`mass` is the total probability of the listed items. A position of a real sequence (a coreset) lists its one item. If
positions have separate targets, `items` are the inputs, and two more keys, `next_mass` and `next`, hold the targets
after the position. Otherwise the next position's `items` are the targets. Characters that break lines or reorder text
(C1 controls, U+2028, bidirectional marks) are written as \\u escapes, which read back as the same characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foster_cli.export.text import json_line, short

if TYPE_CHECKING:
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink, SyntheticView


def write(job: Job, file: Sink) -> None:
    """Write the `job.top` most probable items of every position."""
    view, top = job.view, job.top
    for user in range(len(view.top_index)):
        for position in range(view.positions(user)):
            line: dict[str, Any] = {"synthetic_user": user, "position": position}
            at = (user, position, slice(top))
            line["mass"], line["items"] = _listed(view, view.top_index[at], view.top_probability[at])
            if view.goals is not None:
                goals = view.goals
                line["next_mass"], line["next"] = _listed(view, goals.top_index[at], goals.top_probability[at])
            file.write(json_line(line))


def _listed(view: SyntheticView, index: Any, probability: Any) -> tuple[float, list[dict[str, Any]]]:
    """The total probability of one position's listed items, and the items."""
    items = [
        {"item_id": view.item_ids[i], "title": view.titles[i], "probability": short(p)}
        for i, p in zip(index.tolist(), probability.tolist(), strict=True)
    ]
    return min(1.0, float(sum(probability.tolist()))), items
