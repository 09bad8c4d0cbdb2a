"""Recognises the columns of a table by name and converts them to arrays.

In: the column names and series of R rows from `readers`. Out: `Columns` (the resolved names), and ids as int64 codes
(R,) with the list of their strings. Row numbers in errors count data rows from 1, without the header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.readers.arrow import flat
from foster_cli.data.readers.layouts import ORDER
from foster_cli.data.schema import (
    ITEM_COLUMNS,
    SPLIT_COLUMNS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    TITLE_COLUMNS,
    USER_COLUMNS,
    USERS_OF_TABLES,
)
from foster_cli.data.texts import fields_of
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.settings import NO_SPLIT, NO_TIME, PrepareSettings

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """The resolved column names. `item_key`, `title` and `text` belong to the table that holds the texts; without a
    time (None), rows are in the order in which they happened."""

    user: str
    item: str
    time: str | None
    split: str | None
    item_key: str
    title: str | None
    text: tuple[str, ...]


def has_user(names: Sequence[str], settings: PrepareSettings) -> bool:
    """Whether a table with these columns has a user column, and so holds interactions."""
    if settings.user_column is not None:
        return settings.user_column in names
    return bool(_matches(names, USER_COLUMNS))


def has_item(names: Sequence[str], settings: PrepareSettings) -> bool:
    """Whether a table with these columns has an item column."""
    if settings.item_column is not None:
        return settings.item_column in names
    return bool(_matches(names, ITEM_COLUMNS))


def has_text(names: Sequence[str], settings: PrepareSettings) -> bool:
    """Whether a table with these columns has a text of an item."""
    if settings.text_columns is not None:
        return any(name in names for name in settings.text_columns)
    return bool(_matches(names, (TEXT_COLUMNS,)))


def known_names(names: Sequence[str]) -> bool:
    """Whether any of the names is one that foster knows."""
    groups = (*USER_COLUMNS, *ITEM_COLUMNS, *TIME_COLUMNS, TEXT_COLUMNS)
    return bool(_matches(names, groups))


def recognise(
    table: Sequence[str], items: Sequence[str] | None, settings: PrepareSettings, named: bool = False
) -> Columns:
    """Resolve the columns of the interactions table `table` and of the items table `items`, if there is one.

    `named`: foster gave names to the columns of one of them, so the names of their item columns may differ.
    """
    user = _user(table, settings)
    item = _item(table, items, settings)
    time = _time(table, settings)
    split: str | None = None
    ignored = settings.split_column == NO_SPLIT and NO_SPLIT not in table
    if not ignored and (settings.split_column is not None or _matches(table, SPLIT_COLUMNS)):
        split = _one(table, SPLIT_COLUMNS, settings.split_column, "--split-column", "split")
    where, key = (table, item) if items is None else (items, _key(item, items, settings, named))
    text = _texts(where, settings)
    taken = (user, key, time, split, *((item,) if items is None else ()))
    titles = [c for c in _matches(where, TITLE_COLUMNS) if c not in taken]
    return Columns(user, item, time, split, key, titles[0] if titles else None, text)


def _user(table: Sequence[str], settings: PrepareSettings) -> str:
    known = next((user for names, user in USERS_OF_TABLES if set(names) <= set(table)), None)
    if settings.user_column is None and known is not None:
        return known
    return _one(table, USER_COLUMNS, settings.user_column, "--user-column", "user")


def _item(table: Sequence[str], items: Sequence[str] | None, settings: PrepareSettings) -> str:
    """The item column of the interactions: of several, the one that the items table has too."""
    found = list(dict.fromkeys(_matches(table, ITEM_COLUMNS)))
    if settings.item_column is None and items is not None and len(found) > 1:
        shared = [name for name in found if name in items]
        if len(shared) == 1:
            return shared[0]
    return _one(table, ITEM_COLUMNS, settings.item_column, "--item-column", "item")


def _key(item: str, items: Sequence[str], settings: PrepareSettings, named: bool) -> str:
    """The column of the items table whose ids are those of `item`: of the same name, the named one, for a file without
    a header the one that its layout names, or `id` if no other column holds ids."""
    if settings.item_key is not None:
        return _given(items, settings.item_key, "--item-key", "items table's ids")
    same = item if item in items else next((c for c in items if _plain(c) == _plain(item)), None)
    if same is not None:
        return same
    found = list(dict.fromkeys(_matches(items, ITEM_COLUMNS)))
    if named and len(found) == 1:
        return found[0]
    ids = [name for name in items if re.search(r"(^|_| )id$", name.lower()) or name.endswith("Id")]
    if not found and len(ids) == 1 and ids[0].lower() == "id":
        return ids[0]
    guess = next(iter([*found, *ids]), None)
    hint = f"say so with --item-key {clean(guess)}" if guess else f"name it with --item-key; found: {_listed(items)}"
    which = f"its {clean(guess)} may hold other ids" if guess else "none of its columns is known to hold ids"
    raise FosterError(f"the items table has no column {clean(item)}, and {which}", hint)


def _time(table: Sequence[str], settings: PrepareSettings) -> str | None:
    if settings.time_column is None and ORDER in table and not _matches(table, TIME_COLUMNS):
        return None
    if settings.time_column == NO_TIME and NO_TIME not in table:
        return None
    try:
        return _one(table, TIME_COLUMNS, settings.time_column, "--time-column", "time")
    except FosterError as error:
        if settings.time_column is None and not _matches(table, TIME_COLUMNS):
            hint = f"name it with --time-column, or --time-column {NO_TIME} if the rows are in order"
            raise FosterError(error.message, hint) from error
        raise


def _texts(where: Sequence[str], settings: PrepareSettings) -> tuple[str, ...]:
    if settings.text is not None:
        return fields_of(settings.text, where)
    if settings.text_columns is None:
        return tuple(dict.fromkeys(m[0] for c in TEXT_COLUMNS if (m := _matches(where, ((c,),)))))
    return tuple(_given(where, c, "--text-columns", "text") for c in settings.text_columns)


def _plain(name: str) -> str:
    """A name for comparison: without case, `_`, `-` and blanks."""
    return re.sub(r"[\s_-]+", "", name).lower()


def _matches(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """The columns whose name is in the first of `groups` that has any: as it is, else without case, else `_plain`."""
    for group in groups:
        forms: tuple[Callable[[str], str], ...] = (str, str.lower, _plain)
        for form in forms:
            found = [name for c in group for name in names if form(name) == form(c)]
            if found:
                return found
    return []


def _listed(names: Iterable[str]) -> str:
    return clean(", ".join(names) or "(none)")


def _given(names: Sequence[str], name: str, option: str, what: str) -> str:
    if name not in names:
        near = did_you_mean(name, names)
        raise FosterError(
            f"no column {clean(name)} for the {what}; found: {_listed(names)}",
            f"{option} {clean(near)}" if near else f"give one of these with {option}",
        )
    return name


def _one(names: Sequence[str], candidates: Sequence[Sequence[str]], given: str | None, option: str, what: str) -> str:
    if given is not None:
        return _given(names, given, option, what)
    found = list(dict.fromkeys(_matches(names, candidates)))
    if not found:
        raise FosterError(f"no {what} column recognised; found: {_listed(names)}", f"name it with {option}")
    if len(found) > 1:
        raise FosterError(f"more than one {what} column: {_listed(found)}", f"choose with {option} {clean(found[0])}")
    return found[0]


def as_text(series: pd.Series) -> pd.Series:
    """`series` as strings, whole numbers without ".0". Missing values and categoricals of text stay unchanged."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        if pd.api.types.infer_dtype(series.cat.categories, skipna=False) in ("string", "empty"):
            return series
        series = series.astype(object)
    text = pd.StringDtype("pyarrow")
    if pd.api.types.is_float_dtype(series.dtype):
        values = series.to_numpy(np.float64, na_value=np.nan)
        here = values[~np.isnan(values)]
        if np.all(np.isfinite(here)) and np.all(here == np.floor(here)) and np.all(np.abs(here) < 2**62):
            return pd.Series(values).astype(pd.Int64Dtype()).astype(text)
    if series.dtype == object:
        return pd.Series([flat(v) for v in series], dtype=text)
    return series.astype(text)


def arrow_text(series: pd.Series) -> pa.Array:
    """`series` as `as_text` writes it, in Arrow: text, or a dictionary of text."""
    text = as_text(series)
    if isinstance(text.dtype, pd.CategoricalDtype):
        codes = np.asarray(text.cat.codes, dtype=np.int32)
        values = pa.array(text.cat.categories.tolist(), pa.large_string())
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), values)
    array = pa.array(text.array)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def factorise(series: pd.Series) -> tuple[Int64, list[str]]:
    """Codes (R,), -1 for a missing value, and the distinct strings that they index. Some strings may be unused."""
    if pd.api.types.is_numeric_dtype(series.dtype):  # text of the distinct numbers alone
        codes, numbers = pd.factorize(series)
        return np.asarray(codes, dtype=np.int64), as_text(pd.Series(numbers)).tolist()
    text = as_text(series)
    if isinstance(text.dtype, pd.CategoricalDtype):
        return np.asarray(text.cat.codes, dtype=np.int64), text.cat.categories.tolist()
    encoded = arrow_text(text).dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
