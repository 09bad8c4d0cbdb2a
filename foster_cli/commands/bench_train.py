"""`foster bench train`. In: bundles. Out: training time and metrics, on all the data and on each bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.from_settings import Asked, Moved, asks, opt


@asks("bench train", "device", "json")
def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="Bundles, for example one for each encoder.")],
    asked: Asked,
    data: Moved = None,
    seeds: Annotated[int, opt("--seeds", "Fresh models per row.", min=1)] = 1,
    limit: Annotated[
        float | None, opt("--limit", "Maximum seconds per row, start included; a slower row reports this.", min=1)
    ] = None,
    out: Annotated[Path, opt("--out", "Folder of the table and finished rows.")] = Path("runs/bench-train"),
) -> None:
    """Measure how long training takes on all the data and on a bundle, and what it gives (the paper's Table 6).

    Trains fresh models both ways, each in a separate process and without the cache, and ranks the test split with
    them over all items. The time is that of one model, with its validations.

    Writes bench.json, .csv and .md into the folder. Finished rows are cached in cells/: after Ctrl-C, the same command
    continues, and measures nothing twice.

    Example: foster bench train runs/games-foster-b20-1 runs/games-foster-b20-2 --out games-train
    """
    from foster_cli.bench.formats import TRAIN, Table, train_cells, train_csv
    from foster_cli.bench.train import TrainingBench, table
    from foster_cli.bundle import load
    from foster_cli.commands import shared

    session = asked.session()
    loaded = [load(path) for path in bundles]
    for b in loaded:
        shared.bundle_data(b, data)  # raises for other data before anything is trained
    paths = None if data is None else shared.absolute(data)
    title = f"time to train one model; R@10 and N@10 on the test split, all items ranked, means of {seeds}"
    with shared.bench_folder(out, "", session.console) as place:
        found = table(TrainingBench(loaded, paths, seeds, limit, session, place))
        shown = Table(title, TRAIN, train_cells(found), train_csv(found))
        shared.finish_bench(session.console, found, shown, place, asked.json)
