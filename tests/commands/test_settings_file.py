"""A settings file lies beneath what is typed, and a resumed run has the settings that it began with.

Alone: `pytest tests/commands/test_settings_file.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from calling import Foster
from typed import other, settings_file

from foster_cli.commands.from_settings import Asked, Field, fields
from foster_cli.errors import FosterError
from foster_cli.settings import (
    SECTIONS,
    DistillConfig,
    ModelConfig,
    Settings,
    StudentConfig,
    TrainConfig,
)
from foster_cli.settings_file import read


def test_a_file_lies_beneath_what_was_typed(tmp_path: Path) -> None:
    text = """{"model": {"width": 8, "layers": 3}, "train": {"lr": 0.5}, "student": {"lr": 0.25, "items_per_step": null,
              "check_every": 20, "steps": 9}, "distill": {"steps": 5, "eta": 2, "items_per_step": 33}}"""
    typed = frozenset({"steps", "student_items", "lr", "width"})
    own = Settings(
        model=ModelConfig(width=16), train=TrainConfig(lr=0.1), distill=DistillConfig(steps=7, gain=3.0),
        student=StudentConfig(items_per_step=4), seed=5,
    )  # fmt: skip
    asked = Asked(own, typed, device="cpu", use_cache=False)
    found = asked.beneath(settings_file(tmp_path, text))
    assert found.settings == replace(
        own, model=ModelConfig(width=16, layers=3),
        distill=DistillConfig(steps=7, gain=3.0, eta=2.0, items_per_step=33),
        student=StudentConfig(lr=0.25, items_per_step=4, check_every=20, steps=9),
    )  # fmt: skip
    assert replace(found, settings=own) == asked  # nothing else is touched
    assert asked.beneath(None) == asked == asked.beneath(settings_file(tmp_path, "{}"))


@pytest.mark.parametrize("f", [f for f in fields() if f.section in SECTIONS], ids=lambda f: f.flag)
def test_a_typed_option_wins_over_the_file(tmp_path: Path, f: Field) -> None:
    """Each by its own name: `--lr` is the full data's rate, `--student-lr` the student's."""
    _, value = other(f)
    path = settings_file(tmp_path, json.dumps({f.section: {f.field: value}}))
    for typed, expected in ((frozenset(), value), (frozenset({f.name}), f.default)):
        found = Asked(typed=typed).beneath(path).settings
        assert getattr(getattr(found, f.section), f.field) == expected


def test_a_whole_number_for_a_rate_and_a_null(tmp_path: Path) -> None:
    found = read(settings_file(tmp_path, '{"distill": {"gain": 20, "rank_user": null}, "model": {"width": 8}}'))
    assert found == {"distill": {"gain": 20.0, "rank_user": None}, "model": {"width": 8}}
    assert type(found["distill"]["gain"]) is float


#: What is wrong with a file, and what is said.
BROKEN = [
    ("[]", ("holds no sections", "student")),
    ('{"distill": 3}', ("holds no sections",)),
    ('{"distil": {}}', ("unknown section 'distil'", "distill")),
    ('{"prepare": {"k_core": 2}}', ("unknown section 'prepare'",)),
    ('{"distill": {"inner_step": 3}}', ("unknown setting 'inner_step'", "inner_steps")),
    ('{"distill": {"eta": "big"}}', ('distill.eta is "big"', "a number")),
    ('{"distill": {"eta": true}}', ("distill.eta is true", "a number")),
    ('{"distill": {"eta": NaN}}', ("is not JSON", "NaN")),
    ('{"distill": {"eta": 1e999}}', ("distill.eta",)),
    (f'{{"distill": {{"eta": 1{"0" * 400}}}}}', ("distill.eta is 1000", "a smaller number")),
    ('{"model": {"width": 9223372036854775808}}', ("model.width is 9223372036854775808", "a smaller number")),
    ('{"model": {"encoder": "\\ud800"}}', ("is not JSON", "surrogates not allowed")),
    ('{"distill": {"steps": 1.5}}', ("distill.steps is 1.5", "a whole number")),
    ('{"distill": {"steps": null}}', ("distill.steps is null",)),
    ('{"distill": {"rank_user": "3"}}', ("a whole number or null",)),
    ('{"student": {"dropout": 1}}', ("student.dropout is 1", "true or false")),
    ('{"model": {"encoder": 7}}', ("model.encoder is 7", "a text")),
    ('{"distill": {"budget": 0}}', ("--budget 0",)),
    ("[" * 100_000, ("is not JSON",)),
]


@pytest.mark.parametrize(("content", "words"), BROKEN, ids=[content[:40] for content, _ in BROKEN])
def test_a_broken_settings_file_is_one_line(
    foster: Foster, tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    file = settings_file(tmp_path, content)
    for command in ("tune", "distill"):
        said = foster(command, "nothing.csv", "--settings", file)
        assert said.code == 2 and not said.out
        assert len(said.err.splitlines()) == 1 and said.err.startswith("foster: ") and "; " in said.err
        assert all(word in said.err for word in words), said.err


@pytest.mark.parametrize("f", fields("distill"), ids=lambda f: f.flag)
def test_another_value_than_the_run_began_with_is_refused(f: Field) -> None:
    _, value = other(f)
    holder = Settings() if f.section == "" else getattr(Settings(), f.section)
    changed = replace(holder, **{f.field: value})
    settings = changed if f.section == "" else replace(Settings(), **{f.section: changed})
    asked = Asked(settings, frozenset({f.name}))
    asked.check_same(settings, {})
    with pytest.raises(FosterError) as caught:
        asked.check_same(Settings(), {})
    shown = {"items": str(value), "names": "a,b", "list": "a=1, 2,b"}.get(f.text or "", value)
    before = {"items": str(f.default), "list": "none"}.get(f.text or "", f.default)
    flag = f.flag.split("/")[0]
    assert str(caught.value) == f"{flag} {shown}: the run began with {before}; leave it out, or begin anew"
    replace(asked, typed=frozenset()).check_same(Settings(), {})  # what was not typed is as the run began


def test_all_items_are_shown_as_they_are_typed() -> None:
    began = Settings(student=StudentConfig(items_per_step=None))
    with pytest.raises(FosterError, match="--student-items 512: the run began with all"):
        Asked(typed=frozenset({"student_items"})).check_same(began, {})


def test_method_device_and_cache_that_a_run_began_with() -> None:
    asked = Asked(Settings(), frozenset({"method", "device", "cache"}), device="cpu", use_cache=False)
    asked.check_same(Settings(), {})  # a finished bundle does not say with which device it was made
    asked.check_same(Settings(), {"device": "cpu", "cache": False})
    for began, known, said in (
        (Settings(method="td3"), {}, "--method foster: the run began with td3"),
        (Settings(), {"device": "cuda"}, "--device cpu: the run began with cuda"),
        (Settings(), {"cache": True}, "--cache False: the run began with True"),
    ):
        with pytest.raises(FosterError, match=said):
            asked.check_same(began, known)
    replace(asked, typed=frozenset()).check_same(Settings(method="td3"), {"device": "cuda", "cache": True})
