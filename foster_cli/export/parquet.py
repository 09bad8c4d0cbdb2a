"""Parquet: a SyntheticView in, one long table out (M × L × top rows): user, position and rank.

Columns: synthetic_user, position, rank (from 0) int32; item_id, title string; probability, mass float64.
`mass` is the probability that the position's listed items cover. One row group per synthetic user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foster_cli.export.view import Sink, SyntheticView


def write(view: SyntheticView, file: Sink, top: int) -> None:
    """Write the `top` likeliest items of every position."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("synthetic_user", pa.int32()),
            ("position", pa.int32()),
            ("rank", pa.int32()),
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("probability", pa.float64()),
            ("mass", pa.float64()),
        ]
    )
    users, length = view.hard.shape
    rank = np.tile(np.arange(top, dtype=np.int32), length)
    position = np.repeat(np.arange(length, dtype=np.int32), top)
    sink = pa.BufferOutputStream()  # `file` may be a pipe, which cannot tell its position
    with pq.ParquetWriter(sink, schema) as writer:
        for user in range(users):
            index = view.top_index[user, :, :top].ravel().tolist()
            probability = view.top_probability[user, :, :top]
            mass = np.repeat(np.minimum(1.0, probability.sum(axis=1)), top)
            columns = {
                "synthetic_user": np.full(len(index), user, dtype=np.int32),
                "position": position,
                "rank": rank,
                "item_id": [view.item_ids[i] for i in index],
                "title": [view.titles[i] for i in index],
                "probability": probability.ravel(),
                "mass": mass,
            }
            writer.write_table(pa.table(columns, schema=schema))
    file.write(sink.getvalue().to_pybytes())
