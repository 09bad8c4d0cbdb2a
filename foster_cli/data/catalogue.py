"""The items' titles and texts, from a table of items or from the interactions themselves.

In: the rows of either, and the ids of the n items. Out: a `Catalogue`, and the text columns that were taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.account import Account, bad_rows, check_bad
from foster_cli.data.columns import Columns, encode_ids
from foster_cli.data.readers import Read
from foster_cli.data.schema import Catalogue
from foster_cli.data.texts import column_texts, compose, is_per_row, template
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

Int64 = npt.NDArray[np.int64]


def from_interactions(
    frame: pd.DataFrame, item: Int64, when: Int64, ids: list[str], columns: Columns, settings: PrepareSettings,
    account: Account,
) -> tuple[Catalogue, tuple[str, ...]]:  # fmt: skip
    """The texts of each item's earliest row, by `when` (R,). `item` (R,): the item of each row, -1 for another."""
    taken = columns.text
    if settings.text is None and settings.text_columns is None:
        taken = _of_the_item(frame, taken, item, when, account)
    title = columns.title if columns.title in taken or columns.title not in columns.text else None
    return _composed(frame, item, when, ids, taken, title, settings), taken


def from_items(
    items: Read, ids: list[str], columns: Columns, settings: PrepareSettings, account: Account
) -> tuple[Catalogue, tuple[str, ...]]:
    """The texts of the first row of each item in the table of items."""
    item = _of_items(items, columns, ids, settings, account)
    when = np.arange(len(items.frame))
    return _composed(items.frame, item, when, ids, columns.text, columns.title, settings), columns.text


def _composed(
    table: pd.DataFrame, item: Int64, when: Int64, ids: list[str], text: tuple[str, ...], title: str | None,
    settings: PrepareSettings,
) -> Catalogue:  # fmt: skip
    n = len(ids)
    parts = {column: column_texts(table[column], item, when, n) for column in text}
    named: list[str] | None = None
    if title is not None:
        named = parts[title] if title in parts else column_texts(table[title], item, when, n)
    if settings.text is not None:
        columns = [template(settings.text, parts)]
    else:
        # The title comes first in a text, whatever the order of the columns.
        columns = sorted(parts.values(), key=lambda part: part is not named)
    return Catalogue(ids, *compose(ids, columns or [[""] * n], named))


def _of_items(items: Read, columns: Columns, ids: list[str], settings: PrepareSettings, account: Account) -> Int64:
    """The item (R,) of each row of the items table, -1 for one outside the catalogue."""
    found = encode_ids(items.frame[columns.item_key], "item")
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


def _of_the_item(
    table: pd.DataFrame, text: tuple[str, ...], item: Int64, when: Int64, account: Account
) -> tuple[str, ...]:
    """Of the text columns of interactions, those that say something of the item. Raises FosterError if none does."""
    own = tuple(name for name in text if not is_per_row(table[name], item, when))
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
