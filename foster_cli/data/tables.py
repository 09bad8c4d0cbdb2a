"""Opens the tables that a user names, finds out which holds the interactions, and reads the columns that are needed.

In: what was typed. Out: `Tables`: the rows of the interactions, chunk by chunk, and of the items, the meaning of their
columns, and the filters of --where. Interactions in several tables are the parts of a split, or of one table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from foster_cli.console import clean
from foster_cli.data.columns import Columns, as_text, has_item, has_text, has_user, known_names, recognise
from foster_cli.data.ids import Ids, encode_ids
from foster_cli.data.readers import ORDER, Read, Table, open_table
from foster_cli.data.readers.rows import Place
from foster_cli.data.readers.source import Part, parts_of
from foster_cli.data.split import SPLIT_NAMES
from foster_cli.data.where import Where, parse_where
from foster_cli.errors import FosterError
from foster_cli.files import real_path
from foster_cli.settings import NO_SPLIT, PrepareSettings

#: The names of splits in names of files; `base` is MovieLens 100k's for train.
_SPLITS = {name for name in SPLIT_NAMES if not name.isdigit()} | {"base"}
_LEAVE = "leave it out, for it is not needed"
#: Columns that only tables of tags have.
_TAGS = ("tag", "tagid", "tag_id")


@dataclass(frozen=True)
class Wheres:
    """Filters on columns of the interactions (`own`), and on columns of the items table."""

    own: list[Where]
    of_items: list[Where]


@dataclass
class _Buys:
    """The interactions: the named `columns` of `tables`, one after the other. `splits`: of each table, if they tell it;
    `ids`: by column, what its ids are translated to."""

    tables: Sequence[Table]
    columns: Sequence[str]
    splits: Sequence[str] | None = None
    ids: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def ordered(self) -> bool:
        return all(ORDER in table.names for table in self.tables)

    def chunks(self, whole: bool) -> Iterator[Read]:
        if whole:
            yield _together(list(self._reads(True)))
        else:
            yield from self._reads(False)

    def _reads(self, whole: bool) -> Iterator[Read]:
        last = -1
        for i, table in enumerate(self.tables):
            begin = 1 + last
            for read in [table.read(self.columns)] if whole else table.chunks(self.columns):
                if self.splits is not None:
                    read = replace(read, frame=read.frame.assign(split=self.splits[i]))
                elif self.tables[0].in_order:
                    read.frame[ORDER] += begin
                    last = max(last, int(read.frame[ORDER].max()))
                for column, ids in self.ids.items():
                    read.frame[column] = as_text(read.frame[column]).map(ids).astype(pd.StringDtype("pyarrow"))
                yield read


@dataclass
class OneFrame:
    """The interactions, if they are a data frame."""

    frame: pd.DataFrame
    name: str

    @property
    def ordered(self) -> bool:
        return ORDER in self.frame.columns

    def chunks(self, whole: bool) -> Iterator[Read]:
        yield Read(self.frame.reset_index(drop=True), [Place(0, self.name, 1, "row")], [])


@dataclass(frozen=True)
class Tables:
    """The rows of the interactions and of the `items` table, if there is one; their columns; the filters; how they were
    read (`notes`); a name for the dataset."""

    interactions: _Buys | OneFrame
    items: Read | None
    columns: Columns
    wheres: Wheres
    notes: list[str]
    name: str

    @cached_property
    def item_ids(self) -> Ids:
        """The ids of the rows of `items`."""
        assert self.items is not None
        return encode_ids(self.items.frame[self.columns.item_key], "item")

    @property
    def ordered(self) -> bool:
        """Whether the order of interactions at one moment is known, in the column `ORDER`."""
        return self.interactions.ordered

    def chunks(self, whole: bool = False) -> Iterator[Read]:
        """The rows of the interactions, chunk by chunk; `whole`: as one. They can be read again."""
        return self.interactions.chunks(whole)


def read_tables(paths: Sequence[Path], settings: PrepareSettings) -> Tables:
    """Read one table with texts, or tables of interactions and of items, in any order. Raises FosterError for tables
    that do not fit together."""
    tables = _opened(paths, settings)
    maps = [table for table in tables if _mapped(table.names)]
    buys, items = _roles([table for table in tables if table not in maps], settings)
    named = any(table.bare or table.layout is not None for table in tables)
    of_items = items[0].names if items else None
    try:
        columns = recognise(buys[0].names, of_items, settings, named)
    except FosterError as error:
        raise _unnamed(buys[0], settings, error) from error
    wheres = wheres_of(settings, buys[0].names, of_items)
    wanted = _wanted(columns, not items, wheres)
    notes = [note for table in (*buys, *items) for note in table.notes]
    found = _Buys(buys, [*wanted, ORDER]) if len(buys) == 1 else _joined(buys, [*wanted, ORDER], settings, notes)
    if found.splits is not None:
        columns = replace(columns, split="split")
    for table in maps:
        name, ids = _translation(table, columns, notes)
        found.ids[name] = ids
    if len(items) > 1:
        notes.append(f"{len(items)} tables of items with the same columns are read as one")
    texts = [table.read(_wanted_of_items(columns, wheres)) for table in items]
    return Tables(found, _together(texts) if texts else None, columns, wheres, notes, clean(buys[0].stem) or "data")


def _unnamed(table: Table, settings: PrepareSettings, error: FosterError) -> FosterError:
    """`error`, or what to do about a table whose first line may be data: it has none of the names that foster knows."""
    if known_names(table.names) or table.form is None or settings.user_column is not None:
        return error
    hint = "name the columns with --user-column, --item-column and --time-column"
    return FosterError(error.message, f"{hint}, or, if line 1 is data, all: --columns user_id,item_id,timestamp")


def _mapped(names: Sequence[str]) -> str | None:
    """The column that a table translates, as Goodreads' `book_id_map.csv` (`book_id_csv,book_id`); None for others."""
    if len(names) == 2:
        return next((name for name in names if f"{name}_csv" in names), None)
    return None


def _translation(table: Table, columns: Columns, notes: list[str]) -> tuple[str, dict[str, str]]:
    """The column of the interactions whose ids `table` translates, and what to; an id that it lacks is none."""
    name = _mapped(table.names)
    if name is None or name not in (columns.user, columns.item):
        raise FosterError(f"{clean(table.given)} translates no column of the interactions", "leave it out")
    rows = table.read().frame
    notes.append(f"the ids of {clean(name)} are translated by {clean(table.given)}")
    return name, dict(zip(as_text(rows[f"{name}_csv"]), as_text(rows[name]), strict=True))


def _opened(paths: Sequence[Path], settings: PrepareSettings) -> list[Table]:
    """The tables; `--columns` are for those without a header, in their order."""
    names = [[name.strip() for name in text.split(",")] for text in settings.columns]
    tables = []
    for path in paths:
        for given, parts in _by_split(path):
            try:
                table = open_table(given, settings.format, settings.encoding, None, parts)
                bare = table.bare or not known_names(table.names)
            except FosterError:
                if not names:
                    raise
                bare = True
            if names and bare:
                table = open_table(given, settings.format, settings.encoding, names.pop(0), parts)
            _check_parts(table, settings)
            tables.append(table)
    if names:
        raise FosterError(
            f"--columns {clean(','.join(names[0]))}: no table without a header is left for it", "leave it out"
        )
    return tables


def _check_parts(table: Table, settings: PrepareSettings) -> None:
    """Raise FosterError if the files of a folder are several tables, as public data sets have them."""
    if len(table.parts) == 1 or has_user(table.names, settings):
        return
    found = [open_table(part.name, settings.format, settings.encoding, None, [part]) for part in table.parts]
    if len({tuple(sorted(one.names)) for one in found}) > 1:
        buys = [t for t in found if has_user(t.names, settings) and has_item(t.names, settings) and not _has_tags(t)]
        texts = [t for t in found if not has_user(t.names, settings) and has_text(t.names, settings)]
        named = ", ".join(one.given for one in [*buys, *texts] or found)
        raise FosterError(
            f"{clean(table.given)} holds several tables", f"give those of interactions and items: {clean(named, 500)}"
        )


def _by_split(path: Path) -> list[tuple[str, list[Part]]]:
    """The parts of a table, or, where the names of all of them tell a split and not the same (`train-00000.parquet`,
    a saved dataset with its splits), those of each split by themselves."""
    parts = parts_of(path)
    splits = [split_of(part.name.removeprefix(str(path))) for part in parts]
    found = [split for split in dict.fromkeys(splits) if split is not None]
    if None in splits or len(found) < 2:
        return [(str(path), parts)]
    return [
        (f"{path}/{split}", [part for part, own in zip(parts, splits, strict=True) if own == split]) for split in found
    ]


def _roles(tables: Sequence[Table], settings: PrepareSettings) -> tuple[list[Table], list[Table]]:
    """The tables of interactions, and those of the items. Raises FosterError, which names what to leave out."""
    buys = [table for table in tables if has_user(table.names, settings)]
    others = [table for table in tables if table not in buys]
    people = [table for table in buys if not has_item(table.names, settings)]
    if len(people) < len(buys):
        buys = [table for table in buys if table not in people]
        if len(people) == 1 and not others and settings.item_key in people[0].names:
            people, others = [], people
        if people:
            raise FosterError(
                f"{clean(people[0].given)} has users, but no items that they chose ({_found(people[0])})",
                "leave it out, or name its column of ids with --item-key if it is the table of items",
            )
    if not buys and len(tables) > 1:
        listed = "; ".join(f"{table.given}: {', '.join(table.names)}" for table in tables)
        raise FosterError(
            f"none of the tables has a user column ({clean(listed)})",
            "name that of the interactions with --user-column",
        )
    if not buys:
        return list(tables), []
    tagged = [table for table in buys if _has_tags(table)]
    if 0 < len(tagged) < len(buys):
        raise FosterError(f"{clean(tagged[0].given)} holds tags ({_found(tagged[0])})", _LEAVE)
    if len(others) == 1 and settings.item_key is None and settings.text is None:
        names = others[0].names
        if not has_text(names, settings) and not has_item(names, settings):
            given = clean(others[0].given)
            raise FosterError(f"{given} has neither ids nor texts of items ({_found(others[0])})", _LEAVE)
    twice = len({real_path(Path(table.given)) for table in others}) < len(others)
    if len(others) > 1 and (twice or len({tuple(sorted(table.names)) for table in others}) > 1):
        bare = [table for table in others if not has_text(table.names, settings)]
        if 0 < len(bare) < len(others):
            raise FosterError(f"{clean(bare[0].given)} has no texts of items ({_found(bare[0])})", _LEAVE)
        raise FosterError(
            f"{len(others)} tables without a user column: {clean(', '.join(table.given for table in others))}",
            "give the interactions, and one table of items",
        )
    return buys, others


def _has_tags(table: Table) -> bool:
    return any(name.lower() in _TAGS for name in table.names)


def _found(table: Table) -> str:
    return f"found: {clean(', '.join(table.names), 200)}"


def wheres_of(settings: PrepareSettings, table: Sequence[str], items: Sequence[str] | None) -> Wheres:
    """The filters of --where: on columns of the interactions, and on columns that only the items have."""
    found = [parse_where(text) for text in settings.where]
    own = [where for where in found if where.column in table]
    of_items = [where for where in found if where not in own and items is not None and where.column in items]
    for where in found:
        where.check(list(dict.fromkeys([*table, *(items or ())])))
    return Wheres(own, of_items)


def _wanted(columns: Columns, with_texts: bool, wheres: Wheres) -> list[str]:
    texts = [*columns.text, columns.title] if with_texts else []
    found = [columns.user, columns.item, columns.time, columns.split, *texts, *(where.column for where in wheres.own)]
    return list(dict.fromkeys(name for name in found if name is not None))


def _wanted_of_items(columns: Columns, wheres: Wheres) -> list[str]:
    found = [columns.item_key, *columns.text, columns.title, *(where.column for where in wheres.of_items)]
    return list(dict.fromkeys(name for name in found if name is not None))


def _joined(tables: Sequence[Table], wanted: Sequence[str], settings: PrepareSettings, notes: list[str]) -> _Buys:
    """The interactions of tables that are parts: of a split, with a column that says which, or of one table."""
    splits = [split_of(table.given) for table in tables]
    same = len({tuple(sorted(table.names)) for table in tables}) == 1
    ignored = settings.split_column == NO_SPLIT
    again = len({real_path(Path(table.given)) for table in tables}) < len(tables)
    plain = same and not again and (ignored or all(split is None for split in splits))
    if plain:
        notes.append(f"{len(tables)} tables of the same columns are read as parts of one")
    elif None in splits or len(set(splits)) < len(splits):
        listed = ", ".join(table.given for table in tables)
        raise FosterError(
            f"{len(tables)} tables have a user column, so which holds the interactions is unclear ({clean(listed)})",
            "give one of them, or the parts of a split with train, valid and test in their names",
        )
    if ignored and None not in splits:  # what is without times is in the order of its splits
        tables = sorted(tables, key=lambda table: SPLIT_NAMES[str(split_of(table.given))])
    return _Buys(tables, wanted, None if plain or ignored else [str(split) for split in splits])


def _together(reads: Sequence[Read]) -> Read:
    """The rows of several tables, one after the other."""
    if len(reads) == 1:
        return reads[0]
    places, count = [], 0
    for read in reads:
        places += [replace(place, first=place.first + count) for place in read.places]
        count += len(read.frame)
    frame = pd.concat([read.frame for read in reads], ignore_index=True)
    return Read(frame, places, [one for read in reads for one in read.bad])


def split_of(given: str) -> str | None:
    """The split that a file's name tells: the last of its parts that is the name of one."""
    parts = re.split(r"[._\- /\\]", given.lower())
    named = next((part for part in reversed(parts) if part in _SPLITS), None)
    return "train" if named == "base" else named
