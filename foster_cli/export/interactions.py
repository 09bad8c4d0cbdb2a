"""Interaction tables: hard sequences in, a row per user and item out, as parquet.

    rectools  user_id, item_id string; weight float64; datetime timestamp
    lkpy      user_id, item_id string; rating float64; timestamp int64 (seconds)

Such a table says nothing about what is to be predicted after what: its reader takes every item as the goal of those
before it. Where positions are each other's goals that is right, and a user is a sequence. Where positions have goals
of their own, what is read is no history to learn from, so every position becomes a user of its own: in `rectools` with
all that is read up to there at weight 0 (its transformer models leave it out of the loss) and the goal at weight 1;
in `lkpy` with the last item that is read, and the goal. Times count seconds from 2000-01-01.
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
    """One interaction. `item` is a position in the catalogue, `time` counts from 0."""

    user: str
    item: int
    weight: float
    time: int


def sequences(hard: HardSet) -> Iterator[Row]:
    """Each sequence as a user, its items in order."""
    for row in range(len(hard)):
        for time, item in enumerate(hard.sequence(row)):
            yield Row(hard.label(row), item, 1.0, time)


def pairs(hard: HardSet) -> Iterator[Row]:
    """Each position as a user: the last item read, then the goal."""
    for example in hard.examples():
        user = f"{hard.label(example.row)}.{example.position}"
        yield Row(user, example.history[-1], 1.0, 0)
        yield Row(user, example.target, 1.0, 1)


def weighted(hard: HardSet) -> Iterator[Row]:
    """Each position as a user: all that is read up to there at weight 0, then the goal at weight 1."""
    for example in hard.examples():
        user = f"{hard.label(example.row)}.{example.position}"
        for time, item in enumerate(example.history):
            yield Row(user, item, 0.0, time)
        yield Row(user, example.target, 1.0, len(example.history))


def plain_rows(hard: HardSet) -> Iterator[Row]:
    """The rows of a tool that knows no weights."""
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
    """user_id, item_id and the columns `more` as parquet."""
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
