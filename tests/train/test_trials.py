"""Settings that validation chooses, against trainings of each candidate by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.errors import NotFinite
from foster_cli.session import Session
from foster_cli.settings import DistillConfig, ModelConfig, RankingConfig, Settings, TrainConfig
from foster_cli.train import anchors, trials
from foster_cli.train.fit import fit_real
from foster_cli.train.task import make_task
from foster_cli.train.trials import CHOICES, TURNOVER, expected_share, with_best

FREE = frozenset((choice.section, choice.name) for choice in CHOICES)
LEXICAL, ITEMS, RECENCY = ("model", "lexical"), ("model", "items"), ("train", "recency")


@pytest.fixture
def settings(mean_encoder: Path) -> Settings:
    """A trial has two of twelve epochs."""
    return Settings(
        model=ModelConfig(encoder=str(mean_encoder), width=16, layers=1),
        train=TrainConfig(batch=64, epochs=12, lr=0.01),
        distill=DistillConfig(length=8), ranking=RankingConfig(mask_seen=True), seed=3,
    )  # fmt: skip


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes that are printed."""
    notes: list[str] = []
    monkeypatch.setattr(Console, "note", lambda self, text: notes.append(text))
    return notes


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """`values({lexical: value})`: what a trial finds; NaN is a training that became NaN."""

    def use(found: dict[int, float]) -> None:
        def trial(settings: Settings, *rest: Any) -> float:
            value = found[settings.model.lexical]
            if value != value:
                raise NotFinite("the loss became nan", "use a lower learning rate")
            return value

        monkeypatch.setattr(trials, "trial", trial)

    return use


def test_the_best_short_training_is_chosen(dataset: Dataset, settings: Settings, said: list[str]) -> None:
    session = Session(use_cache=False)
    expected = {}
    for lexical in (256, 0):
        task = make_task(dataset, replace(settings.model, lexical=lexical), 8, session, settings.ranking)
        model = task.fresh(3)
        expected[lexical] = fit_real(model, task.windows, task.valid, replace(settings.train, epochs=2), 3).value
    assert len(set(expected.values())) == 2
    said.clear()
    found = with_best(settings, {LEXICAL}, dataset, session)
    best = max(expected, key=lambda lexical: expected[lexical])
    assert found == replace(settings, model=replace(settings.model, lexical=best))
    words = (
        f"lexical {best} is best on validation after short trainings (256: {expected[256]:.4f}, 0: {expected[0]:.4f})"
    )
    assert words in said


def test_a_given_setting_and_one_that_is_not_read_are_not_tried(
    dataset: Dataset, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "full_teacher", lambda *a, **k: pytest.fail("trained"))
    assert with_best(settings, (), dataset, Session(use_cache=False)) is settings
    ids = replace(settings, model=replace(settings.model, items="id"))
    assert with_best(ids, {LEXICAL}, dataset, Session(use_cache=False)) is ids


def test_the_second_choice_trains_nothing(
    dataset: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path))
    found = with_best(settings, FREE, dataset, Session())
    assert with_best(settings, FREE, dataset, Session(use_cache=False)) == found
    monkeypatch.setattr(anchors, "fit_real", lambda *a, **k: pytest.fail("trained again"))
    assert with_best(settings, FREE, dataset, Session()) == found


@pytest.mark.parametrize(
    ("found", "best"),
    [({256: 0.2, 0: 0.1}, 256), ({256: 0.1, 0: 0.2}, 0), ({256: 0.1, 0: 0.1}, 256), ({256: float("nan"), 0: 0.1}, 0)],
)
def test_the_default_stays_where_no_other_is_better(
    dataset: Dataset, settings: Settings, said: list[str], values: Any, found: dict[int, float], best: int
) -> None:
    values(found)
    assert with_best(settings, {LEXICAL}, dataset, Session()).model.lexical == best
    assert any("lexical 256 is out: the loss became nan" in note for note in said) == (found[256] != found[256])


@pytest.mark.parametrize("free", [{ITEMS}, {RECENCY}, {ITEMS, RECENCY}])
def test_where_most_targets_are_new_trainings_in_full_choose(
    dataset: Dataset, settings: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch, free: set[tuple[str, str]]
) -> None:
    """How items are known, at the same width, and then whether later windows are in more epochs."""
    monkeypatch.setattr(trials, "TURNOVER", 0.0)
    session = Session(use_cache=False)

    def value(items: str, recency: float | None) -> float:
        model = replace(settings.model, items=items, width=16)
        task = make_task(dataset, model, 8, session, settings.ranking)
        train = replace(settings.train, recency=recency)
        return fit_real(task.fresh(3), task.windows, task.valid, train, 3).value

    items, recency = "both", 0.5
    if ITEMS in free:
        found = {items: value(items, 0.5) for items in ("both", "text")}
        items = max(found, key=lambda key: found[key])
    if RECENCY in free:
        last = {recency: value(items, recency) for recency in (0.5, None)}
        recency = max(last, key=lambda key: last[key])
    best = with_best(settings, free, dataset, session)
    assert (best.model.items, best.train.recency) == (items, recency)
    if ITEMS in free:
        of_each = f"(both: {found['both']:.4f}, text: {found['text']:.4f})"
        assert f"items {items} is best on validation after trainings in full {of_each}" in said
    assert make_task(dataset, best.model, 8, session, settings.ranking).fresh(0).width == 16


def test_elsewhere_they_stay(dataset: Dataset, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expected_share(settings, dataset) < TURNOVER
    monkeypatch.setattr(trials, "full_teacher", lambda *a, **k: pytest.fail("trained"))
    assert with_best(settings, {ITEMS, RECENCY}, dataset, Session(use_cache=False)) is settings


def test_the_width_stays_where_texts_alone_win(
    dataset: Dataset, settings: Settings, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, it would become the encoder's."""
    monkeypatch.setattr(trials, "TURNOVER", 0.0)
    monkeypatch.setattr(trials, "trial", lambda settings, *rest: float(settings.model.items == "text"))
    free = replace(settings, model=replace(settings.model, width=None))
    task = make_task(dataset, free.model, 8, Session(), settings.ranking)
    best = with_best(free, {ITEMS}, dataset, Session())
    assert best.model.items == "text" and best.model.width == task.fresh(0).width


def test_where_every_training_becomes_nan_the_error_says_so(dataset: Dataset, settings: Settings, values: Any) -> None:
    values({256: float("nan"), 0: float("nan")})
    with pytest.raises(NotFinite, match="the loss became nan"):
        with_best(settings, {LEXICAL}, dataset, Session())
