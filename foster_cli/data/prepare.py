"""Prepares raw tables as a `Dataset`: removes duplicates, reduces to the k-core, sorts and splits by time.

    rows (R) --ids, times--> codes (R,) --first_of_pairs, k_core--> N rows --split--> Interactions (N)
    item rows --column_texts, compose--> Catalogue (n), items in the order of their sorted ids

The order of the rows in the files does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.columns import Columns, encode_ids, has_user, parse_times, recognise
from foster_cli.data.kcore import k_core, largest_core
from foster_cli.data.readers import read_table
from foster_cli.data.schema import SPLITS, Catalogue, Dataset, Interactions
from foster_cli.data.split import (
    check_split,
    first_of_pairs,
    has_history,
    pair_hash,
    read_split,
    tie_rates,
    time_order,
    time_split,
)
from foster_cli.data.store import dataset_hash, is_prepared, read_prepared, write_prepared
from foster_cli.data.texts import column_texts, compose
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

__all__ = ["PrepareSettings", "load_dataset", "prepare", "read_prepared", "read_raw", "write_prepared"]

Int64 = npt.NDArray[np.int64]
CountTokens = Callable[[list[str]], npt.NDArray[Any]]

#: Default k of the k-core where foster makes the split. A table with its own split is not reduced (k = 1).
DEFAULT_K_CORE = 5


def load_dataset(
    paths: Path | Sequence[Path],
    settings: PrepareSettings | None = None,
    count_tokens: CountTokens | None = None,
) -> Dataset:
    """Read a prepared file, or prepare raw tables. Raises FosterError for `settings` with a prepared file."""
    paths = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    settings = settings or PrepareSettings()
    if len(paths) == 1 and is_prepared(paths[0]):
        if settings != PrepareSettings():
            raise FosterError(
                f"{clean(paths[0])} is already prepared: column, k-core and seed options do not apply to it",
                "leave them out, or give the raw table",
            )
        return read_prepared(paths[0])
    return read_raw(paths, settings, count_tokens)


def read_raw(
    paths: Sequence[Path], settings: PrepareSettings | None = None, count_tokens: CountTokens | None = None
) -> Dataset:
    """Prepare one table with texts, or a table of interactions and one of items, in either order."""
    settings = settings or PrepareSettings()
    if not 1 <= len(paths) <= 2:
        raise FosterError(f"{len(paths)} tables given", "give one table, or the interactions and the items")
    for path in paths:
        if is_prepared(path):
            raise FosterError(f"{clean(path)} is already prepared", "use it as it is, or give the raw table")
    tables = [read_table(path) for path in paths]
    if len(tables) == 1:
        return prepare(tables[0], None, settings, _stem(paths[0]), count_tokens)
    with_user = [i for i, table in enumerate(tables) if has_user(list(table.columns), settings)]
    if len(with_user) != 1:
        listed = "; ".join(f"{path}: {', '.join(t.columns)}" for path, t in zip(paths, tables, strict=True))
        what = "both tables have" if with_user else "neither table has"
        raise FosterError(
            f"{what} a user column, so which holds the interactions is unclear ({clean(listed)})",
            "name the user column of the interactions with --user-column",
        )
    i = with_user[0]
    return prepare(tables[i], tables[1 - i], settings, _stem(paths[i]), count_tokens)


def _stem(path: Path) -> str:
    return clean(Path(path).name.split(".")[0]) or "data"


def prepare(
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    settings: PrepareSettings,
    name: str,
    count_tokens: CountTokens | None = None,
) -> Dataset:
    """Prepare a table of R interactions (and a table of item texts, joined on the item id) as a `Dataset`.

    `count_tokens` returns the number of tokens of each text in a list. Without it the statistics have no token counts.
    """
    columns = recognise(list(interactions.columns), None if items is None else list(items.columns), settings)
    raw_user, user_ids = encode_ids(interactions[columns.user], "user")
    raw_item, item_ids = encode_ids(interactions[columns.item], "item")
    time = parse_times(interactions[columns.time])
    own = None if columns.split is None else read_split(interactions[columns.split])
    k = settings.k_core if settings.k_core is not None else (DEFAULT_K_CORE if own is None else 1)

    kept = first_of_pairs(raw_user, raw_item, time, own)
    duplicates = len(time) - len(kept)
    kept = kept[_core(raw_user[kept], raw_item[kept], k)]
    user, user_ids, _ = _relabel(raw_user[kept], user_ids)
    item, ids, raw_of_item = _relabel(raw_item[kept], item_ids)
    if len(user_ids) < 2 or len(ids) < 2:
        few = "user" if len(user_ids) < 2 else "item"
        raise FosterError(f"only one {few} is left (k-core {k})", f"give interactions of more {few}s")
    ties = pair_hash(user, user_ids, item, ids, settings.seed)
    time_kept = time[kept]
    order = time_order(time_kept, ties, None if own is None else own[kept])
    split = time_split(order) if own is None else own[kept]
    order = order[np.argsort(user[order], kind="stable")]
    rows = Interactions(user[order], item[order], time_kept[order], split[order])
    check_split(rows.user, rows.split, own is not None)

    catalogue = _catalogue(interactions, items, columns, ids, raw_of_item, raw_item, item_ids, time)
    statistics = _statistics(rows, len(user_ids), catalogue, count_tokens)
    statistics |= {
        "duplicates_removed": duplicates,
        "k_core": k,
        "split": "time" if own is None else "column",
    }
    resolved = {"user": columns.user, "item": columns.item, "time": columns.time, "split": columns.split}
    resolved |= {"item_of_texts": columns.item_key, "title": columns.title}
    used = {"columns": {**resolved, "text": list(columns.text)}, "k_core": k, "seed": settings.seed}
    return Dataset(name, dataset_hash(user_ids, catalogue, rows), user_ids, catalogue, rows, used, statistics)


def _core(user: Int64, item: Int64, k: int) -> npt.NDArray[np.bool_]:
    if k < 1:
        raise FosterError(f"--k-core {k} is below 1", "use --k-core 1 to keep every user and item")
    mask = k_core(user, item, k)
    if not mask.any():
        best = largest_core(user, item)
        left = int(k_core(user, item, best).sum())
        raise FosterError(
            f"nothing is left after the {k}-core of {len(user)} interactions",
            f"--k-core {best} would leave {left} interactions",
        )
    return mask


def _relabel(codes: Int64, names: list[str]) -> tuple[Int64, list[str], Int64]:
    """New codes into the sorted names that are in use; those names; and the old code of each name."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    values = np.array(names, dtype=object)
    old = used[np.argsort(values[used], kind="stable")]
    lookup = np.full(len(names), -1, dtype=np.int64)
    lookup[old] = np.arange(len(old))
    return lookup[codes], values[old].tolist(), old


def _catalogue(
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    columns: Columns,
    ids: list[str],
    raw_of_item: Int64,
    raw_item: Int64,
    raw_ids: list[str],
    time: Int64,
) -> Catalogue:
    """Titles and texts of the items `ids`: from the items table, or from each item's earliest row."""
    n = len(ids)
    if items is None:
        table = interactions
        lookup = np.full(len(raw_ids), -1, dtype=np.int64)
        lookup[raw_of_item] = np.arange(n)
        item = lookup[raw_item]
        when = time
    else:
        table = items
        codes, names = encode_ids(items[columns.item_key], "item")
        place = {name: i for i, name in enumerate(ids)}
        item = np.array([place.get(name, -1) for name in names], dtype=np.int64)[codes]
        when = np.arange(len(item), dtype=np.int64)
        if not (item >= 0).any():
            raise FosterError(
                f"no item of the interactions ({clean(columns.item)}, e.g. {clean(ids[0], 40)}) is in the "
                f"items table ({clean(columns.item_key)}, e.g. {clean(names[0], 40)})",
                "name the column of ids with --item-column",
            )
    parts = [column_texts(table[column], item, when, n) for column in columns.text]
    if not any(text for part in parts for text in part):
        raise FosterError(
            f"no text at all: {clean(', '.join(columns.text))} is empty for every item",
            "name columns that hold texts with --text-columns a,b",
        )
    named: list[str] | None = None
    if columns.title in columns.text:
        named = parts[columns.text.index(columns.title)]
    elif columns.title is not None:
        named = column_texts(table[columns.title], item, when, n)
    # The title comes first in a text, whatever the order of the columns.
    parts.sort(key=lambda part: part is not named)
    titles, texts = compose(ids, parts, named)
    return Catalogue(ids, titles, texts)


def _statistics(rows: Interactions, users: int, catalogue: Catalogue, count: CountTokens | None) -> dict[str, Any]:
    history = has_history(rows.user)
    splits: dict[str, dict[str, int]] = {}
    for position, split in enumerate(SPLITS):
        mask = rows.split == position
        splits[split] = {
            "interactions": int(mask.sum()),
            "users": len(np.unique(rows.user[mask])),
            "items": len(np.unique(rows.item[mask])),
        }
        if split != "train":
            splits[split]["cases"] = int((mask & history).sum())
    by_user, by_anyone = tie_rates(rows.user, rows.time)
    texts = catalogue.texts
    statistics: dict[str, Any] = {
        "interactions": len(rows),
        "users": users,
        "items": len(catalogue),
        "average_length": len(rows) / users,
        "splits": splits,
        "tie_rate": by_user,
        "tie_rate_global": by_anyone,
        "share_without_text": sum(not text for text in texts) / len(texts),
        "text_characters": {"mean": float(np.mean([len(text) for text in texts]))},
    }
    if count is not None:
        tokens = np.asarray(count(texts))
        statistics["text_tokens"] = {
            "mean": float(tokens.mean()),
            "p95": float(np.percentile(tokens, 95)),
            "max": int(tokens.max()),
        }
    return statistics
