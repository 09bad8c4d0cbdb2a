"""Prepares raw tables as a `Dataset`: removes duplicates, reduces to the k-core, sorts and splits by time.

    rows (R) --ids, times, --where--> codes (R,) --first_of_pairs, k_core--> N rows --split--> Interactions (N)
    item rows --catalogue--> Catalogue (n), items in the order of their sorted ids

The order of the rows in the files does not matter. What happens to each row is counted (`account.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.account import Account, bad_rows, check_bad
from foster_cli.data.catalogue import from_interactions, from_items
from foster_cli.data.columns import SUSPECTS, Columns, encode_ids, recognise
from foster_cli.data.kcore import k_core, largest_core
from foster_cli.data.near import near_equal
from foster_cli.data.readers import ORDER, Bad, Read
from foster_cli.data.readers.arrow import flat
from foster_cli.data.readers.rows import Place
from foster_cli.data.schema import SPLITS, Catalogue, Dataset, Interactions
from foster_cli.data.split import (
    check_split,
    first_of_pairs,
    has_history,
    leave_one_out,
    pair_hash,
    read_split,
    tie_rates,
    time_order,
    time_split,
)
from foster_cli.data.store import dataset_hash, is_prepared, read_prepared, write_prepared
from foster_cli.data.tables import Tables, read_tables, wheres_of
from foster_cli.data.times import read_times
from foster_cli.errors import FosterError
from foster_cli.settings import SPLITS_BY, PrepareSettings

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
    """Prepare one table with texts, or tables of interactions and of items, in any order.

    Interactions in several tables are parts of a split, which the names of their files tell (train, valid, test), or
    parts of one table.
    """
    settings = settings or PrepareSettings()
    check_choices(settings)
    for path in paths:
        if is_prepared(path):
            raise FosterError(f"{clean(path)} is already prepared", "use it as it is, or give the raw table")
    return _prepared(read_tables(paths, settings), settings, count_tokens)


def check_choices(settings: PrepareSettings) -> None:
    """Raise FosterError for settings that exclude each other or that do not exist."""
    if settings.split_by not in SPLITS_BY:
        raise FosterError(f"--split-by {clean(settings.split_by)}: unknown", f"use {' or '.join(SPLITS_BY)}")
    if settings.text is not None and settings.text_columns is not None:
        raise FosterError("--text and --text-columns both say what an item's text is", "give one of them")


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
    check_choices(settings)
    names, of_items = list(interactions.columns), None if items is None else list(items.columns)
    columns, wheres = recognise(names, of_items, settings), wheres_of(settings, names, of_items)
    rows = None if items is None else Read(items.reset_index(drop=True), [Place(0, "items", 1, "row")], [])
    read = Read(interactions.reset_index(drop=True), [Place(0, name, 1, "row")], [])
    return _prepared(Tables(read, rows, columns, wheres, [], name), settings, count_tokens)


def _prepared(tables: Tables, settings: PrepareSettings, count_tokens: CountTokens | None) -> Dataset:
    read, columns, items = tables.read, tables.columns, tables.items
    account = Account(read=len(read.frame) + len(read.bad), notes=list(tables.notes))
    raw = _raw(read, columns, settings, account)
    raw = raw.take(_asked(tables, raw, account))
    own = raw.split
    k = settings.k_core if settings.k_core is not None else (DEFAULT_K_CORE if own is None else 1)

    kept = first_of_pairs(raw.user, raw.item, raw.order, own)
    account.duplicates = len(raw.user) - len(kept)
    core = _core(raw.user[kept], raw.item[kept], k)
    account.cut, account.kept = int((~core).sum()), int(core.sum())
    kept = kept[core]
    user, user_ids, _ = _relabel(raw.user[kept], raw.user_ids)
    item, ids, raw_of_item = _relabel(raw.item[kept], raw.item_ids)
    if len(user_ids) < 2 or len(ids) < 2:
        few = "user" if len(user_ids) < 2 else "item"
        raise FosterError(
            f"only one {few} is left (k-core {k})", f"use a smaller --k-core, or give interactions of more {few}s"
        )
    ties = pair_hash(user, user_ids, item, ids, settings.seed) if raw.within is None else raw.within[kept]
    key = raw.order[kept]
    order = time_order(key, ties, None if own is None else own[kept])
    by = settings.split_by if columns.time is not None else "leave-one-out"
    made = time_split(order) if by == "time" else leave_one_out(order, user)
    split = made if own is None else own[kept]
    order = order[np.argsort(user[order], kind="stable")]
    rows = Interactions(user[order], item[order], raw.time[kept][order], split[order])
    check_split(rows.user, rows.split, own is not None)

    if items is None:
        lookup = np.full(len(raw.item_ids), -1, dtype=np.int64)
        lookup[raw_of_item] = np.arange(len(ids))
        table = read.frame.iloc[raw.rows]
        catalogue, text = from_interactions(table, lookup[raw.item], raw.order, ids, columns, settings, account)
    else:
        catalogue, text = from_items(items, ids, columns, settings, account)
    columns = replace(columns, text=text)
    moment = None if columns.time is None else _moments(key, None if raw.within is None else raw.within[kept])[order]
    statistics = _statistics(rows, moment, len(user_ids), catalogue, count_tokens)
    statistics |= {
        "duplicates_removed": account.duplicates,
        "k_core": k,
        "split": "column" if own is not None else by,
        "rows": {**account.to_dict(), "near_ids": _near(raw)},
    }
    resolved = {"user": columns.user, "item": columns.item, "time": columns.time, "split": columns.split}
    resolved |= {"item_of_texts": columns.item_key, "title": columns.title}
    used = {"columns": {**resolved, "text": list(columns.text)}, "k_core": k, "seed": settings.seed}
    digest = dataset_hash(user_ids, catalogue, rows)
    return Dataset(tables.name, digest, user_ids, catalogue, rows, used, statistics, raw.bad)


@dataclass(frozen=True)
class _Raw:
    """R usable rows: `rows` (R,) of the table that was read; codes and their ids; `time` in ms; `order`: what they are
    sorted by; `within`: the order of rows that are equal in `order`, if it is known; `split`; the bad rows."""

    rows: Int64
    user: Int64
    item: Int64
    time: Int64
    order: Int64
    within: npt.NDArray[np.uint64] | None
    split: npt.NDArray[np.int8] | None
    user_ids: list[str]
    item_ids: list[str]
    bad: list[Bad]

    def take(self, keep: npt.NDArray[np.bool_]) -> _Raw:
        """The rows where `keep` (R,)."""
        named = ("rows", "user", "item", "time", "order", "within", "split")
        found: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x[keep] for name in named}
        return replace(self, **found)


def _raw(read: Read, columns: Columns, settings: PrepareSettings, account: Account) -> _Raw:
    """The rows with ids, a time and a split. Others are bad: more than 1 % of them raise FosterError."""
    frame, reasons = read.frame, dict[int, tuple[str, str]]()
    users, items = (encode_ids(frame[name], what) for name, what in ((columns.user, "user"), (columns.item, "item")))
    good = (users.codes >= 0) & (items.codes >= 0)
    for ids, column in ((users, columns.user), (items, columns.item)):
        reasons |= {row: (f"(column {clean(column)}) {why}", "") for row, why in ids.reasons.items()}
    for what, ids, column in (("user", users, columns.user), ("item", items, columns.item)):
        for name in (name for name in SUSPECTS if name in ids.names):
            count = int((ids.codes == ids.names.index(name)).sum())
            account.notes.append(
                f"{count:,} rows have the {what} id {name}; if that is a missing id: --where '{clean(column)}!={name}'"
            )
    number = np.arange(len(frame), dtype=np.int64)
    own_order = frame[ORDER].to_numpy(np.int64) if ORDER in frame.columns else None
    if columns.time is None:
        time = order = number if own_order is None else own_order
        within = None
        account.notes.append("no times: rows are in the order in which they happened")
    else:
        times = read_times(frame[columns.time])
        time, order = times.ms, times.order
        within = None if own_order is None else own_order.astype(np.uint64)
        for row in np.flatnonzero(~times.good).tolist():
            shown = flat(frame[columns.time].iloc[row])
            why = "is empty" if shown is None or not shown.strip() else "is no time"
            reasons.setdefault(row, (f"(column {clean(columns.time)}) {why}", (shown or "").strip()))
        good &= times.good
        account.notes.append(f"times are read as {times.what}")
    split = None
    if columns.split is not None:
        split, unknown = read_split(frame[columns.split])
        reasons |= {row: (f"(column {clean(columns.split)}) is no split", value) for row, value in unknown.items()}
        good &= split >= 0
    bad = [*read.bad, *bad_rows(read, reasons)]
    account.bad = len(bad)
    check_bad(bad, account.read, "of the interactions", settings.allow_bad)
    raw = _Raw(number, users.codes, items.codes, time, order, within, split, users.names, items.names, bad)
    if not good.any():
        raise FosterError("no row of the interactions can be read", "mend them")
    return raw.take(good)


def _asked(tables: Tables, raw: _Raw, account: Account) -> npt.NDArray[np.bool_]:
    """The rows of `raw` that --where keeps. Raises FosterError if there is none."""
    frame, items, columns, wheres = tables.read.frame, tables.items, tables.columns, tables.wheres
    keep = np.ones(len(frame), dtype=bool)
    for where in wheres.own:
        keep &= where.mask(frame[where.column])
    keep = keep[raw.rows]
    if wheres.of_items and items is not None:
        asked = np.ones(len(items.frame), dtype=bool)
        for where in wheres.of_items:
            asked &= where.mask(items.frame[where.column])
        found = encode_ids(items.frame[columns.item_key], "item")
        inside = {found.names[code] for code in np.unique(found.codes[asked]).tolist() if code >= 0}
        keep &= np.array([name in inside for name in raw.item_ids])[raw.item]
    account.filtered = int((~keep).sum())
    if not keep.any():
        texts = " and ".join(where.text for where in (*wheres.own, *wheres.of_items))
        raise FosterError(f"no interaction has {clean(texts)}", "leave out --where")
    return keep


def _moments(order: Int64, within: npt.NDArray[np.uint64] | None) -> Int64:
    """What tells rows apart in time (N,): `order`, and the place `within` where that is known."""
    if within is None:
        return order
    return np.unique(np.stack([order, within.astype(np.int64)]), axis=1, return_inverse=True)[1].reshape(-1)


def _near(raw: _Raw) -> dict[str, Any]:
    """The ids that differ from another one only in case, blanks, zeros or a decimal point, of users and items."""
    found = {}
    for what, ids in (("user", raw.user_ids), ("item", raw.item_ids)):
        near = near_equal(ids)
        if near.count:
            found[what] = {"count": near.count, "example": list(near.groups[0])[:3]}
    return found


def _core(user: Int64, item: Int64, k: int) -> npt.NDArray[np.bool_]:
    if k < 1:
        raise FosterError(f"--k-core {k} is below 1", "use --k-core 1 to keep every user and item")
    for few, codes in (("user", user), ("item", item)):
        if len(np.unique(codes)) < 2:
            raise FosterError(f"only one {few} is in the {len(user):,} interactions", f"give those of more {few}s")
    mask = k_core(user, item, k)
    if not mask.any():
        best = largest_core(user, item)
        left = k_core(user, item, best)
        while min(len(np.unique(user[left])), len(np.unique(item[left]))) < 2:
            best -= 1
            left = k_core(user, item, best)
        raise FosterError(
            f"nothing is left after the {k}-core of {len(user)} interactions",
            f"--k-core {best} would leave {int(left.sum())} interactions",
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


def _statistics(
    rows: Interactions, moment: Int64 | None, users: int, catalogue: Catalogue, count: CountTokens | None
) -> dict[str, Any]:
    """`moment` (N,): what tells the times of interactions apart; None: they have none."""
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
    by_user, by_anyone = (0.0, 0.0) if moment is None else tie_rates(rows.user, moment)
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
