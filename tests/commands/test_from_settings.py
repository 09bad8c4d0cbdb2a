"""Options made from the fields of the settings: what is typed arrives, a settings file lies beneath it, all is checked.

`test_what_is_typed_arrives` types every option that a field names at every command that offers it: a new field needs no
test of its own. A new command needs an entry in `DOORS`. Alone: `pytest tests/commands/test_from_settings.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from calling import Foster, commands, one_line
from spying import spy

from foster_cli.commands import run, shared
from foster_cli.commands.from_settings import GROUPS, RUN, Asked, Field, asks, fields, read
from foster_cli.data import prepare
from foster_cli.errors import FosterError
from foster_cli.settings import (
    SECTIONS,
    DistillConfig,
    ModelConfig,
    PrepareSettings,
    Settings,
    StudentConfig,
    TrainConfig,
    option,
)
from foster_cli.train.trials import CANDIDATES

# what is typed arrives


class Door(NamedTuple):
    """The first call behind a command that is given its settings: whose it is, its name, and where they are in it.

    `words`: what the command needs beside them.
    """

    owner: Any
    name: str
    settings: Callable[[dict[str, Any]], Settings]
    words: tuple[str, ...] = ("x.csv",)


def _asked(given: dict[str, Any]) -> Settings:
    settings: Settings = given["asked"].settings
    return settings


#: `begin` and `check` are given an `Asked`, `session` is a method of one, `read_raw` has the columns alone.
DOORS: dict[str, Door] = {
    "distill": Door(run, "check", _asked),
    "compare": Door(shared, "begin", _asked),
    "ablate": Door(shared, "begin", _asked, ("x.csv", "--rows", "foster", "--layers", "2")),
    "sweep": Door(shared, "begin", _asked, ("x.csv", "--over", "tau=3,4", "--no-plot")),
    "tune": Door(shared, "begin", _asked),
    "bench distill": Door(Asked, "session", lambda given: given["self"].settings),
    "preprocess": Door(
        prepare, "read_raw", lambda given: Settings(prepare=given["settings"]),
        ("x.csv", "--out", "x.parquet"),
    ),
}  # fmt: skip


class Arrived(Exception):
    """Ends a command at its door."""


@pytest.fixture
def arrive(foster: Foster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`arrive(owner, name, *words)`: types `foster WORDS…`; the arguments, by name, of the first call of `owner.name`.

    No setting is out of range here, so that any value may be typed.
    """
    monkeypatch.setattr("foster_cli.distill.checks.check_settings", lambda settings: None)
    monkeypatch.setattr("foster_cli.models.source.find_encoder", lambda name, pooling=None: name)

    def call(owner: Any, name: str, *words: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def stop(given: dict[str, Any]) -> None:
            found.append(given)
            raise FosterError("enough", "stop here")

        with monkeypatch.context() as patch:
            spy(patch, owner, name, stop)
            said = foster(*words)
        assert said.code == 2 and said.err.splitlines()[-1] == "foster: enough; stop here", said.err
        return found[0]

    return call


def offered() -> dict[str, list[Field]]:
    """The commands that a field names, with their options."""
    names = {name for kind in (*SECTIONS.values(), PrepareSettings, Settings) for f in dataclasses.fields(kind)
             if f.metadata.get("flag") for name in f.metadata["on"]}  # fmt: skip
    return {name: fields(name) for name in sorted(names)}


def other(f: Field) -> tuple[list[str], Any]:
    """Words that type another value than the default, and that value."""
    if f.text == "names":
        return [f.flag, "a, b"], ("a", "b")
    if "/" in f.flag:
        on, off = f.flag.split("/")
        return [off if f.default else on], not f.default
    kind = f.parameter.annotation.__origin__ if f.text is None else int
    if kind in (int, int | None):
        value: Any = (f.default or 3) + 4
    elif kind in (float, float | None):
        value = (f.default or 3.0) + 0.25
    else:
        assert kind in (str, str | None), f
        value = "other"
    return [f.flag, str(value)], value


def test_every_command_has_a_door() -> None:
    assert set(offered()) == set(DOORS)


@pytest.mark.parametrize(
    ("command", "f"), [pytest.param(c, f, id=f"{c} {f.flag}") for c, found in offered().items() for f in found]
)
def test_what_is_typed_arrives(arrive: Callable[..., dict[str, Any]], command: str, f: Field) -> None:
    """It stands in its field, and no other field is changed by it."""
    door = DOORS[command]
    call = (*command.split(), *door.words)
    plain = door.settings(arrive(door.owner, door.name, *call))
    words, value = other(f)
    found = door.settings(arrive(door.owner, door.name, *call, *words))
    holder = plain if f.section == "" else getattr(plain, f.section)
    assert getattr(holder, f.field) == f.default != value
    changed = replace(holder, **{f.field: value})
    assert found == (changed if f.section == "" else replace(plain, **{f.section: changed}))


def test_all_of_them_at_once(arrive: Callable[..., dict[str, Any]]) -> None:
    """Each value in its own field, by the name of the option, and `typed` names all of them."""
    found = fields("distill")
    given = {f.name: other(f) for f in found}
    words = [word for typed, _ in given.values() for word in typed]
    called = arrive(run, "check", "distill", "x.csv", *words, "--method", "td3")
    asked = called["asked"]
    for f in found:
        holder = asked.settings if f.section == "" else getattr(asked.settings, f.section)
        assert getattr(holder, f.field) == given[f.name][1], f.flag
    assert asked.typed == {"data", "method", *given} and called["method"] == "td3"


def _of_the_run(command: str) -> set[str]:
    """The options of a run that a command has; `foster export` has a --device of its own."""
    return {p.name for p in commands()[command].params if getattr(p, "rich_help_panel", None) == "Run"}


@pytest.mark.parametrize("command", [c for c in commands() if "device" in _of_the_run(c)])
def test_the_options_of_the_run_arrive(arrive: Callable[..., dict[str, Any]], command: str) -> None:
    words = DOORS[command].words if command in DOORS else ("x",)
    has_cache = "cache" in _of_the_run(command)
    plain = arrive(Asked, "session", *command.split(), *words)["self"]
    assert (plain.device, plain.use_cache, plain.json) == ("auto", True, False)
    extra = ("--device", "cuda:7", "--json", *(["--no-cache"] * has_cache))
    asked = arrive(Asked, "session", *command.split(), *words, *extra)["self"]
    assert (asked.device, asked.use_cache, asked.json) == ("cuda:7", not has_cache, True)
    assert asked.typed - plain.typed == {"device", "json", *(["cache"] * has_cache)}


def test_a_session_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from foster_cli import ops

    monkeypatch.setattr(ops, "fallback", lambda device: None)
    asked = Asked(device="cpu", use_cache=False, json=True)
    for events in (True, False):  # with --json, stdout carries either the events or the command's answer
        session = asked.session(events=events)
        assert (session.device.type, session.use_cache) == ("cpu", False)
        assert session.console.json_mode is events
    with pytest.raises(FosterError, match="--device gpu"):
        Asked(device="gpu").session()
    assert Asked(device="gpu").session("cpu").device.type == "cpu"
    monkeypatch.setattr(ops, "fallback", lambda device: "there is none")
    said: list[str] = []
    monkeypatch.setattr("foster_cli.console.Console.note", lambda self, text: said.append(text))
    asked.session()
    assert said == ["plain PyTorch does the work of the compiled ops: there is none"]


# how options are made


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
FREE = frozenset((f.section, f.field) for f in fields() if f.chosen)
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
    assert CANDIDATES.keys() == FREE
    _distill()
    assert seen[-1][1].free == FREE and seen[-1][1].settings == Settings()
    for value in (0, ModelConfig.lexical):
        _distill(lexical=value)
        assert seen[-1][1].free == FREE - {("model", "lexical")} and seen[-1][1].settings.model.lexical == value
    for text in ('{"model": {"lexical": 0}}', json.dumps({"model": {"lexical": ModelConfig.lexical}})):
        assert Asked(free=FREE).beneath(_file(tmp_path, text)).free == FREE - {("model", "lexical")}
    assert Asked(free=FREE).beneath(_file(tmp_path, '{"model": {"width": 8}}')).free == FREE


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


# a settings file


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_lies_beneath_what_was_typed(tmp_path: Path) -> None:
    text = """{"model": {"width": 8, "layers": 3}, "train": {"lr": 0.5}, "student": {"lr": 0.25, "items_per_step": null,
              "check_every": 20, "steps": 9}, "distill": {"steps": 5, "eta": 2, "items_per_step": 33}}"""
    typed = frozenset({"steps", "student_items", "lr", "width"})
    own = Settings(
        model=ModelConfig(width=16), train=TrainConfig(lr=0.1), distill=DistillConfig(steps=7, gain=3.0),
        student=StudentConfig(items_per_step=4), seed=5,
    )  # fmt: skip
    asked = Asked(own, typed, device="cpu", use_cache=False)
    found = asked.beneath(_file(tmp_path, text))
    assert found.settings == replace(
        own, model=ModelConfig(width=16, layers=3),
        distill=DistillConfig(steps=7, gain=3.0, eta=2.0, items_per_step=33),
        student=StudentConfig(lr=0.25, items_per_step=4, check_every=20, steps=9),
    )  # fmt: skip
    assert replace(found, settings=own) == asked  # nothing else is touched
    assert asked.beneath(None) == asked == asked.beneath(_file(tmp_path, "{}"))


@pytest.mark.parametrize("f", [f for f in fields() if f.section in SECTIONS], ids=lambda f: f.flag)
def test_a_typed_option_wins_over_the_file(tmp_path: Path, f: Field) -> None:
    """Each by its own name: `--lr` is the full data's rate, `--student-lr` the student's."""
    _, value = other(f)
    path = _file(tmp_path, json.dumps({f.section: {f.field: value}}))
    for typed, expected in ((frozenset(), value), (frozenset({f.name}), f.default)):
        found = Asked(typed=typed).beneath(path).settings
        assert getattr(getattr(found, f.section), f.field) == expected


def test_a_whole_number_for_a_rate_and_a_null(tmp_path: Path) -> None:
    found = read(_file(tmp_path, '{"distill": {"gain": 20, "rank_user": null}, "model": {"width": 8}}'))
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
    ('{"distill": {"steps": 1.5}}', ("distill.steps is 1.5", "a whole number")),
    ('{"distill": {"steps": null}}', ("distill.steps is null",)),
    ('{"distill": {"rank_user": "3"}}', ("a whole number or null",)),
    ('{"student": {"dropout": 1}}', ("student.dropout is 1", "true or false")),
    ('{"model": {"encoder": 7}}', ("model.encoder is 7", "a text")),
    ('{"distill": {"budget": 0}}', ("--budget 0",)),
    ("[" * 100_000, ("is not JSON",)),
]


@pytest.mark.parametrize(("content", "words"), BROKEN, ids=[content[:30] for content, _ in BROKEN])
def test_a_broken_settings_file_is_one_line(
    foster: Foster, tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    file = _file(tmp_path, content)
    for command in ("tune", "distill"):
        said = foster(command, "nothing.csv", "--settings", file)
        assert said.code == 2 and not said.out
        assert len(said.err.splitlines()) == 1 and said.err.startswith("foster: ") and "; " in said.err
        assert all(word in said.err for word in words), said.err


# what a run began with


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
    shown = {"items": str(value), "names": "a,b"}.get(f.text or "", value)
    before = {"items": str(f.default)}.get(f.text or "", f.default)
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
