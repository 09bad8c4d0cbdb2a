"""`foster preprocess`. In: raw tables. Out: one prepared parquet file; its statistics are printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foster_cli.commands.from_settings import Asked, Force, asks
from foster_cli.console import Console, clean
from foster_cli.errors import FosterError
from foster_cli.files import quoted
from foster_cli.settings import ModelConfig

if TYPE_CHECKING:
    from foster_cli.data.readers import Bad
    from foster_cli.data.schema import Dataset


@asks("preprocess", "json")
def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Tables in any common format, also compressed: interactions with texts, or interactions and items; "
            "a file, a folder of parts, a pattern in quotes, an address, or - for standard input.",
        ),
    ],
    asked: Asked,
    out: Annotated[Path | None, typer.Option("--out", help="Prepared parquet file to write.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read and say everything, with the memory and time that distilling needs; write nothing."
        ),
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="CSV file for the rows that cannot be read: file, line, reason, text."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="Memory that the interactions may take, such as 4GB; what does not fit goes to temporary files "
            "(TMPDIR). Default: half of what is free.",
        ),
    ] = None,
    force: Force = False,
    encoder: Annotated[
        str, typer.Option("--encoder", help="Text encoder whose tokens measure the length of texts.")
    ] = ModelConfig.encoder,
) -> None:
    """Read, check, cut and split a table of interactions; write it as one parquet file.

    Duplicates are removed, users and items reduced to the k-core, interactions ordered by time and split.
    The file also holds the settings and statistics. `foster distill` reads it.

    Example: foster preprocess ratings.csv movies.csv --out movies.parquet
    """
    target, bytes_ = _checked(out, check, inputs, force), None if memory is None else memory_size(memory)
    if rejects is not None:
        _check_file(rejects, inputs, force, (".csv",), "--rejects")
    from foster_cli.data.account import account_lines
    from foster_cli.data.prepare import read_raw, write_prepared
    from foster_cli.data.tokens import token_counter
    from foster_cli.models.pretrained import load_tokenizer
    from foster_cli.models.source import find_encoder

    console = Console(json_mode=asked.json)
    source = find_encoder(encoder)
    count = token_counter(lambda: load_tokenizer(source))
    with console.working() as progress:
        dataset = read_raw(inputs, asked.settings.prepare, count, bytes_, progress)
    columns = dataset.settings["columns"]
    for line in account_lines(dataset.statistics, columns, dataset.bad):
        console.note(line)
    if rejects is not None:
        write_rejects(rejects, dataset.bad)
    found: dict[str, Any] = {"columns": columns, "hash": dataset.hash, **dataset.statistics}
    if target is not None:
        dataset = replace(dataset, name=target.stem)
        write_prepared(dataset, target)
        found["out"] = str(target)
    else:
        found["needs"] = _needs(dataset, console)
    console.event(command="preprocess", name=dataset.name, **found)
    console.table("", ("", *_COUNTS), split_rows(dataset.statistics))
    console.result("")
    console.table("", ("statistic", "value"), statistic_rows(dataset.statistics))
    console.result("")
    if "needs" in found:
        console.result(
            f"foster distill needs about {found['needs']['memory_bytes'] / 2**30:.1f} GiB of memory and at most about "
            f"{found['needs']['seconds'] / 60:.0f} minutes on this processor, if no layers of the encoder learn"
        )
    if target is not None:
        console.result(f"wrote {clean(target)}; next: foster distill {quoted(target)} --budget 20")


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", re.IGNORECASE)


def memory_size(text: str) -> int:
    """The bytes of a size such as 4GB, 512MiB or 2g. Raises FosterError for another text, and below `LEAST`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise FosterError(f"--memory {clean(text, 40)} is no size", "use a number with a unit, such as 4GB or 512MB")
    bytes_ = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
    if bytes_ < LEAST:
        raise FosterError(f"--memory {clean(text, 40)} is too little", "give 512MB or more")
    return int(bytes_)


#: The least --memory.
LEAST = 512 * 10**6


def _needs(dataset: Dataset, console: Console) -> dict[str, float]:
    """The bytes that distilling will need, and the seconds at most, on this machine."""
    from foster_cli.runtime import pick_device
    from foster_cli.session import Session
    from foster_cli.settings import DistillConfig, TrainConfig
    from foster_cli.train.memory import estimate, training_seconds
    from foster_cli.train.task import make_task

    config, train = DistillConfig(), TrainConfig()
    # a recommender without texts: encoding them would take longer than all of this
    task = make_task(dataset, ModelConfig(items="id"), config.length, Session(console, pick_device("cpu"), False))
    need = estimate(task, train, config.real_batch, 2 * config.budget).total
    seconds = WHOLE * training_seconds(task, train)
    return {"memory_bytes": float(need), "seconds": seconds}


#: A distillation takes at most so many times as long as the steps of a training without texts.
WHOLE = 2
_SPLIT_BY = {
    "time": "time, 8:1:1", "column": "the tables themselves", "leave-one-out": "leave-one-out"
}  # fmt: skip
_COUNTS = ("interactions", "users", "items", "cases")


def _checked(out: Path | None, check: bool, inputs: list[Path], force: bool) -> Path | None:
    """The file to write; None with --check."""
    if check:
        if out is not None:
            raise FosterError("--check writes nothing", "leave out --out, or --check")
        return None
    if out is None:
        raise FosterError("--out is missing", "name the file to write: --out X.parquet; see foster preprocess --help")
    _check_file(out, inputs, force, (".parquet",), "--out")
    return out


def _check_file(out: Path, inputs: list[Path], force: bool, endings: tuple[str, ...], option: str) -> None:
    from foster_cli.files import may_write, real_path

    if out.suffix.lower() not in endings:
        raise FosterError(
            f"{option} {clean(out)} does not end in {endings[0]}", f"use {option} {clean(out.stem)}{endings[0]}"
        )
    if out.is_dir():
        raise FosterError(f"{option} {clean(out)} is a folder", f"use {option} {clean(out / 'data')}{endings[0]}")
    for path in inputs:
        if real_path(out) == real_path(path) or (out.exists() and path.exists() and out.samefile(path)):
            raise FosterError(f"{option} {clean(out)} would overwrite an input", f"give another {option}")
    may_write(out, force, endings, option)


def write_rejects(path: Path, bad: Sequence[Bad]) -> None:
    """Write the rows that could not be read as CSV: file, line, reason, text."""
    import csv

    from foster_cli.files import writing

    with writing(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "line", "reason", "text"))
        writer.writerows((one.file, one.line, one.reason, one.text) for one in bad)


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
        ["split by", _SPLIT_BY[statistics["split"]]],
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
