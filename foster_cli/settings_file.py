"""Reading settings from JSON. In: a file, or a JSON value. Out: sections of settings, each value of its field's type.

{"model": {…}, "train": {…}, "distill": {…}, "student": {…}, "ranking": {…}}; sections and fields may be missing.
"""

from __future__ import annotations

import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from foster_cli.errors import FosterError
from foster_cli.settings import SECTIONS, from_dict

#: Whole numbers stay below this, as in a bundle's manifest.
MOST = 1 << 63


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a settings file. Raises FosterError for an unreadable file, unknown keys or wrong types."""
    where = f"--settings {path}"
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FosterError(f"{where}: {error.strerror or error}", "name a settings file") from error
    except ValueError as error:
        raise FosterError(f"{where}: is not JSON ({error})", "use a file that foster tune wrote") from error
    return sections(content, where)


def parse(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else: also for NaN, a value nested too deep, or half a
    surrogate pair, which cannot be printed."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def sections(content: Any, where: str) -> dict[str, dict[str, Any]]:
    """A JSON value as sections of settings. Raises FosterError, beginning with `where`, for unknown keys or wrong
    types."""
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise FosterError(f"{where}: holds no sections", f"use an object with {', '.join(SECTIONS)}")
    found: dict[str, dict[str, Any]] = {}
    for name, section in content.items():
        if name not in SECTIONS:
            raise FosterError(f"{where}: unknown section {name!r}", f"known: {', '.join(SECTIONS)}")
        try:
            from_dict(SECTIONS[name], section)
        except FosterError as error:
            raise FosterError(f"{where}: {error.message}", error.hint) from error
        hints = typing.get_type_hints(SECTIONS[name])
        found[name] = {key: _typed(f"{where}: {name}.{key}", value, hints[key]) for key, value in section.items()}
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _typed(where: str, value: Any, hint: Any) -> Any:
    """`value` if it has the type of the field, with int turned into float. Raises FosterError for another type."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, int) and abs(value) >= MOST:
        raise FosterError(f"{where} is {str(value)[:60]}", "use a smaller number")
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in allowed or (isinstance(value, float) and not math.isfinite(value)):
        words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
        raise FosterError(f"{where} is {json.dumps(value)[:60]}", f"use {' or '.join(words[kind] for kind in allowed)}")
    return value
