"""How options are made from fields, and how what is typed is read. Alone: `pytest tests/commands/test_options.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from calling import Foster, one_line
from typed import offered, settings_file

from foster_cli.commands.from_settings import GROUPS, RUN, Asked, asks, choosable, fields
from foster_cli.errors import FosterError
from foster_cli.settings import (
    SECTIONS,
    ModelConfig,
    PrepareSettings,
    Settings,
    StudentConfig,
    option,
)
from foster_cli.train.trials import CHOICES


def test_a_field_is_an_option_by_its_flag() -> None:
    """Every flag is one of the fields, a field without one is none, and no command has two parameters of a name."""
    every = fields()
    assert [f.section for f in every] == sorted((f.section for f in every), key=list(GROUPS).index)
    kinds = {**SECTIONS, "prepare": PrepareSettings, "": Settings}
    named = {(section, of.name): of.metadata["flag"] for section, kind in kinds.items()
             for of in dataclasses.fields(kind) if of.metadata.get("flag")}  # fmt: skip
    assert {(f.section, f.field): f.flag for f in every} == named
    assert not [f for f in every if (f.section, f.field) in (("model", "heads"), ("distill", "dh_items"))]
    for command, found in offered().items():
        names = [f.name for f in found]
        assert len(set(names)) == len(names), command
        for f in found:
            of = next(x for x in dataclasses.fields(kinds[f.section]) if x.name == f.field)
            assert command in of.metadata["on"] and f.parameter.annotation.__metadata__[0].help == of.metadata["help"]
    assert fields("no such command") == []


def test_names_and_defaults_are_those_of_the_command_line() -> None:
    found = {f.name: f for f in fields("distill")}
    assert (found["student_items"].section, found["student_items"].field) == ("student", "items_per_step")
    assert found["student_items"].parameter.default == "512" and found["student_items"].default == 512
    assert found["mix"].flag == "--mix/--no-mix" and found["mix"].parameter.default is True
    assert found["dh_weight"].parameter.annotation.__origin__ is float
    assert found["text_columns"].parameter.default is None


#: The settings that validation chooses.
FREE = frozenset((choice.section, choice.name) for choice in CHOICES)
#: What the two commands below were called with.
SEEN: list[Any] = []


@asks("preprocess", "json")
def _columns(inputs: list[Path], asked: Asked, length: int = 3) -> None:
    """Read columns."""
    SEEN.append((inputs, length, asked))


@asks("distill", "device", "cache")
def _distill(asked: Asked, data: str = "x") -> None:
    SEEN.append((data, asked))


@pytest.fixture
def seen() -> list[Any]:
    """`SEEN`, empty."""
    SEEN.clear()
    return SEEN


def test_a_command_is_a_function_too(seen: list[Any]) -> None:
    """Called without a command line, nothing was typed and all else is at its default."""
    assert (_columns.__name__, _columns.__doc__) == ("_columns", "Read columns.")
    _columns(inputs=[Path("a")], k_core=2)
    inputs, length, asked = seen.pop()
    assert (inputs, length) == ([Path("a")], 3)
    assert asked == Asked(Settings(prepare=PrepareSettings(k_core=2)), free=FREE) and asked.typed == frozenset()
    _distill(data="y", student_items="all", device="cpu", cache=False)
    data, asked = seen.pop()
    assert (data, asked.device, asked.use_cache) == ("y", "cpu", False)
    assert asked.settings == Settings(student=StudentConfig(items_per_step=None))
    for wrong in ({}, {"inputs": [], "bugdet": 3}):
        with pytest.raises(TypeError):
            _columns(**wrong)


def test_validation_chooses_only_what_was_not_given(seen: list[Any], tmp_path: Path) -> None:
    """Neither on the command line, even as the default, nor in a settings file."""
    assert choosable().keys() == FREE
    _distill()
    assert seen[-1][1].free == FREE and seen[-1][1].settings == Settings()
    for value in (0, ModelConfig.lexical):
        _distill(lexical=value)
        assert seen[-1][1].free == FREE - {("model", "lexical")} and seen[-1][1].settings.model.lexical == value
    found = Asked(free=FREE).beneath(settings_file(tmp_path, '{"train": {"recency": null}}'))
    assert found.free == FREE - {("train", "recency")} and found.settings.train.recency is None
    for text in ('{"model": {"lexical": 0}}', json.dumps({"model": {"lexical": ModelConfig.lexical}})):
        assert Asked(free=FREE).beneath(settings_file(tmp_path, text)).free == FREE - {("model", "lexical")}
    assert Asked(free=FREE).beneath(settings_file(tmp_path, '{"model": {"width": 8}}')).free == FREE


def test_the_order_of_the_parameters() -> None:
    """A command's own, those of the fields, those of the run, and last the columns; in --help they are grouped."""
    names = list(_distill.__signature__.parameters)  # type: ignore[attr-defined]
    own = [f.name for f in fields("distill") if f.section != "prepare"]
    columns = [f.name for f in fields("distill") if f.section == "prepare"]
    assert names == ["data", *own, "device", "cache", *columns, "ctx"]
    assert set(RUN) == {"device", "cache", "json"}


def test_a_field_needs_a_sentence() -> None:
    made = option(3, "Some number.", "--some", ["compare"])
    assert made.default == 3  # type: ignore[attr-defined]
    assert made.metadata == {
        "help": "Some number.",
        "flag": "--some",
        "on": ("compare",),
        "text": None,
        "chosen": False,
    }  # type: ignore[attr-defined]


# what is typed is read


@pytest.mark.parametrize(("typed", "expected"), [("all", None), ("7", 7), ("007", 7), ("0", 0)])
def test_a_number_of_items_or_all(seen: list[Any], typed: str, expected: int | None) -> None:
    _distill(items_per_step=typed, student_items="5")
    settings = seen.pop()[1].settings
    assert (settings.distill.items_per_step, settings.student.items_per_step) == (expected, 5)


@pytest.mark.parametrize("value", ["10²", "²", "٣", "", "1.5", "-1", "some", "All", " 5"])
def test_what_only_looks_like_a_number(seen: list[Any], value: str) -> None:
    for name, flag in (("items_per_step", "--items-per-step"), ("student_items", "--student-items")):
        with pytest.raises(FosterError, match=rf"{flag} .*: not a number; use a number such as 512, or all"):
            _distill(**{name: value})
    assert not seen


def test_column_lists(seen: list[Any]) -> None:
    for typed, expected in ((" title, genres ,", ("title", "genres")), ("x", ("x",)), (None, None)):
        _columns(inputs=[], text_columns=typed)
        assert seen.pop()[2].settings.prepare.text_columns == expected
    for typed in (" , ", ""):
        with pytest.raises(FosterError, match="--text-columns names no column; use for example"):
            _columns(inputs=[], text_columns=typed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distill", "x.csv", "--items-per-step", "x"), "--items-per-step x: not a number; use a number such as 512"),
        (("compare", "x.csv", "--student-items", "1.5"), "--student-items 1.5: not a number"),
        (("preprocess", "x.csv", "--out", "o.parquet", "--text-columns", ","), "--text-columns names no column"),
        (("sweep", "x.csv", "--over", "tau=3,4", "--text-columns", " , "), "--text-columns names no column"),
        (("distill", "x.csv", "--settings", "none.json"), "--settings none.json: No such file"),
        (("tune", "x.csv", "--settings", "none.json"), "--settings none.json: No such file"),
    ],
)
def test_what_cannot_be_read_is_one_line(foster: Foster, words: tuple[str, ...], said: str) -> None:
    assert one_line(foster(*words)).startswith(f"foster: {said}")
