"""Options made from the fields of the settings: what is typed arrives at every command that offers it.

`test_what_is_typed_arrives` types every option that a field names at every command that offers it: a new field needs no
test of its own. A new command needs an entry in `DOORS`. Alone: `pytest tests/commands/test_from_settings.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from calling import Foster, commands
from spying import stopped
from typed import offered, other

from foster_cli.commands import run, shared
from foster_cli.commands.from_settings import Asked, Field, fields
from foster_cli.data import prepare
from foster_cli.errors import FosterError
from foster_cli.settings import (
    Settings,
)


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

#: What a command without options of the settings must be given, if more than a name.
NEEDED = {"rank": ("x", "--configs", "x.json")}


@pytest.fixture
def arrive(foster: Foster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`arrive(owner, name, *words)`: types `foster WORDS…`; the arguments, by name, of the first call of `owner.name`.

    No setting is out of range here, so that any value may be typed.
    """
    monkeypatch.setattr("foster_cli.distill.checks.check_settings", lambda settings: None)
    monkeypatch.setattr("foster_cli.models.source.find_encoder", lambda name, pooling=None: name)

    def call(owner: Any, name: str, *words: str) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            found = stopped(patch, owner, name)
            said = foster(*words)
        assert said.code == 2 and said.err.splitlines()[-1] == "foster: enough; stop here", said.err
        return found[0]

    return call


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
    words = DOORS[command].words if command in DOORS else NEEDED.get(command, ("x",))
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
