"""Opens the tables that a user names, finds out which holds the interactions, and reads the columns that are needed.

In: what was typed. Out: `Tables`: the rows of the interactions and of the items, the meaning of their columns, and the
filters of --where. Interactions in several tables are the parts of a split, or of one table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from foster_cli.console import clean
from foster_cli.data.columns import Columns, has_user, known_names, recognise
from foster_cli.data.readers import ORDER, Read, Table, open_table
from foster_cli.data.readers.source import parts_of
from foster_cli.data.split import SPLIT_NAMES
from foster_cli.data.where import Where, parse_where
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.files import real_path
from foster_cli.settings import NO_SPLIT, PrepareSettings


@dataclass(frozen=True)
class Wheres:
    """Filters on columns of the interactions (`own`), and on columns of the items table."""

    own: list[Where]
    of_items: list[Where]


@dataclass(frozen=True)
class Tables:
    """The rows of the interactions and of the `items` table, if there is one; their columns; the filters; how they were
    read (`notes`); a name for the dataset."""

    read: Read
    items: Read | None
    columns: Columns
    wheres: Wheres
    notes: list[str]
    name: str


def read_tables(paths: Sequence[Path], settings: PrepareSettings) -> Tables:
    """Read one table with texts, or tables of interactions and of items, in any order. Raises FosterError for tables
    that do not fit together."""
    buys, items, named = _roles(_opened(paths, settings), settings)
    columns = recognise(buys[0].names, None if items is None else items.names, settings, named)
    wheres = wheres_of(settings, buys[0].names, None if items is None else items.names)
    wanted = _wanted(columns, items is None, wheres)
    notes = [note for table in (*buys, *([] if items is None else [items])) for note in table.notes]
    read = buys[0].read([*wanted, ORDER]) if len(buys) == 1 else _joined(buys, wanted, settings, notes)
    if len(buys) > 1 and columns.split is None and "split" in read.frame.columns:
        columns = replace(columns, split="split")
    of_items = None if items is None else items.read(_wanted_of_items(columns, wheres))
    return Tables(read, of_items, columns, wheres, notes, clean(buys[0].stem) or "data")


def _opened(paths: Sequence[Path], settings: PrepareSettings) -> list[Table]:
    """The tables; `--columns` are for those without a header, in their order."""
    names = [[name.strip() for name in text.split(",")] for text in settings.columns]
    tables = []
    for path in paths:
        parts = parts_of(path)
        try:
            table = open_table(path, settings.format, settings.encoding, None, parts)
            bare = table.layout is not None or table.kind == "sequences" or not known_names(table.names)
        except FosterError:
            if not names:
                raise
            bare = True
        if names and bare:
            table = open_table(path, settings.format, settings.encoding, names.pop(0), parts)
        tables.append(table)
    if names:
        raise FosterError(
            f"--columns {clean(','.join(names[0]))}: no table without a header is left for it", "leave it out"
        )
    return tables


def _roles(tables: Sequence[Table], settings: PrepareSettings) -> tuple[list[Table], Table | None, bool]:
    """The tables of interactions, that of the items, and whether foster named the columns of any."""
    buys = [table for table in tables if has_user(table.names, settings)]
    others = [table for table in tables if table not in buys]
    if not buys and len(tables) > 1:
        listed = "; ".join(f"{table.given}: {', '.join(table.names)}" for table in tables)
        raise FosterError(
            f"none of the tables has a user column ({clean(listed)})",
            "name that of the interactions with --user-column",
        )
    buys, others = buys or list(tables), others if buys else []
    if len(others) > 1:
        raise FosterError(
            f"{len(others)} tables without a user column: {clean(', '.join(table.given for table in others))}",
            "give the interactions, and one table of items",
        )
    named = any(table.layout is not None or table.kind == "sequences" for table in tables)
    return buys, others[0] if others else None, named


def wheres_of(settings: PrepareSettings, table: Sequence[str], items: Sequence[str] | None) -> Wheres:
    """The filters of --where: on columns of the interactions, and on columns that only the items have."""
    found = [parse_where(text) for text in settings.where]
    own = [where for where in found if where.column in table]
    of_items = [where for where in found if where not in own and items is not None and where.column in items]
    for where in found:
        if where not in own and where not in of_items:
            names = list(dict.fromkeys([*table, *(items or ())]))
            near = did_you_mean(where.column, names)
            raise FosterError(
                f"--where {clean(where.text)}: no column {clean(where.column)}; found: {clean(', '.join(names))}",
                f"--where '{clean(where.text.replace(where.column, near, 1))}'" if near else "name one of these",
            )
    return Wheres(own, of_items)


def _wanted(columns: Columns, with_texts: bool, wheres: Wheres) -> list[str]:
    texts = [*columns.text, columns.title] if with_texts else []
    found = [columns.user, columns.item, columns.time, columns.split, *texts, *(where.column for where in wheres.own)]
    return list(dict.fromkeys(name for name in found if name is not None))


def _wanted_of_items(columns: Columns, wheres: Wheres) -> list[str]:
    found = [columns.item_key, *columns.text, columns.title, *(where.column for where in wheres.of_items)]
    return list(dict.fromkeys(name for name in found if name is not None))


def _joined(tables: Sequence[Table], wanted: Sequence[str], settings: PrepareSettings, notes: list[str]) -> Read:
    """The interactions of tables that are parts: of a split, with a column that says which, or of one table."""
    splits = [split_of(table.given) for table in tables]
    plain = all(split is None for split in splits) and len({tuple(sorted(table.names)) for table in tables}) == 1
    again = len({real_path(Path(table.given)) for table in tables}) < len(tables)
    if plain and not again:
        notes.append(f"{len(tables)} tables of the same columns are read as parts of one")
    elif None in splits or len(set(splits)) < len(splits):
        listed = ", ".join(table.given for table in tables)
        raise FosterError(
            f"{len(tables)} tables have a user column, so which holds the interactions is unclear ({clean(listed)})",
            "give one of them, or the parts of a split with train, valid and test in their names",
        )
    reads = [table.read([*wanted, ORDER]) for table in tables]
    frames = [read.frame if plain else read.frame.assign(split=name) for read, name in zip(reads, splits, strict=True)]
    places, count = [], 0
    for read in reads:
        places += [replace(place, first=place.first + count) for place in read.places]
        count += len(read.frame)
    bad = [one for read in reads for one in read.bad]
    frame = pd.concat(frames, ignore_index=True)
    if settings.split_column == NO_SPLIT and not plain:
        frame = frame.drop(columns="split")
    return Read(frame, places, bad)


def split_of(given: str) -> str | None:
    """The split that a file's name tells: the last of its parts that is the name of one."""
    parts = re.split(r"[._\- /\\]", given.lower())
    return next((part for part in reversed(parts) if part in SPLIT_NAMES and not part.isdigit()), None)
