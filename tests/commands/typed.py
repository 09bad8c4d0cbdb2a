"""Options that tests type: those of each command, and another value than the default for each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from foster_cli.commands.from_settings import Field, fields
from foster_cli.settings import SECTIONS, PrepareSettings, Settings


def offered() -> dict[str, list[Field]]:
    """The commands that a field names, with their options."""
    names = {name for kind in (*SECTIONS.values(), PrepareSettings, Settings) for f in dataclasses.fields(kind)
             if f.metadata.get("flag") for name in f.metadata["on"]}  # fmt: skip
    return {name: fields(name) for name in sorted(names)}


def other(f: Field) -> tuple[list[str], Any]:
    """Words that type another value than the default, and that value."""
    if f.text == "names":
        return [f.flag, "a, b"], ("a", "b")
    if f.text == "list":
        return [f.flag, "a=1, 2", f.flag, "b"], ("a=1, 2", "b")
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


def settings_file(tmp_path: Path, text: str) -> Path:
    """A settings file that holds `text`."""
    path = tmp_path / "settings.json"
    path.write_text(text, encoding="utf-8")
    return path
