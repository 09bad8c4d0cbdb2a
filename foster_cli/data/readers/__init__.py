"""Reads a file as a data frame: CSV, TSV, JSON lines or parquet, each also gzipped.

`read_table(path)` returns R rows with the file's own column names. The delimiter is a comma for CSV and a tab for TSV;
if the header has none, it is another one (`text.delimiter_of`). Text becomes pandas `string`, and so does every CSV or
TSV column, so that "007" keeps its zeros. Dictionary-encoded text becomes a categorical of strings, integers nullable
Int64, times datetime64. Lists are joined with ", ". A file that cannot be read raises a FosterError of one line.
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
    """Read the table in `path`. Its name gives the format: .csv .tsv .jsonl .json .ndjson .parquet, also with .gz."""
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
