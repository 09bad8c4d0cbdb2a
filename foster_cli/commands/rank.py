"""`foster rank`. In: a bundle and configurations of the recommender. Out: which is likely the best, after seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.from_settings import Asked, Force, Moved, asks, opt
from foster_cli.errors import FosterError


@asks("rank", "device", "cache", "json")
def command(
    asked: Asked,
    configs: Annotated[
        Path,
        opt("--configs", "Configurations: a JSON list of objects, or an object on each line.", show_default=False),
    ],
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="The bundle; the newest in ./runs without it.", show_default=False),
    ] = None,
    data: Moved = None,
    seeds: Annotated[int, opt("--seeds", "Fresh models per configuration; more narrow the intervals.", min=1)] = 3,
    full: Annotated[
        bool, opt("--full", "Also train each on all the data, and say how far the two rankings agree. Slow.")
    ] = False,
    out: Annotated[
        Path | None, opt("--out", "Folder of the ranking and finished models; by default runs/<bundle>-rank.")
    ] = None,
    force: Force = False,
) -> None:
    """Rank configurations of the recommender by training each on the synthetic set, in seconds instead of minutes.

    Each configuration lays settings over those of the bundle: {"name": "wide", "model": {"backbone": "gru4rec",
    "width": 128}, "student": {"lr": 0.002}}. Its fresh models train as in foster eval and rank the validation cases
    (at most 4,096). The table has R@10 and N@10 with 95 % intervals over users and seeds, and the share of bootstrap
    resamples in which a configuration is the best. The test split is not read.

    Writes rank.json and rank.csv into the folder. Finished models are cached there in cells/: after Ctrl-C, the same
    command continues, and configurations can be added.

    Example: foster rank runs/games-foster-b20-1 --configs configs.json
    """
    from foster_cli.bundle import load
    from foster_cli.commands import shared
    from foster_cli.evaluate.rank.configs import read_configs
    from foster_cli.evaluate.rank.formats import cells, heads, sentences, title, write
    from foster_cli.evaluate.rank.run import RankPlan, rank
    from foster_cli.files import alone

    session = asked.session()
    loaded = load(shared.resolve_bundle(bundle, session.console))
    wanted = read_configs(configs, loaded, full)
    dataset = shared.bundle_data(loaded, data)
    place = out or shared.RUNS / f"{shared.safe_name(loaded.path.resolve().name)}-rank"
    if place.exists() and not place.is_dir():
        raise FosterError(f"--out {place}: is a file", "give the name of a folder")
    session.console.note(f"finished work is kept in {place}; the same command continues from there")
    shared.check_continues(place, "rank", dataset.hash, force)
    with alone(place, "foster rank"):
        found = rank(RankPlan(loaded, dataset, wanted, seeds, full, session, place))
        write(found, shared.as_json(found), place)
    if asked.json:
        shared.print_json(found)
        return
    session.console.table(title(found), heads(found), cells(found))
    for line in sentences(found):
        session.console.result(line)
    session.console.result(f"{place}: rank.json, rank.csv")
