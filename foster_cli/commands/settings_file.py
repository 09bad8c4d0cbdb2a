"""`--settings FILE`: settings from a JSON file, beneath the options that were typed.

In: {"model": {…}, "train": {…}, "distill": {…}, "student": {…}}, any section and any field of them. `foster tune`
writes such a file. Out: the four configs.
"""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from foster_cli.commands.settings import was_given
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, from_dict
from foster_cli.errors import FosterError

T = TypeVar("T")
SECTIONS: dict[str, type] = {
    "model": ModelConfig, "train": TrainConfig, "distill": DistillConfig, "student": StudentConfig
}  # fmt: skip
#: How an option is named where it is not as its field.
_OPTIONS = {("student", "items_per_step"): "student_items"}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a settings file. Raises FosterError for what is no such file: unknown keys, wrong types."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise FosterError(f"--settings {path}: {error.strerror or error}", "name a settings file") from error
    except (ValueError, RecursionError) as error:
        raise FosterError(f"--settings {path}: is not JSON ({error})", "use a file that foster tune wrote") from error
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise FosterError(f"--settings {path}: holds no sections", f"use an object with {', '.join(SECTIONS)}")
    for name, section in content.items():
        if name not in SECTIONS:
            raise FosterError(f"--settings {path}: unknown section {name!r}", f"known: {', '.join(SECTIONS)}")
        try:
            from_dict(SECTIONS[name], section)
        except FosterError as error:
            raise FosterError(f"--settings {path}: {error.message}", error.hint) from error
        hints = typing.get_type_hints(SECTIONS[name])
        for key, value in section.items():
            section[key] = _typed(f"--settings {path}: {name}.{key}", value, hints[key])
    return content


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _typed(where: str, value: Any, hint: Any) -> Any:
    """`value` if it is of the field's type; a whole number where a number is asked for becomes one."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in allowed or (isinstance(value, float) and not math.isfinite(value)):
        words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
        raise FosterError(f"{where} is {json.dumps(value)[:60]}", f"use {' or '.join(words[kind] for kind in allowed)}")
    return value


def beneath(
    ctx: typer.Context, path: Path | None, model: ModelConfig, train: TrainConfig, config: DistillConfig,
    student: StudentConfig,
) -> tuple[ModelConfig, TrainConfig, DistillConfig, StudentConfig]:  # fmt: skip
    """The configs with the file's settings, but for the options that were typed. Raises FosterError as `read`."""
    found = {} if path is None else read(path)

    def under(name: str, own: T) -> T:
        option = {
            key: _OPTIONS.get((name, key), f"student_{key}" if name == "student" else key)
            for key in found.get(name, {})
        }
        given = {key: value for key, value in found.get(name, {}).items() if not was_given(ctx, option[key])}
        return replace(own, **given)  # type: ignore[type-var]

    return under("model", model), under("train", train), under("distill", config), under("student", student)
