"""Writes a SyntheticView as one long parquet table, one row per user, position and rank (M × L × top rows).

Columns: synthetic_user, position, rank (from 0) int32; item_id, title string; probability, mass float64.
`mass` is the total probability of the position's listed items. There is one row group per synthetic user. If positions
have separate targets, these columns are the inputs, and next_item_id, next_title, next_probability, next_mass are the
targets after the position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foster_cli.export.job import Job
    from foster_cli.export.view import Sink


def write(job: Job, file: Sink) -> None:
    """Write the `job.top` most probable items of every position."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    view = job.view
    parts = [("", view.top_index, view.top_probability)]
    if view.goals is not None:
        parts.append(("next_", view.goals.top_index, view.goals.top_probability))
    fields = [("synthetic_user", pa.int32()), ("position", pa.int32()), ("rank", pa.int32())]
    for prefix, _, _ in parts:
        fields += [(f"{prefix}item_id", pa.string()), (f"{prefix}title", pa.string())]
        fields += [(f"{prefix}probability", pa.float64()), (f"{prefix}mass", pa.float64())]
    schema = pa.schema(fields)
    top = min(job.top, view.top_index.shape[-1])  # a real sequence (a coreset) has one item per position
    sink = pa.BufferOutputStream()  # `file` may be a pipe, which has no `tell`
    with pq.ParquetWriter(sink, schema) as writer:
        for user in range(len(view.top_index)):
            length = view.positions(user)
            rank = np.tile(np.arange(top, dtype=np.int32), length)
            position = np.repeat(np.arange(length, dtype=np.int32), top)
            columns: dict[str, Any] = {"synthetic_user": np.full(len(rank), user, dtype=np.int32)}
            columns |= {"position": position, "rank": rank}
            for prefix, top_index, top_probability in parts:
                index = top_index[user, :length, :top].ravel().tolist()
                probability = top_probability[user, :length, :top]
                columns[f"{prefix}item_id"] = [view.item_ids[i] for i in index]
                columns[f"{prefix}title"] = [view.titles[i] for i in index]
                columns[f"{prefix}probability"] = probability.ravel()
                columns[f"{prefix}mass"] = np.repeat(np.minimum(1.0, probability.sum(axis=1)), top)
            writer.write_table(pa.table(columns, schema=schema))
    file.write(sink.getvalue().to_pybytes())
