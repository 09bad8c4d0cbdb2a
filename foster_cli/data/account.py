"""What happened to the rows of the tables: every row that was read is kept, or counted here with the reason.

In: counts from `prepare`. Out: `Account`, whose `to_dict` stands in a dataset's statistics, and the lines that say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from foster_cli.console import clean
from foster_cli.data.readers.rows import SHOWN as KEPT
from foster_cli.data.readers.rows import Bad, Read
from foster_cli.errors import FosterError

#: More bad rows than this share end the command, unless --allow-bad says otherwise.
MOST_BAD = 0.01
#: So many bad rows are shown.
SHOWN = 10
#: Shares of items without text, and of interactions at the time of another one of the user, that are worth a warning.
WITHOUT_TEXT, TIED = 0.2, 0.2

#: What to do about a bad row, by the end of its reason.
HINTS = {
    "is no time": "use seconds, milliseconds or ISO dates such as 2024-05-01T12:30:00Z, or another --time-column",
    "is no split": "use train, valid (validation, val, dev) and test, or --split-column none to split by time",
}


@dataclass
class Account:
    """The rows of the interactions: `read`, of which `bad`, left out by --where (`filtered`), `duplicates`, cut by the
    k-core (`cut`) and `kept`. `notes`: how the tables were read."""

    read: int = 0
    bad: int = 0
    filtered: int = 0
    duplicates: int = 0
    cut: int = 0
    kept: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For the statistics."""
        return {
            "read": self.read, "bad": self.bad, "filtered": self.filtered, "duplicates": self.duplicates,
            "cut_by_k_core": self.cut, "kept": self.kept, "notes": list(self.notes),
        }  # fmt: skip


def bad_rows(read: Read, reasons: dict[int, tuple[str, str]]) -> list[Bad]:
    """The rows of `read` that are bad for a reason, each with its text, at their places."""
    found = []
    for row, (why, text) in sorted(reasons.items()):
        at = read.place(row)
        found.append(Bad(clean(at.file), at.line, why, text[:KEPT], at.unit))
    return found


def check_bad(bad: Sequence[Bad], read: int, what: str, allow: bool) -> None:
    """Raise FosterError if more than `MOST_BAD` of the `read` rows of the table `what` could not be read."""
    if not bad or allow or (len(bad) <= MOST_BAD * read and len(bad) < read):
        return
    first = bad[0]
    text = f": {clean(first.text, 80)}" if first.text else ""
    more = "" if len(bad) == 1 else f" ({len(bad):,} of {read:,} rows {what} cannot be read)"
    hint = next((hint for reason, hint in HINTS.items() if reason in first.reason), "mend the rows")
    raise FosterError(f"{first.where()} {first.reason}{text}{more}", f"{hint}, or leave them out with --allow-bad")


def account_lines(statistics: dict[str, Any], columns: dict[str, Any], bad: Sequence[Bad] = ()) -> list[str]:
    """What happened to the rows, which columns were taken, and what may be wrong, a line each."""
    rows = statistics.get("rows")
    if rows is None:
        return []
    lines = [*rows["notes"], taken(columns)]
    left = [
        (rows["bad"], "cannot be read"), (rows["filtered"], "left out by --where"), (rows["duplicates"], "duplicates"),
        (rows["cut_by_k_core"], f"cut by the {statistics['k_core']}-core"),
    ]  # fmt: skip
    gone = "".join(f", {count:,} {why}" for count, why in left if count)
    lines.append(f"rows: {rows['read']:,} read{gone}, {rows['kept']:,} kept")
    for one in bad[:SHOWN]:
        lines.append(f"  {one.where()} {one.reason}{f': {clean(one.text, 80)}' if one.text else ''}")
    if len(bad) > SHOWN:
        reasons = Counter(one.reason for one in bad).most_common(3)
        lines.append(f"  … and {len(bad) - SHOWN:,} more ({', '.join(f'{n:,} × {clean(r, 60)}' for r, n in reasons)})")
    return [*lines, *warnings(statistics)]


def taken(columns: dict[str, Any]) -> str:
    """Which columns were taken for what."""
    named = [("user", columns["user"]), ("item", columns["item"]), ("time", columns["time"] or "the order of the rows")]
    if columns.get("split"):
        named.append(("split", columns["split"]))
    if columns.get("item_of_texts") not in (None, columns["item"]):
        named.append(("the items' ids", columns["item_of_texts"]))
    text = ", ".join(columns["text"]) if columns["text"] else "none"
    return clean("columns: " + "; ".join(f"{what} {name}" for what, name in [*named, ("text", text)]))


def warnings(statistics: dict[str, Any]) -> list[str]:
    """What may be wrong with the data."""
    lines, rows = [], statistics["rows"]
    without = statistics["share_without_text"]
    if without > WITHOUT_TEXT:
        more = "; --items id distils without texts" if without == 1.0 else ""
        lines.append(f"warning: {without:.0%} of the items have no text{more}")
    if statistics["tie_rate"] > TIED:
        lines.append(
            f"warning: {statistics['tie_rate']:.0%} of the interactions have the same time as another one of their "
            "user; their order is arbitrary"
        )
    for what, near in rows.get("near_ids", {}).items():
        lines.append(
            f"warning: {near['count']:,} {what} ids differ from another one only in case, blanks, zeros or a decimal "
            f"point, such as {clean(' and '.join(repr(name) for name in near['example']), 100)}"
        )
    return lines
