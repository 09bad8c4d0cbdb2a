"""The relational part of preparing interactions, as SQL that DuckDB runs within a bound on memory.

    rows (R) --code--> pairs (P), distinct --core--> N of them --moments, ordered--> batches for `timeline`

Tables: `rows` and `pairs` (user INTEGER, item INTEGER, moment BIGINT), with `within` BIGINT where the order of equal
moments is known and `split` TINYINT where the table has its own; `user_codes` and `item_codes`, which give the codes of
`rows` those of `pairs`; `text0`, `text1`, … with the texts of each item in one column. What does not fit into memory
goes to a temporary folder. No name and no text of the data becomes part of a statement.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from foster_cli.console import clean
from foster_cli.data.rows import ROOM
from foster_cli.errors import FosterError

Int64 = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

#: Rows of a batch.
BATCH = 1 << 20
#: The share of the memory that DuckDB is told to keep to: it takes somewhat more, and Python holds the ids.
_SHARE, _LEAST = 0.4, 64 << 20
#: Rows of texts that are added before those of the same text are joined.
_JOINED = 1 << 22
#: At most so many pairs are kept beside their k-core, to say what another k would leave.
_FEW = 1 << 24


@dataclass(frozen=True)
class TextRows:
    """The T distinct (item, text) of a column: `item` (T,), `text` (T,) as it was read, the moments of its `first` and
    `last` row (T,), and the number of its `rows` (T,)."""

    item: Int64
    text: list[str]
    first: Int64
    last: Int64
    rows: Int64


class Plan:
    """A database of its own, in memory and in a temporary folder, removed at the end of the `with`.

    `within`, `split`: whether rows have these columns; `texts`: the number of text columns; `memory`: bytes that the
    process may take, None: half of what is free.
    """

    def __init__(self, within: bool, split: bool, texts: int = 0, memory: int | None = None) -> None:
        self._names = ["user", "item", "moment", *(["within"] if within else []), *(["split"] if split else [])]
        self._folder = tempfile.TemporaryDirectory(prefix="foster-")
        memory = psutil.virtual_memory().available // 2 if memory is None else memory
        self._con = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{max(_LEAST, int(_SHARE * memory)) >> 10} KiB",
                "threads": _threads(),
                "temp_directory": self._folder.name,
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        self._run("set enable_external_access = false")
        self._run("set lock_configuration = true")
        kinds = {"user": "INTEGER", "item": "INTEGER", "moment": "BIGINT", "within": "BIGINT", "split": "TINYINT"}
        self._run(f"create table rows ({', '.join(f'{name} {kinds[name]}' for name in self._names)})")
        self._texts = [0] * texts
        for i in range(texts):
            self._run(f"create table text{i} (item INTEGER, text VARCHAR, first BIGINT, last BIGINT, rows BIGINT)")

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._con.close()
        self._folder.cleanup()

    def add(self, columns: Columns) -> None:
        """Add rows: arrays (R,) of each column."""
        kinds = {"user": pa.int32(), "item": pa.int32(), "split": pa.int8()}
        table = pa.table({name: pa.array(columns[name], kinds.get(name, pa.int64())) for name in self._names})
        self._insert("insert into rows select * from given", table)

    def add_texts(self, column: int, item: Int64, text: pa.Array, moment: Int64) -> None:
        """Add rows with a `text` (R,), as Arrow holds it, in text column number `column`; missing ones are left out."""
        self._insert(
            f"insert into text{column} select item, text, min(moment), max(moment), count(*) from given "
            "where text is not null group by all",
            pa.table({"item": pa.array(item, pa.int32()), "text": text, "moment": moment}),
        )
        self._texts[column] += len(item)
        if self._texts[column] > _JOINED:
            self._join_texts(column)

    def _join_texts(self, column: int) -> None:
        if not self._texts[column]:
            return
        self._run(
            f"create or replace table text{column} as select item, text, min(first) as first, max(last) as last, "
            f"sum(rows)::BIGINT as rows from text{column} group by all"
        )
        self._texts[column] = 0

    def code(self, users: Int64, items: Int64, asked: npt.NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """Give the codes of `rows` those of `users` and `items`, and keep the earliest row of each pair, by split and
        then moment. `asked`, by code of `rows`: other items are left out. Returns their rows and the distinct pairs."""
        for name, codes in (("user", users), ("item", items)):
            given = {"raw": pa.array(np.arange(len(codes)), pa.int32()), "code": pa.array(codes, pa.int32())}
            if name == "item" and asked is not None:
                given = {key: column.filter(pa.array(asked)) for key, column in given.items()}
            self._insert(f"create table {name}_codes as select * from given", pa.table(given))
        joined = "from rows join user_codes u on rows.user = u.raw join item_codes i on rows.item = i.raw"
        unasked = 0
        if asked is not None:
            unasked = self._count("select count(*) from rows where item not in (select raw from item_codes)")
        rest = [name for name in ("split", "moment", "within") if name in self._names]
        if rest == ["moment"]:
            first, taken = "min(moment)", "first as moment"
        else:
            first = f"min({{{', '.join(f'{name}: {name}' for name in rest)}}})"
            taken = ", ".join(f"first.{name} as {name}" for name in rest)
        self._run(
            f"create table pairs as select user, item, {taken} from "
            f"(select u.code as user, i.code as item, {first} as first {joined} group by all)"
        )
        self._run("drop table rows")
        return unasked, self._count("select count(*) from pairs")

    def core(self, k: int) -> int:
        """Cut the pairs to the largest set in which each user and each item has at least k. Returns its size.

        The result is unique, so the order of removal does not matter.
        """
        if self._count("select count(*) from pairs") <= _FEW:
            self._run("create or replace temp table core as select * from pairs")
        else:
            self._run("alter table pairs rename to core")
        while True:
            few = 0
            for name in ("user", "item"):
                self._run(
                    f"create or replace temp table few_{name} as select {name} from core group by {name} "
                    f"having count(*) < {int(k)}"
                )
                few += self._count(f"select count(*) from few_{name}")
            if not few:
                return self._count("select count(*) from core")
            self._run(
                "delete from core where user in (select user from few_user) or item in (select item from few_item)"
            )

    def largest_core(self) -> int:
        """The largest k whose core has at least two users and two items, found by bisection, for cores are nested; 0 if
        there is none or if the pairs are not kept."""
        if not self.keeps_pairs:
            return 0
        most = (
            f"(select coalesce(max(n), 0) from (select count(*) as n from pairs group by {name}))"
            for name in ("user", "item")
        )
        low, high = 0, self._count(f"select least({', '.join(most)})")
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.core(middle) and min(map(len, self.used())) > 1 else (low, middle - 1)
        return low

    def used(self) -> tuple[Int64, Int64]:
        """The sorted codes of the users and of the items that the core has."""
        user, item = (self._one(f"select distinct {name} from core order by 1") for name in ("user", "item"))
        return user, item

    @property
    def keeps_pairs(self) -> bool:
        """Whether the pairs are still there after a `core`, which cuts too many of them in place."""
        return bool(self._count("select count(*) from duckdb_tables() where table_name = 'pairs'"))

    def sizes(self) -> tuple[int, int]:
        """The numbers of users and of items of the pairs, before any core, while they are kept."""
        user, item = (self._count(f"select count(distinct {name}) from pairs") for name in ("user", "item"))
        return user, item

    def moments(self) -> Iterator[Columns]:
        """The moments of the core's N interactions (and `within`), sorted."""
        names = ", ".join(name for name in ("moment", "within") if name in self._names)
        yield from self._batches(f"select {names} from core order by {names}")

    def at(self, key: dict[str, int]) -> Columns:
        """User and item of the core's interactions at one moment (and `within`)."""
        where = " and ".join(f"{name} = {int(value)}" for name, value in key.items())
        found = list(self._batches(f"select user, item from core where {where}"))
        return {name: np.concatenate([one[name] for one in found]) for name in ("user", "item")}

    def ordered(self) -> Iterator[Columns]:
        """The core's interactions, sorted by user, then split, moment and `within`."""
        by = ", ".join(name for name in ("user", "split", "moment", "within") if name in self._names)
        yield from self._batches(f"select {', '.join(self._names)} from core order by {by}")

    def texts(self, column: int, items: Int64 | None = None) -> TextRows:
        """The texts of a text column, by the items' codes of `rows`: of all, or of those of `items`."""
        self._join_texts(column)
        query = f"select * from text{column} order by item, first, text"
        if items is not None:
            self._insert("create or replace temp table chosen as select * from given", pa.table({"item": items}))
            query = f"select * from text{column} where item in (select item from chosen) order by item, first, text"
        table = self._table(query)
        item, first, last, rows = (
            table[name].to_numpy().astype(np.int64) for name in ("item", "first", "last", "rows")
        )
        return TextRows(item, table["text"].to_pylist(), first, last, rows)

    def _run(self, statement: str) -> None:
        with _in_bounds(self._folder.name):
            self._con.execute(statement)

    def _insert(self, statement: str, table: pa.Table) -> None:
        with _in_bounds(self._folder.name):
            self._con.register("given", table)
            self._con.execute(statement)
            self._con.unregister("given")

    def _count(self, query: str) -> int:
        with _in_bounds(self._folder.name):
            return int(self._con.execute(query).fetchall()[0][0])

    def _table(self, query: str) -> pa.Table:
        with _in_bounds(self._folder.name):
            return self._con.sql(query).to_arrow_table()

    def _one(self, query: str) -> Int64:
        return np.asarray(self._table(query).column(0).to_numpy(), dtype=np.int64)

    def _batches(self, query: str) -> Iterator[Columns]:
        with _in_bounds(self._folder.name):
            for batch in self._con.sql(query).to_arrow_reader(BATCH):
                yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}


@contextmanager
def _in_bounds(folder: str) -> Iterator[None]:
    """What does not fit into memory and temporary files becomes a FosterError, and Ctrl-C what it is elsewhere."""
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if "interrupt" not in str(error).lower():
            raise
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        raise FosterError(
            f"the interactions take more memory than they may ({clean(error, 120)})",
            "give more with --memory, or make room for temporary files",
        ) from error
    except (duckdb.IOException, pa.ArrowException) as error:
        raise FosterError(
            f"temporary files in {clean(folder)} cannot be written ({clean(error, 120)})", ROOM
        ) from error


def _threads() -> int:
    """As many threads as other libraries are told to take, or as there are processors for this process."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
