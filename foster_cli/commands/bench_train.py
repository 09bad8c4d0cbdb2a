"""`foster bench train`: bundles in; training time and metrics, on all the data and on the set, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.settings import opt


def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="Bundles, for example one for each encoder.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="The data they were distilled from, if it has moved (repeatable)."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh models per row.")] = 1,
    limit: Annotated[
        float | None, typer.Option("--limit", min=1, help="Most seconds of a row, starting included; it then says so.")
    ] = None,
    device: Annotated[str, opt("--device", "cpu, cuda, cuda:N, mps or auto.")] = "auto",
    out: Annotated[Path, opt("--out", "Folder of the table and finished rows.")] = Path("runs/bench-train"),
    json: Annotated[bool, opt("--json", "Print JSON instead of the table.")] = False,
) -> None:
    """Measure how long training takes on all the data and on a bundle, and what it gives (the paper's Table 6).

    Fresh models are trained both ways, each in a process of its own and none from the cache, and ranked on the test
    split over all items. Time is that of one model, its validations included.

    Writes bench.json, .csv and .md into the folder. Finished rows are kept in cells/: the same command goes on after
    Ctrl-C, and measures nothing twice.

    Example: foster bench train runs/games-foster-b20-1 runs/games-foster-b20-2 --out games-train
    """
    from foster_cli.bench.formats import TRAIN, train_cells, train_csv
    from foster_cli.bench.train import Plan, table
    from foster_cli.bundle import load
    from foster_cli.commands.bench import finish, folder
    from foster_cli.commands.common import bundle_data, note_ops
    from foster_cli.commands.settings import absolute
    from foster_cli.console import Console
    from foster_cli.runtime import pick_device

    where = pick_device(device)
    console = Console()  # its lines go to stderr; stdout is for the table, or the JSON
    note_ops(console, where)
    loaded = [load(path) for path in bundles]
    for b in loaded:
        bundle_data(b, data)  # the data of each, and no other: said before anything is trained
    place = folder(out, "", console)
    plan = Plan(loaded, None if data is None else absolute(data), seeds, limit, where, place)
    found = table(plan, console)
    title = f"time to train one model; R@10 and N@10 on the test split, all items ranked, means of {seeds}"
    finish(console, found, title, TRAIN, train_cells(found), train_csv(found), place, json)
