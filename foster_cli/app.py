"""The Typer app: one command per file in `commands/`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from foster_cli.commands import (
    ablate,
    bench_distill,
    bench_train,
    build_ext,
    cache,
    compare,
    demo,
    distill,
    doctor,
    eval,
    export,
    preprocess,
    rank,
    report,
    sample,
    sweep,
    tune,
    verify,
)
from foster_cli.commands.from_settings import Grouped, with_home
from foster_cli.version import __version__

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


bench = typer.Typer(help="Measure what distilling and training take here.", no_args_is_help=True, rich_markup_mode=None)
for _app, _name, _command, _help in (
    (app, "preprocess", preprocess.command, "Turn raw tables into one prepared file."),
    (app, "sample", sample.command, "Generate a shop to try foster on."),
    (app, "distill", distill.command, None),
    (app, "eval", eval.command, "Compare the synthetic set with baselines."),
    (app, "export", export.command, "Write the sequences for other programs."),
    (app, "rank", rank.command, "Which configuration of the recommender is best, in seconds."),
    (app, "report", report.command, "One HTML page about a bundle."),
    (app, "compare", compare.command, "Which way of shrinking is best on your data."),
    (app, "ablate", ablate.command, "Which part of the method does what."),
    (app, "sweep", sweep.command, "How much a setting matters, as curves."),
    (app, "tune", tune.command, "Choose the settings of a distillation."),
    (app, "verify", verify.command, "Check a bundle, line by line."),
    (app, "doctor", doctor.command, "Check this machine and installation."),
    (app, "build-ext", build_ext.command, "Build the C++ and CUDA ops."),
    (app, "demo", demo.command, "All of it on a generated shop."),
    (bench, "distill", bench_distill.command, "Seconds and memory of an outer step: TD3 and FOSTER."),
    (bench, "train", bench_train.command, "Time to train on all the data and on a bundle."),
):
    _app.command(_name, short_help=_help, cls=Grouped)(with_home(_command))
app.add_typer(bench, name="bench")
app.add_typer(cache.app, name="cache")
