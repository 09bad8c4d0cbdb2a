"""Makes command-line options from the fields of the settings, and `Settings` from what was typed.

The decorator `asks` replaces a command's parameter `asked` by options: those that the fields in `settings.py`
define for the command, and those of the run (--device, --cache, --json). Typed options override a settings file
(`--settings FILE`). Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from foster_cli.errors import FosterError
from foster_cli.settings import PARTS, Settings, from_dict, is_number, parameter_name
from foster_cli.settings_file import read

if TYPE_CHECKING:
    from foster_cli.console import Console
    from foster_cli.session import Session

#: The context of a command that is called as a function: nothing was typed.
NO_CONTEXT = typer.Context(TyperCommand("none"))
#: The order of the options in --help, and the heading of each group.
GROUPS = {
    "distill": "Distillation", "student": "Training on the synthetic set", "model": "Recommender",
    "train": "Training on real data", "ranking": "Ranking", "": "Run", "prepare": "Columns",
}  # fmt: skip


def opt(flag: str, text: str, **more: Any) -> Any:
    """An option with one name."""
    return typer.Option(flag, help=text, **more)


Device = Annotated[str, opt("--device", "cpu, cuda, cuda:N, mps or auto (cuda, else cpu).", rich_help_panel="Run")]
Cache = Annotated[
    bool, opt("--cache/--no-cache", "Reuse cached teachers and encoded texts; without it, train again.",
              rich_help_panel="Run"),
]  # fmt: skip
Json = Annotated[bool, opt("--json", "Print JSON instead of text.", rich_help_panel="Run")]
DATA_HELP = "A prepared parquet file, or raw tables (interactions, or interactions and items)."
Data = Annotated[list[Path], typer.Argument(metavar="DATA", help=DATA_HELP)]
Moved = Annotated[
    list[Path] | None, opt("--data", "The data that the bundle was distilled from, if they have moved (repeatable).")
]
Seeds = Annotated[int, opt("--seeds", "Fresh models per trained row; more narrow the intervals.", min=1)]
K = Annotated[str, opt("--k", "Cut-offs k of R@k and N@k, comma-separated.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run of this command wrote to --out.")]
SettingsFile = Annotated[
    Path | None, opt("--settings", "A settings file, such as foster tune writes; typed options override it.")
]
#: The options of a run with their defaults.
RUN: dict[str, tuple[Any, Any]] = {"device": (Device, "auto"), "cache": (Cache, True), "json": (Json, False)}


class Field(NamedTuple):
    """A field of the settings that is an option. `name`: the parameter's name; `text`, `chosen`: see
    `settings.option`."""

    section: str
    field: str
    name: str
    flag: str
    text: str | None
    chosen: bool
    default: Any
    parameter: inspect.Parameter


def _option(section: str, of: dataclasses.Field[Any], hint: Any) -> Field:
    meta, default = of.metadata, of.default
    name = parameter_name(meta["flag"])
    if meta["text"] == "items":
        hint, shown = str, as_text(default)
    elif meta["text"] == "names":
        hint, shown = str | None, None
    elif meta["text"] == "list":
        hint, shown = list[str] | None, None
    elif meta["chosen"]:
        hint, shown = hint | None, None
    else:
        shown = default
    annotation = Annotated[hint, opt(meta["flag"], meta["help"], rich_help_panel=GROUPS[section])]
    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)
    return Field(section, of.name, name, meta["flag"], meta["text"], meta["chosen"], default, parameter)


def fields(command: str | None = None) -> list[Field]:
    """The fields that are options of `command` (None: of any), in the order of `GROUPS`."""
    kinds: dict[str, type] = {**PARTS, "": Settings}
    found = []
    for section in GROUPS:
        hints = typing.get_type_hints(kinds[section])
        for of in dataclasses.fields(kinds[section]):
            if of.metadata.get("flag") and (command is None or command in of.metadata["on"]):
                found.append(_option(section, of, hints[of.name]))
    return found


def choosable() -> dict[tuple[str, str], str]:
    """The settings that validation chooses where they are not given, by section and field: the parameter's name, empty
    for one that only a settings file gives."""
    return {
        (section, of.name): parameter_name(of.metadata["flag"] or "")
        for section, kind in PARTS.items() for of in dataclasses.fields(kind) if of.metadata.get("chosen")
    }  # fmt: skip


def as_text(value: Any) -> Any:
    """The text by which a setting is typed: None is `all`, a tuple is A,B."""
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return "all" if value is None else str(value)


def _parsed(f: Field, value: Any) -> Any:
    """The setting that was typed as `value`. Raises FosterError for a bad value."""
    if f.text == "items":
        if value == "all":
            return None
        if not is_number(value):
            raise FosterError(f"{f.flag} {value}: not a number", "use a number such as 512, or all")
        return int(value)
    if f.text == "names" and value is not None:
        names = tuple(part.strip() for part in value.split(",") if part.strip())
        if not names:
            raise FosterError(f"{f.flag} names no column", f"use for example {f.flag} title,categories")
        return names
    if f.text == "list":
        return tuple(value or ())
    return f.default if f.chosen and value is None else value


@dataclass(frozen=True)
class Asked:
    """The values of a command line's options that are made from fields. `typed`: the names of all options that were
    typed, including the command's own options. `free`: section and name of the settings that were not given and that
    validation chooses."""

    settings: Settings = field(default_factory=Settings)
    typed: frozenset[str] = frozenset()
    free: frozenset[tuple[str, str]] = frozenset()
    device: str = "auto"
    use_cache: bool = True
    json: bool = False

    def session(self, device: str | None = None, events: bool = False) -> Session:
        """The session on `device` (None: the one asked for). `events`: with --json, stdout carries the run's events;
        otherwise the command prints its answer there, and all other output goes to stderr."""
        from foster_cli.console import Console

        return make_session(Console(json_mode=self.json and events), device or self.device, self.use_cache)

    def beneath(self, path: Path | None) -> Asked:
        """The same, with the values of the settings file `path` for untyped options. Raises FosterError like `read`."""
        found = {} if path is None else read(path)
        flags = {(f.section, f.field): f.name for f in fields()}
        given = {
            section: replace(
                getattr(self.settings, section),
                **{key: value for key, value in values.items() if flags.get((section, key)) not in self.typed},
            )
            for section, values in found.items()
        }
        named = {(section, key) for section, values in found.items() for key in values}
        return replace(self, settings=replace(self.settings, **given), free=self.free - named)

    def check_same(self, began: Settings, known: dict[str, Any]) -> None:
        """Raise FosterError for the first typed option that differs from the settings that the run began with.

        `known`: the run's values of --device and --cache, if known; only these are compared.
        """
        _same("method" in self.typed, "--method", self.settings.method, began.method)
        for f in fields("distill"):
            holder = began if f.section == "" else getattr(began, f.section)
            here = self.settings if f.section == "" else getattr(self.settings, f.section)
            _same(f.name in self.typed, f.flag, _shown(f, getattr(here, f.field)), _shown(f, getattr(holder, f.field)))
        for name, value in known.items():
            here = {"device": self.device, "cache": self.use_cache}.get(name)
            _same(name in self.typed, f"--{name}", here, value)


def make_session(console: Console, device: str, use_cache: bool = True) -> Session:
    """A session; a note says if plain PyTorch stands in for the extension.

    Raises FosterError for a device that does not exist, or a wrong `FOSTER_OPS`.
    """
    from foster_cli import ops
    from foster_cli.runtime import pick_device
    from foster_cli.session import Session

    session = Session(console, pick_device(device), use_cache)
    reason = ops.fallback(session.device)
    if reason is not None:
        console.note(f"plain PyTorch does the work of the compiled ops: {reason}")
    return session


def _shown(f: Field, value: Any) -> Any:
    return as_text(value) if f.text == "items" or isinstance(value, tuple) else value


def _same(typed: bool, flag: str, here: Any, began: Any) -> None:
    if typed and here != began:
        name = "--" + flag.split("/")[0].removeprefix("--")
        raise FosterError(f"{name} {here}: the run began with {began}", "leave it out, or begin anew")


def typed_names(ctx: typer.Context, names: Sequence[str]) -> frozenset[str]:
    """The names of the options that were typed."""
    sources = {name: ctx.get_parameter_source(name) for name in names}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def asks(command: str, *run: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: replaces the parameter of type `Asked` by the options of `command`'s fields and of `RUN[run]`."""
    made = fields(command)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=RUN[name][1], annotation=RUN[name][0])
        for name in run
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, default=NO_CONTEXT, annotation=typer.Context)

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(body, eval_str=True).parameters.values() if p.name != "asked"]
        first = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        prepared = [f.parameter for f in made if f.section == "prepare"]
        signature = inspect.Signature(
            [*first, *(f.parameter for f in made if f.section != "prepare"), *extra, *prepared, context]
        )

        def called(**given: Any) -> None:
            bound = signature.bind(**given)
            bound.apply_defaults()
            values = bound.arguments
            sections: dict[str, dict[str, Any]] = {}
            for f in made:
                sections.setdefault(f.section, {})[f.field] = _parsed(f, values[f.name])
            settings = Settings(
                **sections.pop("", {}),
                **{name: from_dict(PARTS[name], v) for name, v in sections.items()},
            )
            typed = typed_names(values["ctx"], [p for p in signature.parameters if p != "ctx"])
            free = frozenset(key for key, name in choosable().items() if values.get(name) is None)
            run = (values.get("device", "auto"), values.get("cache", True), values.get("json", False))
            asked = Asked(settings, typed, free, *run)
            body(**{p.name: values[p.name] for p in own}, asked=asked)

        called.__doc__, called.__name__ = body.__doc__, body.__name__
        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return called

    return decorate


def _at_home(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_at_home, value))
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value  # noqa: PTH111


def with_home(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which gets paths with ~ at their beginning replaced: no shell does that in --out=~/x."""

    @functools.wraps(command)
    def called(**given: Any) -> None:
        command(**{name: _at_home(value) for name, value in given.items()})

    return called


class Grouped(TyperCommand):
    """A command whose --help lists the options under headings, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the command's own options, then one for each group."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name = getattr(parameter, "rich_help_panel", None) or _heading(parameter)
                groups.setdefault(name, []).append(record)
        for name, records in sorted(groups.items(), key=lambda group: group[0] != "Arguments"):
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _heading(parameter: Any) -> str:
    return "Arguments" if parameter.param_type_name == "argument" else "Options"
