"""The items' titles and texts, from a table of items or from the interactions themselves.

In: the rows of either, and the ids of the n items. Out: a `Catalogue`, and the text columns that were taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.account import Account, bad_rows, check_bad
from foster_cli.data.columns import Columns
from foster_cli.data.ids import Ids
from foster_cli.data.ingest import Ingested
from foster_cli.data.readers import Read
from foster_cli.data.schema import Catalogue
from foster_cli.data.tables import Tables
from foster_cli.data.texts import SOME, column_texts, compose, is_per_row, template
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

Int64 = npt.NDArray[np.int64]


def from_interactions(
    found: Ingested, item_of: Int64, ids: list[str], columns: Columns, settings: PrepareSettings, account: Account
) -> tuple[Catalogue, tuple[str, ...]]:
    """The texts of each item's earliest row. `item_of`: the item of each code of an item in the plan, -1 for none."""
    taken = columns.text
    if settings.text is None and settings.text_columns is None:
        taken = _of_the_item(found, taken, item_of, account)
    title = columns.title if columns.title in taken or columns.title not in columns.text else None
    parts = {}
    for name in dict.fromkeys([*taken, *([title] if title else [])]):
        rows = found.plan.texts(found.texts.index(name))
        column = pd.Series(rows.text, name=name, dtype=pd.StringDtype("pyarrow"))
        parts[name] = column_texts(column, item_of[rows.item], rows.first, len(ids))
    return _composed(parts, ids, taken, title, settings), taken


def from_items(
    tables: Tables, ids: list[str], settings: PrepareSettings, account: Account
) -> tuple[Catalogue, tuple[str, ...]]:
    """The texts of the first row of each item in the table of items."""
    items, columns = tables.items, tables.columns
    assert items is not None
    item = _of_items(items, tables.item_ids, columns, ids, settings, account)
    when, n = np.arange(len(items.frame)), len(ids)
    names = dict.fromkeys([*columns.text, *([columns.title] if columns.title else [])])
    parts = {name: column_texts(items.frame[name], item, when, n) for name in names}
    return _composed(parts, ids, columns.text, columns.title, settings), columns.text


def _composed(
    parts: dict[str, list[str]], ids: list[str], text: tuple[str, ...], title: str | None, settings: PrepareSettings
) -> Catalogue:
    """`parts`: the texts of the n items in the columns `text` and `title`."""
    named = None if title is None else parts[title]
    of_text = {name: parts[name] for name in text}
    if settings.text is not None:
        columns = [template(settings.text, of_text)]
    else:
        # The title comes first in a text, whatever the order of the columns.
        columns = sorted(of_text.values(), key=lambda part: part is not named)
    return Catalogue(ids, *compose(ids, columns or [[""] * len(ids)], named))


def _of_items(
    items: Read, found: Ids, columns: Columns, ids: list[str], settings: PrepareSettings, account: Account
) -> Int64:
    """The item (R,) of each row of the items table, whose ids are `found`; -1 for one outside the catalogue."""
    bad = [*items.bad, *bad_rows(items, {row: (why, "") for row, why in found.reasons.items()})]
    check_bad(bad, len(items.frame) + len(items.bad), "of the items", settings.allow_bad)
    if bad:
        account.notes.append(
            f"{len(bad):,} rows of the items cannot be read; the first: {bad[0].where()} {bad[0].reason}"
        )
    place = {name: i for i, name in enumerate(ids)}
    item = np.array([*(place.get(name, -1) for name in found.names), -1], dtype=np.int64)[found.codes]
    if not (item >= 0).any():
        example = clean(found.names[0], 40) if found.names else "(none)"
        raise FosterError(
            f"no item of the interactions ({clean(columns.item)}, e.g. {clean(ids[0], 40)}) is in the "
            f"items table ({clean(columns.item_key)}, e.g. {example})",
            "name the columns of ids with --item-column and --item-key",
        )
    return item


def _of_the_item(found: Ingested, text: tuple[str, ...], item_of: Int64, account: Account) -> tuple[str, ...]:
    """Of the text columns of interactions, those that say something of the item. Raises FosterError if none does."""
    some = np.flatnonzero((item_of >= 0) & (item_of < SOME))

    def per_row(name: str) -> bool:
        rows = found.plan.texts(found.texts.index(name), some)
        column = pd.Series(rows.text, name=name, dtype=pd.StringDtype("pyarrow"))
        return is_per_row(column, item_of[rows.item], rows.first, rows.last, rows.rows)

    own = tuple(name for name in text if not per_row(name))
    if text and not own:
        raise FosterError(
            f"{clean(', '.join(text))}: most items have other texts in each of their rows, so these are reviews and "
            "not texts of the items",
            f"give the table of items too, or take them with --text-columns {clean(','.join(text))}",
        )
    if own != text:
        left = ", ".join(name for name in text if name not in own)
        account.notes.append(f"not a text of the items, for it differs from row to row: {clean(left)}")
    return own
