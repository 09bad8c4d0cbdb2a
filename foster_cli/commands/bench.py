"""`foster bench`: two measurements, each a command of its own; and what the two share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from foster_cli.commands import bench_distill, bench_train

app = typer.Typer(help="Measure what distilling and training take here.", no_args_is_help=True, rich_markup_mode=None)
app.command("distill", short_help="Seconds and memory of an outer step: TD3 and FOSTER.")(bench_distill.command)
app.command("train", short_help="Time to train on all the data and on a bundle.")(bench_train.command)


def folder(out: Path | None, name: str, console: Any) -> Path:
    """`out`, or `name` in runs/, made. Raises FosterError where that fails."""
    from foster_cli.commands.common import RUNS, safe_name
    from foster_cli.errors import FosterError

    place = out or RUNS / safe_name(name)
    try:
        (place / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {place}: {error.strerror or error}", "give another folder") from error
    console.note(f"finished rows are kept in {place / 'cells'}; give another --out to measure them again")
    return place


def finish(
    console: Any, found: dict[str, Any], title: str, head: tuple[str, ...], cells: list[list[str]], csv: str, out: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Write bench.json, .csv and .md, each whole or not at all; print the table, or the JSON."""
    import json
    import sys

    from foster_cli.bench.formats import to_md
    from foster_cli.runtime import writing

    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for ending, content in {"json": text, "csv": csv, "md": to_md(title, head, cells)}.items():
        with writing(out / f"bench.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
    if as_json:
        sys.stdout.write(text)
        return
    console.table(title, head, cells)
    console.result(f"{out}: bench.json, bench.csv, bench.md")
