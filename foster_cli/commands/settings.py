"""The options that `foster distill` shares with the settings dataclasses, and how they become one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from foster_cli.config import choice, is_number
from foster_cli.errors import FosterError

if TYPE_CHECKING:
    from foster_cli.data.columns import PrepareSettings

#: Stands for the context where a command is called as a function: nothing was given on a command line.
NO_CONTEXT = typer.Context(TyperCommand("none"))
DATA_HELP = "A prepared parquet file, or raw tables (interactions, or interactions and items)."


def opt(flag: str, text: str) -> typer.models.OptionInfo:
    """An option by one name."""
    option: typer.models.OptionInfo = typer.Option(flag, help=text)
    return option


PoolingOption = Annotated[
    str | None, opt("--pooling", "mean, last (token) or cls; as the encoder was trained, and last for a causal LM.")
]
LoraOption = Annotated[
    int | None, opt("--lora", "Rank of LoRA in the layers of --train-layers, which then stay as they are.")
]
AlphaOption = Annotated[float | None, opt("--lora-alpha", "LoRA's alpha; 4 times the rank without it.")]


def was_given(ctx: typer.Context, name: str) -> bool:
    """Whether the option was typed, not left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(ctx: typer.Context, names: tuple[str, ...], method: str) -> None:
    """FosterError for one of the options `names` that was given on the command line: `method` has no use for it."""
    for name in names:
        if was_given(ctx, name):
            flag = "--mix/--no-mix" if name == "mix" else f"--{name.replace('_', '-')}"
            raise FosterError(f"{flag}: means nothing with --method {method}", "leave it out, or use --method foster")


def items_per_step(name: str, value: str) -> int | None:
    """`all` or a number."""
    if value == "all":
        return None
    if not is_number(value):
        raise FosterError(f"{name} {value}: not a number", "use a number such as 512, or all")
    return int(value)


def numbers(name: str, value: str) -> tuple[int, ...]:
    """`10,20` as numbers of at least 1."""
    parts = [p.strip() for p in value.split(",")]
    if not all(is_number(p) and int(p) > 0 for p in parts):
        raise FosterError(f"{name} {value}: not a list of numbers", f"use for example {name} 10,20")
    return tuple(dict.fromkeys(int(p) for p in parts))


def names(option: str, value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b`, each of them known and given once."""
    found = tuple(part.strip() for part in value.split(","))
    for name in found:
        choice(option, name, known)
        if found.count(name) > 1:
            raise FosterError(f"{option}: {name} is given twice", "name each once")
    return found


def rates(name: str, value: str) -> tuple[float, ...]:
    """`3e-4,1e-3` as positive numbers, each once."""
    found = []
    for part in value.split(","):
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
    if not all(0 < x < math.inf for x in found):
        raise FosterError(f"{name} {value}: not a list of positive numbers", f"use for example {name} 3e-4,1e-3")
    return tuple(dict.fromkeys(found))


def prepare_settings(
    user: str | None,
    item: str | None,
    time: str | None,
    text: str | None,
    split: str | None,
    k_core: int | None,
) -> PrepareSettings:
    """The column options and the k-core as `PrepareSettings`."""
    from foster_cli.data.columns import PrepareSettings

    columns = tuple(c.strip() for c in text.split(",") if c.strip()) if text else None
    return PrepareSettings(
        user_column=user,
        item_column=item,
        time_column=time,
        text_columns=columns,
        split_column=split,
        k_core=k_core,
    )


def absolute(paths: list[Path]) -> list[str]:
    """Paths as a bundle keeps them."""
    from foster_cli.runtime import real_path

    return [str(real_path(p)) for p in paths]
