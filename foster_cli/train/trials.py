"""Settings that validation chooses: each candidate is trained briefly on all the data, and the best one is used.

In: settings, and which of them nobody gave. Out: settings with the chosen values, so that everything after the choice
reads plain numbers. A trial is a teacher of its own with fewer epochs, so the cache holds it and it can be resumed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from foster_cli.data.schema import Dataset
from foster_cli.errors import NotFinite
from foster_cli.ops.precision import matmul_precision
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.train.anchors import full_teacher
from foster_cli.train.task import Task, make_task

#: The values of each setting, the default first; it stays where no other is better.
CANDIDATES: dict[tuple[str, str], tuple[Any, ...]] = {("model", "lexical"): (256, 0)}
#: A trial has this share of the epochs of a training; its learning rate falls as fast.
SHARE = 1 / 6


def with_best(settings: Settings, free: Collection[tuple[str, str]], data: Dataset, session: Session) -> Settings:
    """`settings` (after `settled`) with the best candidate of each setting in `free`, and a note of what was chosen.

    Settings are chosen one after the other. A trial's value is that of its best state (`Fit.value`). A candidate whose
    training became NaN is out; raises NotFinite if all did.
    """
    for (section, name), values in CANDIDATES.items():
        if (section, name) not in free or (name == "lexical" and settings.model.items == "id"):
            continue
        found: dict[Any, float] = {}
        failed: NotFinite | None = None
        for value in values:
            tried = replace(settings, **{section: replace(getattr(settings, section), **{name: value})})
            try:
                found[value] = trial(tried, data, session, f"trial of {name} {value:g}")
            except NotFinite as error:
                session.console.note(f"{name} {value:g} is out: {error.message}")
                failed = error
        if failed is not None and not found:
            raise failed
        best = max(found, key=lambda value: found[value])
        settings = replace(settings, **{section: replace(getattr(settings, section), **{name: best})})
        values_of = ", ".join(f"{value:g}: {quality:.4f}" for value, quality in found.items())
        session.console.note(f"{name} {best:g} is best on validation after short trainings ({values_of})")
    return settings


def trial(settings: Settings, data: Dataset, session: Session, label: str) -> float:
    """The value of a short training with `settings`."""
    train = replace(settings.train, epochs=max(1, round(SHARE * settings.train.epochs)))
    with matmul_precision(settings.model.precision, session.device):
        task: Task = make_task(data, settings.model, settings.distill.length, session, settings.ranking)
        return full_teacher(task, train, settings.seed, label).value
