"""The Typer app: one command per file in `commands/`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from foster_cli import __version__
from foster_cli.commands import (
    ablate,
    bench,
    build_ext,
    cache,
    compare,
    demo,
    distill,
    doctor,
    eval,
    export,
    preprocess,
    report,
    sample,
    sweep,
    tune,
    verify,
)

app = typer.Typer(
    name="foster",
    help="Shrink a sequential-recommendation dataset to about 20 synthetic sequences that train as well as all of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"foster {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks: foster --debug COMMAND.")] = False,
) -> None:
    """Options of every command; `--debug` is read in `__main__`."""


app.command("preprocess", short_help="Turn raw tables into one prepared file.")(preprocess.command)
app.command("sample", short_help="Generate a shop to try foster on.")(sample.command)
app.command("distill")(distill.command)
app.command("eval", short_help="Compare the synthetic set with baselines.")(eval.command)
app.command("export", short_help="Write the sequences for other programs.")(export.command)
app.command("report", short_help="One HTML page about a bundle.")(report.command)
app.command("compare", short_help="Which way of shrinking is best on your data.")(compare.command)
app.command("ablate", short_help="Which part of the method does what.")(ablate.command)
app.command("sweep", short_help="How much a setting matters, as curves.")(sweep.command)
app.command("tune", short_help="Choose the settings of a distillation.")(tune.command)
app.add_typer(bench.app, name="bench")
app.command("verify", short_help="Check a bundle, line by line.")(verify.command)
app.add_typer(cache.app, name="cache")
app.command("doctor", short_help="Check this machine and installation.")(doctor.command)
app.command("build-ext", short_help="Build the C++ and CUDA ops.")(build_ext.command)
app.command("demo", short_help="All of it on a generated shop.")(demo.command)
