"""`foster cache`: lists and removes cached teachers and encoded texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from foster_cli.commands.from_settings import Json

if TYPE_CHECKING:
    from foster_cli.cache import Entry

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is kept of trained teachers and read texts.")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_KIND = typer.Option("--kind", help="Only entries of this kind: teachers or texts.")
_OLDER = typer.Option("--older-than", help="Only entries not written for this long: 12h, 30d, 8w.")


@app.command("list")
def list_command(
    kind: Annotated[str | None, _KIND] = None,
    older_than: Annotated[str | None, _OLDER] = None,
    json: Json = False,
) -> None:
    """List the cache: trained teachers, encoded item texts, unfinished trainings.

    Example: foster cache list --kind teachers
    """
    from foster_cli.cache import cache_dir, in_use
    from foster_cli.console import Console

    console = Console(json_mode=json)
    found = _chosen(kind, older_than, [])
    rows = [(e, _state(e, in_use(e))) for e in found]
    for e, state in rows:
        console.event(
            kind=e.kind, key=e.key, path=str(e.path), bytes=e.size, modified=e.modified, state=state, about=e.about
        )
    if found:
        columns = ("key", "kind", "MB", "age", "state", "of")
        cells = [(e.key[:12], e.kind, f"{e.size / 1e6:.1f}", _age(e.modified), state, _about(e)) for e, state in rows]
        console.table(str(cache_dir()), columns, cells)
    console.result(f"{len(found)} entries, {sum(e.size for e in found) / 1e6:.1f} MB in {cache_dir()}")


@app.command("clear")
def clear_command(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="The beginnings of keys; all without any.")
    ] = None,
    kind: Annotated[str | None, _KIND] = None,
    older_than: Annotated[str | None, _OLDER] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    json: Json = False,
) -> None:
    """Remove cache entries. They are made again when needed. An entry that another process uses now is not removed.

    Example: foster cache clear --older-than 30d
    """
    import sys

    from foster_cli.cache import cache_dir, remove
    from foster_cli.console import Console
    from foster_cli.errors import FosterError

    console = Console(json_mode=json)
    found = _chosen(kind, older_than, keys or [])
    size = sum(e.size for e in found) / 1e6
    if found and not yes:
        if not sys.stdin.isatty():
            raise FosterError(f"{len(found)} entries of {size:.1f} MB would be removed", "give --yes")
        if not typer.confirm(f"remove {len(found)} entries, {size:.1f} MB, from {cache_dir()}?", err=True):
            console.note("nothing was removed")
            return
    removed = []
    for e in found:
        if remove(e):
            removed.append(e)
            console.event(event="removed", kind=e.kind, key=e.key, bytes=e.size)
        else:
            console.note(f"{e.kind} {e.key[:12]} is in use and stays")
    console.result(f"removed {len(removed)} entries, {sum(e.size for e in removed) / 1e6:.1f} MB")


def _chosen(kind: str | None, older_than: str | None, keys: list[str]) -> list[Entry]:
    """The entries that the options select. Raises FosterError for a bad option, or a key that no entry has."""
    import time

    from foster_cli.cache import KINDS, entries
    from foster_cli.errors import FosterError
    from foster_cli.settings import choice

    if kind is not None:
        choice("--kind", kind, KINDS)
    least = 0.0
    if older_than is not None:
        match = re.fullmatch(r"(\d{1,9})([mhdw])", older_than)
        if match is None:
            raise FosterError(f"--older-than {older_than}: no length of time", "use for example 12h, 30d or 8w")
        least = int(match[1]) * _SECONDS[match[2]]
    found = [e for e in entries() if kind in (None, e.kind) and time.time() - e.modified >= least]
    for key in keys:
        if not any(e.key.startswith(key) for e in found):
            raise FosterError(f"{key}: no such entry", "`foster cache list` shows them")
    return [e for e in found if not keys or any(e.key.startswith(key) for key in keys)]


def _state(e: Entry, used: bool) -> str:
    return "in use" if used else "whole" if e.whole else "unfinished"


def _age(modified: float) -> str:
    import time

    seconds = max(0.0, time.time() - modified)
    for sign, size in reversed(_SECONDS.items()):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {sign}"
    return f"{seconds:.0f} s"


def _about(e: Entry) -> str:
    """A description of the entry in one line; `?` for an entry of an older foster."""
    a = e.about
    if not a:
        return "?"
    if e.kind == "texts":
        return f"{a.get('texts', '?')} texts, {a.get('encoder', '?')}"
    return f"{a.get('data', '?')}, {a.get('encoder', '?')}, {a.get('backbone', '?')}, seed {a.get('seed', '?')}"
