"""Prepares raw tables as a `Dataset`: removes duplicates, reduces to the k-core, sorts and splits by time.

    rows --ingest--> Plan --code, core--> N interactions, distinct, of the k-core --Timeline--> Interactions (N)
    item rows --catalogue--> Catalogue (n), items in the order of their sorted ids

The order of the rows in the files does not matter. What happens to each row is counted (`account.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foster_cli.console import clean
from foster_cli.data.account import Account
from foster_cli.data.catalogue import from_interactions, from_items
from foster_cli.data.columns import recognise
from foster_cli.data.ingest import Ingested, Progress, ingest, silent
from foster_cli.data.near import near_equal
from foster_cli.data.plan import Plan
from foster_cli.data.readers import Read
from foster_cli.data.readers.rows import Place
from foster_cli.data.schema import SPLITS, Catalogue, Dataset
from foster_cli.data.split import PairHash, check_split
from foster_cli.data.store import dataset_hash, is_prepared, read_prepared, write_prepared
from foster_cli.data.tables import OneFrame, Tables, read_tables, wheres_of
from foster_cli.data.timeline import Counts, Timeline
from foster_cli.errors import FosterError
from foster_cli.settings import SPLITS_BY, PrepareSettings

__all__ = ["PrepareSettings", "load_dataset", "prepare", "read_prepared", "read_raw", "write_prepared"]

Int64 = npt.NDArray[np.int64]
CountTokens = Callable[[list[str]], npt.NDArray[Any]]

#: The tokens of at most so many texts are counted, at equal distances.
COUNTED = 20_000
#: Default k of the k-core where foster makes the split. A table with its own split is not reduced (k = 1).
DEFAULT_K_CORE = 5


def load_dataset(
    paths: Path | Sequence[Path],
    settings: PrepareSettings | None = None,
    count_tokens: CountTokens | None = None,
    progress: Progress = silent,
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
    return read_raw(paths, settings, count_tokens, None, progress)


def read_raw(
    paths: Sequence[Path],
    settings: PrepareSettings | None = None,
    count_tokens: CountTokens | None = None,
    memory: int | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Prepare one table with texts, or tables of interactions and of items, in any order.

    Interactions in several tables are parts of a split, which the names of their files tell (train, valid, test), or
    parts of one table. `memory`: bytes that the interactions may take (`Plan`); `progress` hears what is
    being done.
    """
    settings = settings or PrepareSettings()
    check_choices(settings)
    for path in paths:
        if is_prepared(path):
            raise FosterError(f"{clean(path)} is already prepared", "use it as it is, or give the raw table")
    return _prepared(read_tables(paths, settings), settings, count_tokens, memory, progress)


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
    return _prepared(Tables(OneFrame(interactions, name), rows, columns, wheres, [], name), settings, count_tokens)


def _prepared(
    tables: Tables, settings: PrepareSettings, count_tokens: CountTokens | None, memory: int | None = None,
    progress: Progress = silent,
) -> Dataset:  # fmt: skip
    columns = tables.columns
    k = settings.k_core if settings.k_core is not None else (DEFAULT_K_CORE if columns.split is None else 1)
    found = ingest(tables, settings, memory, progress)
    account = found.account
    with found.plan as plan:
        progress("joining what was read")
        coded = {"user": found.users.finish(), "item": found.items.finish()}
        near = {what: count for what, (names, _) in coded.items() if (count := _near(names))}
        (users, user_ids), (items, item_ids) = (_numbered(names, place) for names, place in coded.values())
        _code(tables, found, users, items, item_ids)
        progress(f"cutting to the {k}-core")
        account.kept = _core(plan, k, account)
        account.cut = account.read - account.bad - account.filtered - account.duplicates - account.kept
        kept_users, kept_items = plan.used()
        ids = [item_ids[i] for i in kept_items.tolist()]
        kept_ids = [user_ids[u] for u in kept_users.tolist()]
        item_of = np.full(len(item_ids), -1, dtype=np.int64)
        item_of[kept_items] = np.arange(len(ids))
        if tables.items is None:
            catalogue, text = from_interactions(found, item_of[items], ids, columns, settings, account)
        else:
            catalogue, text = from_items(tables, ids, settings, account)
        by = settings.split_by if columns.time is not None else "leave-one-out"
        by = "column" if columns.split is not None else by
        hashes = PairHash(kept_ids, ids, settings.seed)
        rows, counts = Timeline(plan, account.kept, kept_users, kept_items, hashes, by, found.fine).arrange(progress)
    check_split(counts.interactions, counts.cases, by == "column")
    columns = replace(columns, text=text)
    statistics = _statistics(counts, account.kept, len(kept_ids), catalogue, columns.time is not None, count_tokens)
    statistics |= {
        "duplicates_removed": account.duplicates,
        "k_core": k,
        "split": by,
        "rows": {**account.to_dict(), "near_ids": near},
    }
    resolved = {"user": columns.user, "item": columns.item, "time": columns.time, "split": columns.split}
    resolved |= {"item_of_texts": columns.item_key, "title": columns.title}
    used = {"columns": {**resolved, "text": list(columns.text)}, "k_core": k, "seed": settings.seed}
    digest = dataset_hash(kept_ids, catalogue, rows)
    return Dataset(tables.name, digest, kept_ids, catalogue, rows, used, statistics, found.bad)


def _numbered(names: list[str], place: Int64) -> tuple[Int64, list[str]]:
    """The codes that distinct ids get in their sorted order, for each `place` among them; and the sorted ids."""
    order = pc.sort_indices(pa.array(names, pa.large_string())).to_numpy().astype(np.int64)
    code = np.empty(len(names), dtype=np.int64)
    code[order] = np.arange(len(names))
    return code[place], [names[i] for i in order.tolist()]


def _code(tables: Tables, found: Ingested, users: Int64, items: Int64, item_ids: list[str]) -> None:
    """Make the distinct pairs of the rows that --where keeps. Raises FosterError if there is none."""
    wheres, account, asked = tables.wheres, found.account, None
    if wheres.of_items and tables.items is not None:
        frame = tables.items.frame
        rows = np.ones(len(frame), dtype=bool)
        for where in wheres.of_items:
            rows &= where.mask(frame[where.column])
        of_table = tables.item_ids
        inside = {of_table.names[code] for code in np.unique(of_table.codes[rows]).tolist() if code >= 0}
        asked = np.array([name in inside for name in item_ids], dtype=bool)[items]
    unasked, pairs = found.plan.code(users, items, asked)
    account.filtered += unasked
    left = account.read - account.bad - account.filtered
    if not left:
        texts = " and ".join(where.text for where in (*wheres.own, *wheres.of_items))
        raise FosterError(f"no interaction has {clean(texts)}", "leave out --where")
    account.duplicates = left - pairs


def _near(ids: list[str]) -> dict[str, Any]:
    """The ids that differ from another one only in case, blanks, zeros or a decimal point; empty if there are none."""
    near = near_equal(ids)
    return {"count": near.count, "example": list(near.groups[0])[:3]} if near.count else {}


def _core(plan: Plan, k: int, account: Account) -> int:
    """Cut the plan to its k-core; how many interactions are left. Raises FosterError for fewer than two users or
    items."""
    if k < 1:
        raise FosterError(f"--k-core {k} is below 1", "use --k-core 1 to keep every user and item")
    before = account.read - account.bad - account.filtered - account.duplicates
    left = plan.core(k)
    if left and min(map(len, plan.used())) > 1:
        return left
    for few, size in zip(("user", "item"), plan.sizes() if plan.keeps_pairs else (), strict=False):
        if size < 2:
            raise FosterError(f"only one {few} is in the {before:,} interactions", f"give those of more {few}s")
    if left:
        few = "user" if len(plan.used()[0]) < 2 else "item"
        raise FosterError(
            f"only one {few} is left (k-core {k})", f"use a smaller --k-core, or give interactions of more {few}s"
        )
    best = plan.largest_core()
    hint = f"--k-core {best} would leave {plan.core(best)} interactions" if best else "use a smaller --k-core"
    raise FosterError(f"nothing is left after the {k}-core of {before} interactions", hint)


def _statistics(
    counts: Counts, size: int, users: int, catalogue: Catalogue, timed: bool, count: CountTokens | None
) -> dict[str, Any]:
    """`timed`: the interactions have times, which may be the same."""
    splits: dict[str, dict[str, int]] = {}
    for position, split in enumerate(SPLITS):
        splits[split] = {
            "interactions": counts.interactions[position],
            "users": counts.users[position],
            "items": int(counts.items[position].sum()),
        }
        if split != "train":
            splits[split]["cases"] = counts.cases[position]
    texts = catalogue.texts
    statistics: dict[str, Any] = {
        "interactions": size,
        "users": users,
        "items": len(catalogue),
        "average_length": size / users,
        "splits": splits,
        "tie_rate": counts.tied / size if timed else 0.0,
        "tie_rate_global": counts.tied_globally / size if timed else 0.0,
        "share_without_text": sum(not text for text in texts) / len(texts),
        "text_characters": {"mean": float(np.mean([len(text) for text in texts]))},
    }
    if count is not None:
        tokens = np.asarray(count(texts[:: -(-len(texts) // COUNTED)]))
        statistics["text_tokens"] = {
            "mean": float(tokens.mean()),
            "p95": float(np.percentile(tokens, 95)),
            "max": int(tokens.max()),
        }
    return statistics
