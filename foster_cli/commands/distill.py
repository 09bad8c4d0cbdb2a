"""`foster distill`. In: a table of interactions. Out: a bundle with a few synthetic sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.baselines import METHODS
from foster_cli.commands.from_settings import DATA_HELP, Asked, Force, SettingsFile, asks, opt

_METHODS = "; ".join(f"{m.name}: {m.description}" for m in METHODS.values())


@asks("distill", "device", "cache", "json")
def command(
    asked: Asked,
    data: Annotated[list[Path] | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    method: Annotated[str, opt("--method", f"How sequences are made or chosen. {_METHODS}.")] = "foster",
    out: Annotated[Path | None, opt("--out", "Bundle to write; by default runs/<data>-<method>-b<budget>-<n>.")] = None,
    resume: Annotated[
        Path | None, opt("--resume", "Continue the interrupted run of this bundle, with the same numbers.")
    ] = None,
    extend: Annotated[int | None, opt("--extend", "With --resume of a finished bundle: outer steps to add.")] = None,
    force: Force = False,
    settings: SettingsFile = None,
    live: Annotated[
        bool, typer.Option("--live", help="Draw losses, validation and time left on the terminal.")
    ] = False,
    tensorboard: Annotated[
        Path | None, opt("--tensorboard", "Folder for TensorBoard's event files (needs tensorboard).")
    ] = None,
) -> None:
    """Distil a dataset into a few synthetic sequences.

    D~ is the synthetic set, phi a recommender, S a subset of the items.

    Trains a recommender on all of DATA and caches it. Then makes M sequences of item distributions on which a fresh
    recommender learns as much, and writes them as a bundle. Other values of --method are for comparison: M real
    sequences (a coreset), the starting point only (rollout), or TD3's set (over all items, or --items-per-step).

    During the run its state is stored beside the bundle in BUNDLE.run. After Ctrl-C, a crash or a full disk,
    foster distill --resume BUNDLE continues it, without DATA or options. If the data were moved, DATA names them.

    Example: foster distill games.parquet --budget 20
    """
    from foster_cli.commands.run import Request, check, started
    from foster_cli.report.live import watching
    from foster_cli.report.tensorboard import check_tensorboard, recording

    asked = check(asked, method, settings)
    if tensorboard is not None:
        check_tensorboard()
    run = started(Request(asked, data or [], out, resume, extend, force))
    if run is None:
        return
    with recording(run.session.console, tensorboard), watching(live, run.settings, run.data, run.session):
        metrics = run.make()
    run.show(metrics)
