"""Writes hard sequences as parquet tables of interactions, one row per user and item.

    rectools  user_id, item_id string; weight float64; datetime timestamp
    lkpy      user_id, item_id string; rating float64; timestamp int64 (seconds)

The reader of such a table takes every item as the target of the items before it. That is right if each position is the
target of the one before it; one sequence then becomes one user. If positions have separate targets, the inputs must not
be learned as targets, so one position becomes one user. In `rectools` this user has the inputs up to the position at
weight 0 (its transformer models leave them out of the loss) and the target at weight 1. In `lkpy` it has the last
input and the target. Times count seconds from 2000-01-01.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from foster_cli.export.hard import HardSet
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink

START = 946_684_800  # 2000-01-01T00:00:00Z


class Row(NamedTuple):
    """One interaction. `item` is an index into the catalogue; `time` counts from 0."""

    user: str
    item: int
    weight: float
    time: int


def sequences(hard: HardSet) -> Iterator[Row]:
    """Yield one user per sequence, with its items in order."""
    for row in range(len(hard)):
        for time, item in enumerate(hard.sequence(row)):
            yield Row(hard.label(row), item, 1.0, time)


def pairs(hard: HardSet) -> Iterator[Row]:
    """Yield one user per position, with the last input and then the target."""
    for example in hard.examples():
        user = f"{hard.label(example.row)}.{example.position}"
        yield Row(user, example.history[-1], 1.0, 0)
        yield Row(user, example.target, 1.0, 1)


def weighted(hard: HardSet) -> Iterator[Row]:
    """Yield one user per position, with the inputs up to it at weight 0 and then the target at weight 1."""
    for example in hard.examples():
        user = f"{hard.label(example.row)}.{example.position}"
        for time, item in enumerate(example.history):
            yield Row(user, item, 0.0, time)
        yield Row(user, example.target, 1.0, len(example.history))


def plain_rows(hard: HardSet) -> Iterator[Row]:
    """The rows for a tool without weights."""
    return sequences(hard) if hard.goals is None else pairs(hard)


def write_rectools(job: Job, file: Sink) -> None:
    """Write RecTools' interactions."""
    rows = list(sequences(job.hard) if job.hard.goals is None else weighted(job.hard))
    import numpy as np

    times = (np.array([row.time for row in rows]) + START).astype("datetime64[s]").astype("datetime64[ns]")
    _write(job, file, rows, {"weight": [row.weight for row in rows], "datetime": times})


def write_lkpy(job: Job, file: Sink) -> None:
    """Write LensKit's interactions."""
    rows = list(plain_rows(job.hard))
    _write(job, file, rows, {"rating": [row.weight for row in rows], "timestamp": [START + row.time for row in rows]})


def _write(job: Job, file: Sink, rows: list[Row], more: dict[str, Any]) -> None:
    """Write user_id, item_id and the columns `more` as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = job.hard.item_ids
    columns = {
        "user_id": pa.array([row.user for row in rows], pa.string()),
        "item_id": pa.array([ids[row.item] for row in rows], pa.string()),
    }
    sink = pa.BufferOutputStream()  # `file` may be a pipe
    pq.write_table(pa.table(columns | more), sink)
    file.write(sink.getvalue().to_pybytes())
