"""Settings that validation chooses: each candidate is trained on all the data, and the best one is used.

In: settings, and which of them nobody gave. Out: settings with the chosen values, so that everything after the choice
reads plain numbers. A trial is a teacher of its own, so the cache holds it and it can be resumed. Short trainings
choose where they predict full ones. They do not predict what is best for new items, so that is chosen by trainings in
full, and only where most targets are new.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from foster_cli.data.schema import Dataset
from foster_cli.data.windows import evaluation_cases, protocol_of
from foster_cli.errors import NotFinite
from foster_cli.ops.precision import matmul_precision
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.train.anchors import full_teacher
from foster_cli.train.task import Task, make_task

#: A short training has this share of the epochs of a training in full; its learning rate falls as fast.
SHARE = 1 / 6
#: The share of new targets that is expected in the test, from which on what is best for new items is chosen.
TURNOVER = 0.5


@dataclass(frozen=True)
class Choice:
    """A setting that validation chooses, and its candidates: the default first, which stays where no other is better.

    `turnover`: chosen by trainings in full, and only where most targets are new (`TURNOVER`).
    """

    section: str
    name: str
    values: tuple[Any, ...]
    turnover: bool = False


#: In the order in which they are chosen.
CHOICES = (
    Choice("model", "lexical", (256, 0)),
    Choice("model", "items", ("both", "text"), turnover=True),
    Choice("train", "recency", (0.5, None), turnover=True),
)


def with_best(settings: Settings, free: Collection[tuple[str, str]], data: Dataset, session: Session) -> Settings:
    """`settings` (after `settled`) with the best candidate of each setting in `free`, and a note of what was chosen.

    Settings are chosen one after the other. A trial's value is that of its best state (`Fit.value`). A candidate whose
    training became NaN is out; raises NotFinite if all did.
    """
    wanted = [choice for choice in CHOICES if (choice.section, choice.name) in free]
    if settings.model.items == "id":  # no text is read
        wanted = [choice for choice in wanted if choice.name != "lexical"]
    if any(choice.turnover for choice in wanted) and expected_share(settings, data) < TURNOVER:
        wanted = [choice for choice in wanted if not choice.turnover]
    for choice in wanted:
        settings = chosen(choice, settings, data, session)
    return settings


def expected_share(settings: Settings, data: Dataset) -> float:
    """The share of new targets that is expected in the test (`expected_new`)."""
    cases = evaluation_cases(data, "valid", settings.distill.length, protocol_of(data, settings.ranking))
    return cases.new_share or 0.0


def chosen(choice: Choice, settings: Settings, data: Dataset, session: Session) -> Settings:
    """`settings` with the candidate that is best on validation, and a note of it."""
    name, found = choice.name, dict[Any, tuple[float, Settings]]()
    failed: NotFinite | None = None
    for value in choice.values:
        tried = with_value(choice, value, settings, data, session)
        try:
            quality = trial(tried, data, session, f"trial of {name} {shown(value)}", 1.0 if choice.turnover else SHARE)
            found[value] = quality, tried
        except NotFinite as error:
            session.console.note(f"{name} {shown(value)} is out: {error.message}")
            failed = error
    if failed is not None and not found:
        raise failed
    best = max(found, key=lambda value: found[value][0])
    of_each = ", ".join(f"{shown(value)}: {quality:.4f}" for value, (quality, _) in found.items())
    trainings = "trainings in full" if choice.turnover else "short trainings"
    session.console.note(f"{name} {shown(best)} is best on validation after {trainings} ({of_each})")
    return found[best][1]


def with_value(choice: Choice, value: Any, settings: Settings, data: Dataset, session: Session) -> Settings:
    """`settings` with a candidate. The width of the recommender stays when items are known in another way."""
    if choice.name == "items":
        task = make_task(data, settings.model, settings.distill.length, session, settings.ranking)
        return replace(settings, model=task.known_by(value).model)
    return replace(settings, **{choice.section: replace(getattr(settings, choice.section), **{choice.name: value})})


def shown(value: Any) -> str:
    """A candidate in words."""
    return value if isinstance(value, str) else "none" if value is None else f"{value:g}"


def trial(settings: Settings, data: Dataset, session: Session, label: str, share: float) -> float:
    """The value of a training with `settings` that has `share` of the epochs."""
    train = replace(settings.train, epochs=max(1, round(share * settings.train.epochs)))
    with matmul_precision(settings.model.precision, session.device):
        task: Task = make_task(data, settings.model, settings.distill.length, session, settings.ranking)
        return full_teacher(task, train, settings.seed, label).value
