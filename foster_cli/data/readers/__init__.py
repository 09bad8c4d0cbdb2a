"""Files in, one data frame out: CSV, TSV, JSON lines and parquet, each also gzipped.

`read_table(path)` gives R rows with the file's own column names. What parts the columns of a CSV or TSV is a
comma or a tab, or, where the header has none, what it has instead (`text.delimiter_of`). Text (and every CSV/TSV
column, so that "007" keeps its zeros) comes as pandas `string`, dictionary-encoded text as a categorical of strings,
integers as nullable Int64, times as datetime64. Lists are joined with ", ". Anything wrong with the file is
a FosterError of one line.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from foster_cli.console import clean
from foster_cli.data.readers.parquet import read_parquet, tidy
from foster_cli.data.readers.source import check_utf8, kind_of, load
from foster_cli.data.readers.text import delimiter_of, read_delimited, read_json_lines
from foster_cli.errors import FosterError

__all__ = ["read_table"]


def read_table(path: Path) -> pd.DataFrame:
    """The table in `path`, its format told by the name: .csv .tsv .jsonl .json .ndjson .parquet, also .gz."""
    path = Path(path)
    kind = kind_of(path)
    data = load(path)
    if data[:4] == b"PAR1" or kind == "parquet":
        table = read_parquet(data, path)
    else:
        data = check_utf8(data, path)
        if kind == "json":
            table = read_json_lines(data, path)
        else:
            table = read_delimited(data, delimiter_of(data, "\t" if kind == "tsv" else ","), path)
    if table.num_rows == 0:
        raise FosterError(f"{clean(path)} has no rows", "give a table with at least one interaction or item")
    return tidy(table, path)
