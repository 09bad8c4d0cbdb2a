"""JSON lines: a SyntheticView in, one line per synthetic user and position out (M × L lines, UTF-8).

{"synthetic_user": 0, "position": 0, "mass": 0.83, "items": [{"item_id": …, "title": …, "probability": …}, …]}

`mass` is the probability that the listed items cover. A real sequence (a coreset) lists its one item. Where a
position has a goal of its own, `items` are what is read there and two more keys, `next_mass` and `next`, hold what is
to be predicted after it; elsewhere that is the next position's `items`. Characters that break lines or reorder text
(C1 controls, U+2028, bidirectional marks) are written as \\u escapes: the value read back is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foster_cli.export.text import json_line, short

if TYPE_CHECKING:
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink, SyntheticView


def write(job: Job, file: Sink) -> None:
    """Write the `job.top` likeliest items of every position."""
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
    """The mass of the listed items, and the items, of one position."""
    items = [
        {"item_id": view.item_ids[i], "title": view.titles[i], "probability": short(p)}
        for i, p in zip(index.tolist(), probability.tolist(), strict=True)
    ]
    return min(1.0, float(sum(probability.tolist()))), items
