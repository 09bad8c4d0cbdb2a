"""The configurations that `foster rank` compares, checked before anything is trained.

In: a file with a JSON list of objects, or with an object on each line, and a bundle. Out: a `Config` for each.

    {"name": "wide", "model": {"backbone": "gru4rec", "width": 128}, "student": {"lr": 0.002}, "train": {"lr": 0.001}}

All entries may be missing. Settings that are not given are those of the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foster_cli.bundle import Bundle
from foster_cli.console import clean
from foster_cli.distill.checks import check_settings
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.models.recommender import check_heads, default_width
from foster_cli.settings import Settings
from foster_cli.settings_file import parse, sections

#: The sections that a configuration may have.
READ = ("model", "student", "train")
#: Settings of a student that have no part in a training without validation.
IDLE = ("check_every", "patience")
#: The most characters of a name.
MOST_NAME = 80
_HINT = 'use a list of at least 2 objects such as {"name": "wide", "model": {"width": 128}}, or one on each line'


@dataclass(frozen=True)
class Config:
    """A configuration. `own`: its sections as the file has them. `settings`: those of the bundle with `own` laid over
    them; `settings.student` says how a fresh model trains on the set."""

    name: str
    own: dict[str, dict[str, Any]]
    settings: Settings

    def on_set(self, real: bool) -> Settings:
        """The settings without those that a training on the set does not read; `real`: the set holds real sequences,
        which are trained on as all the data are."""
        if real:
            return self.settings
        plain, own = Settings(), self.settings
        unread = ("vector_dropout",) if own.student.dropout else ("vector_dropout", "dropout", "lora_dropout")
        model = replace(own.model, **{key: getattr(plain.model, key) for key in unread})
        return replace(own, model=model, train=plain.train)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Raise a FosterError of the block again, with the configuration's `name` before its message."""
    try:
        yield
    except FosterError as error:
        raise type(error)(f"configuration {name!r}: {error.message}", error.hint) from error


def read_configs(path: Path, bundle: Bundle, full: bool) -> tuple[Config, ...]:
    """The configurations of the file at `path`. `full`: they are also trained on all the data.

    Raises FosterError for a file that cannot be read, fewer than two configurations, unknown or wrong settings, equal
    names, and configurations that would train the same models.
    """
    where, real = f"--configs {path}", bundle.windows is not None
    try:
        entries = _entries(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FosterError(f"{where}: {error.strerror or error}", "name a file of configurations") from error
    except ValueError as error:
        raise FosterError(f"{where}: is not JSON ({error})", _HINT) from error
    if len(entries) < 2:
        raise FosterError(f"{where}: holds {len(entries)} configurations, and a ranking needs two", _HINT)
    made = replace(bundle.made, student=bundle.recipe)
    found = [_config(entry, f"{where}: number {i + 1}", made, real) for i, entry in enumerate(entries)]
    _refuse_equal(found, where, real, full)
    return tuple(found)


def _entries(text: str) -> list[Any]:
    """The values in a JSON list, or on the lines of a text. Raises ValueError if one is no JSON."""
    if text.lstrip().startswith("["):
        found: list[Any] = parse(text)
        return found
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            out += [parse(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return out


def _config(entry: Any, where: str, made: Settings, real: bool) -> Config:
    """The configuration of an object in the file. Raises FosterError, beginning with `where`."""
    if not isinstance(entry, dict):
        raise FosterError(f"{where} is {json.dumps(entry)[:60]}", _HINT)
    own = {key: value for key, value in entry.items() if key != "name"}
    for key in own:
        _check_section(key, where, real)
    own = sections(own, where)
    for key in own.get("student", {}):
        if key in IDLE:
            raise FosterError(f"{where}: student.{key} is for trainings with validation, which these are not",
                              "leave it out, or set student.steps")  # fmt: skip
    name = _name(entry["name"], where) if "name" in entry else described(own)
    laid = {key: replace(getattr(made, key), **values) for key, values in own.items()}
    config = Config(name, own, replace(made, **laid))
    with naming(name):
        check_settings(config.settings)
        model = config.settings.model  # a width of 0 stands for that of the encoder, which is not known yet
        check_heads(model, default_width(model, 0) if model.width is None else model.width)
    return config


def _check_section(key: str, where: str, real: bool) -> None:
    """Raise FosterError unless a configuration may have the section `key`."""
    known = [name for name in READ if name != "student" or not real]
    if key in known:
        return
    if key == "student" and real:
        raise FosterError(
            f"{where}: student is not read, because the bundle holds real sequences", "use model or train"
        )
    if key in ("distill", "ranking"):
        raise FosterError(f"{where}: {key} is not read: all are trained on one set and ranked alike",
                          f"use {', '.join(known)}")  # fmt: skip
    near = did_you_mean(key, ("name", *known))
    hint = f"did you mean {near!r}?" if near else f"known: name, {', '.join(known)}"
    raise FosterError(f"{where}: unknown section {key[:60]!r}", hint)


def _name(name: Any, where: str) -> str:
    """A given name. Raises FosterError if it cannot be shown on a line."""
    if not isinstance(name, str) or not name.strip() or len(name) > MOST_NAME or clean(name) != name:
        shown = json.dumps(name)[:60]
        raise FosterError(f"{where}: the name is {shown}", f"use a text of 1 to {MOST_NAME} characters on one line")
    return name


def described(own: dict[str, dict[str, Any]]) -> str:
    """The name of a configuration that has none: what it changes, as in `width 64, student.lr 0.1`."""
    words = [
        f"{'' if section == 'model' else section + '.'}{key} {value if isinstance(value, str) else json.dumps(value)}"
        for section, values in own.items()
        for key, value in values.items()
    ]
    return clean(", ".join(words)) or "as the bundle"


def _refuse_equal(configs: list[Config], where: str, real: bool, full: bool) -> None:
    """Raise FosterError for two configurations of one name, or of the same settings, as far as they are read."""
    for i, b in enumerate(configs):
        for a in configs[:i]:
            if a.settings == b.settings:
                raise FosterError(f"{where}: {a.name!r} and {b.name!r} have the same settings", "leave one out")
            if a.name == b.name:
                raise FosterError(f"{where}: two configurations are called {a.name!r}", "give another name")
            if not full and a.on_set(real) == b.on_set(real):
                raise FosterError(
                    f"{where}: {a.name!r} and {b.name!r} differ only in what trainings on all the data read",
                    "leave one out, or give --full",
                )
