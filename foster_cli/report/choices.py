"""How cases are ranked, and what validation chose, as facts of a report.

In: the content of bundle.json, and the `Dataset` if it is there. Out: pairs of a name and a value in words.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import RARE, Protocol, evaluation_cases, repeat_share, training_counts
from foster_cli.errors import FosterError
from foster_cli.settings import EARLIER
from foster_cli.train.trials import CHOICES, shown

Facts = list[tuple[str, str]]


def ranking(m: dict[str, Any], data: Dataset | None) -> Facts:
    """The protocol of the bundle with manifest `m`: what is left out and why, which cases, how many have a new item.

    The cases are counted only where `data` is there.
    """
    protocol = m.get("ranking", asdict(EARLIER))
    left_out, cases = protocol["mask_seen"], protocol["cases"]
    found = [("items that a user already has", {True: "left out", False: "ranked too"}[left_out])]
    share = m["data"].get("repeats", None if data is None else repeat_share(data))
    if "ranking" in m and share is not None:
        found.append(("because", _reason(left_out, share)))
    found.append(("cases of each user", {"all": "all", "first": "the first", "last": "the last"}[cases]))
    if data is not None:
        found += [("validation cases", _cases(data, "valid", cases)), ("test cases", _cases(data, "test", cases))]
    return found


def _reason(left_out: bool, share: float) -> str:
    """Why items that a user already has are `left_out` or not; `share`: the repeats in training (`protocol_of`)."""
    repeats = f"{share:.1%} of training interactions are repeats"
    if left_out == (share < 1 / RARE):
        return f"{repeats} (as the data decide)"
    typed, otherwise = ("--mask-seen", "ranked too") if left_out else ("--no-mask-seen", "left out")
    return f"{typed} was typed ({repeats}; the data would have them {otherwise})"


def _cases(data: Dataset, split: str, which: str) -> str:
    """The number of cases of a split, and how many of them have a target that is not in training."""
    try:  # a history of one item is enough to count
        target = evaluation_cases(data, split, 1, Protocol(False, which)).target
    except FosterError:
        return "none"
    cold = int((training_counts(data)[target] == 0).sum())
    return f"{len(target):,}, of which {cold_words(cold, cold / len(target))}"


def cold_words(cold: int, share: float) -> str:
    """`12 (3.4%) have a target that is not in training`."""
    return f"{cold:,} ({share:.1%}) {'has' if cold == 1 else 'have'} a target that is not in training"


def chosen(m: dict[str, Any]) -> Facts:
    """What validation chose on the way to the bundle with manifest `m`; an older bundle does not say all of it."""
    metrics, found = m.get("metrics", {}), []
    for choice in CHOICES:
        values = m.get(choice.section, {})
        if choice.name in values and m["model"].get("items", "text") != "id":
            tried = " or ".join(shown(value) for value in choice.values)
            where = " where most targets are new" if choice.turnover else ""
            found.append((choice.name, f"{shown(values[choice.name])} ({tried}{where}, unless it was given)"))
    if "student_steps" in metrics:
        found.append(("steps on the set", f"{metrics['student_steps']:,} of at most {m['student']['steps']:,}"))
    if "teacher_way" in metrics:
        found.append(("teacher's backbone", f"{metrics['teacher_way']:.0%} of the way to the trained one"))
    return found + (_mixture(metrics["teacher"]) if "teacher" in metrics else [])


def _mixture(teacher: dict[str, Any]) -> Facts:
    """The members of `--teacher A,B`, each by itself and with its weight, and their mixture."""
    found = []
    for name, alone in teacher["alone"].items():
        weight = teacher["weights"].get(name)
        part = "left out" if weight is None else f"weight {weight:.3g}"
        found.append((f"teacher {name}", f"R@10 {alone['R@10']:.4f} alone, {part}"))
    return [*found, ("teachers together", f"R@10 {teacher['valid']['R@10']:.4f}")]
