"""Writes hard sequences as a Hugging Face datasets folder, one row per training example.

README.md                            the paths of the data, for `datasets.load_dataset(FOLDER)`
data/train-00000-of-00001.parquet    synthetic_user, copy, position int32; history, history_titles lists of
                                     strings; item_id, title string (the target); probability float64
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foster_cli.export.job import Job

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

Synthetic sequences written by `foster export --format hf`. After `history` comes `item_id`; `probability` is what the
distribution gave that item. `foster-export.json` says what they were made from.
"""


def write(job: Job, folder: Path) -> None:
    """Write the README and one parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hard = job.hard
    examples = list(hard.examples())
    columns = {
        "synthetic_user": pa.array([int(hard.user[e.row]) for e in examples], pa.int32()),
        "copy": pa.array([int(hard.copy[e.row]) for e in examples], pa.int32()),
        "position": pa.array([e.position for e in examples], pa.int32()),
        "history": pa.array([[hard.item_ids[i] for i in e.history] for e in examples], pa.list_(pa.string())),
        "history_titles": pa.array([[hard.titles[i] for i in e.history] for e in examples], pa.list_(pa.string())),
        "item_id": pa.array([hard.item_ids[e.target] for e in examples], pa.string()),
        "title": pa.array([hard.titles[e.target] for e in examples], pa.string()),
        "probability": pa.array([e.probability for e in examples], pa.float64()),
    }
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "data").mkdir()
    pq.write_table(pa.table(columns), folder / "data" / "train-00000-of-00001.parquet")
