"""`foster preprocess`. In: raw tables. Out: one prepared parquet file; its statistics are printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands.from_settings import Asked, asks
from foster_cli.console import Console, clean
from foster_cli.errors import FosterError
from foster_cli.settings import ModelConfig


@asks("preprocess", "json")
def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="CSV, TSV, JSON lines or parquet, also gzipped: one table, or interactions and items.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Prepared parquet file to write.")],
    asked: Asked,
    encoder: Annotated[
        str, typer.Option("--encoder", help="Text encoder whose tokens measure the length of texts.")
    ] = ModelConfig.encoder,
) -> None:
    """Read, check, cut and split a table of interactions; write it as one parquet file.

    Duplicates are removed, users and items reduced to the k-core, interactions ordered by time and split.
    The file also holds the settings and statistics. `foster distill` reads it.

    Example: foster preprocess ratings.csv movies.csv --out movies.parquet
    """
    _check_out(out, inputs)
    from foster_cli.data.prepare import read_raw, write_prepared
    from foster_cli.data.tokens import token_counter
    from foster_cli.models.pretrained import load_tokenizer
    from foster_cli.models.source import find_encoder

    console = Console(json_mode=asked.json)
    source = find_encoder(encoder)
    dataset = read_raw(inputs, asked.settings.prepare, token_counter(lambda: load_tokenizer(source)))
    dataset = replace(dataset, name=out.stem)
    write_prepared(dataset, out)
    console.event(command="preprocess", out=str(out), name=dataset.name, hash=dataset.hash, **dataset.statistics)
    console.table("", ("", *_COUNTS), split_rows(dataset.statistics))
    console.result("")
    console.table("", ("statistic", "value"), statistic_rows(dataset.statistics))
    console.result("")
    console.result(f"wrote {clean(out)}; next: foster distill {clean(out)} --budget 20")


_COUNTS = ("interactions", "users", "items", "cases")


def _check_out(out: Path, inputs: list[Path]) -> None:
    from foster_cli.files import real_path

    if out.suffix.lower() != ".parquet":
        raise FosterError(f"--out {clean(out)} does not end in .parquet", f"use --out {clean(out.stem)}.parquet")
    if out.is_dir():
        raise FosterError(f"--out {clean(out)} is a folder", f"use --out {clean(out / 'data.parquet')}")
    for path in inputs:
        if real_path(out) == real_path(path) or (out.exists() and path.exists() and out.samefile(path)):
            raise FosterError(f"--out {clean(out)} would overwrite an input", "give another --out")


def split_rows(statistics: dict[str, Any]) -> list[list[str]]:
    """The rows of the table of counts: all, train, valid, test."""
    rows = [["all", *[_number(statistics[c]) if c in statistics else "" for c in _COUNTS]]]
    for name, counts in statistics["splits"].items():
        rows.append([name, *[_number(counts[c]) if c in counts else "" for c in _COUNTS]])
    return rows


def statistic_rows(statistics: dict[str, Any]) -> list[list[str]]:
    """Name and value of every other statistic."""
    rows = [
        ["interactions per user", f"{statistics['average_length']:.2f}"],
        ["duplicates removed", _number(statistics["duplicates_removed"])],
        ["k-core", str(statistics["k_core"])],
        ["split by", {"time": "time, 8:1:1", "column": "the table's own column"}[statistics["split"]]],
        ["same time as another of the user", f"{statistics['tie_rate']:.2%}"],
        ["same time as any other", f"{statistics['tie_rate_global']:.2%}"],
        ["items without text", f"{statistics['share_without_text']:.2%}"],
        ["characters per text", f"{statistics['text_characters']['mean']:.1f}"],
    ]
    if tokens := statistics.get("text_tokens"):
        rows.append(
            [
                "tokens per text (mean, 95 %, max)",
                f"{tokens['mean']:.1f}, {tokens['p95']:.0f}, {tokens['max']}",
            ]
        )
    return rows


def _number(value: int) -> str:
    return f"{value:,}"
