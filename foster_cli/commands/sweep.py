"""`foster sweep`. In: a table of interactions. Out: curves of the metrics over one setting each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands.from_settings import Asked, Data, Force, K, Seeds, asks, opt
from foster_cli.evaluate.parameters import PARAMETERS
from foster_cli.settings import StudentConfig

_OVER = f"One curve as NAME=VALUES; repeatable. Names: {', '.join(PARAMETERS)}; or M, S, tau, lambda, T."


@asks("sweep", "device", "cache", "json")
def command(
    data: Data,
    over: Annotated[list[str], opt("--over", _OVER, show_default=False)],
    asked: Asked,
    split: Annotated[str, opt("--split", "Cases to rank: valid, to choose a setting, or test, at the end.")] = "valid",
    seeds: Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW learning rates for training on a point's set; of several, validation chooses one.")
    ] = f"{StudentConfig.lr:g}",
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; by default runs/<data>-sweep-b<budget>.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw sweep.png (needs foster-cli[plot]).")] = True,
    force: Force = False,
    k: K = "10,20",
) -> None:
    """See how much a setting matters on your data, and choose it (the paper's Figures 4 to 6).

    Distils at each value of one setting, with all others as given. Ranks the validation cases with fresh models,
    beside all the data and an untrained model. Points share one teacher; those with the same settings are made once.

    Writes sweep.png, sweep.csv and sweep.json into the folder. Finished work is cached there in cells/: after
    Ctrl-C, the same command continues, and values can be added.

    Example: foster sweep games.parquet --over budget=10,20,40 --over tau=25,50,100
    """
    from foster_cli.commands import shared
    from foster_cli.distill.checks import check_settings
    from foster_cli.evaluate import plot as plotting
    from foster_cli.evaluate import sweep
    from foster_cli.evaluate.parameters import parse_over
    from foster_cli.evaluate.plan import Comparison
    from foster_cli.settings import choice

    ranges = parse_over(over)
    choice("--split", split, ("valid", "test"))
    if plot:
        plotting.need_matplotlib()
    check_settings(asked.settings)
    grid, ks = shared.rates("--rates", rates), shared.numbers("--k", k)
    with shared.begin(data, asked, out, "sweep", force) as begun:
        variants = sweep.variants(ranges, begun.settings)
        plan = Comparison(
            begun.data, begun.settings, variants, grid, seeds, ks, begun.session, begun.out,
            sweep.pairs([v.name for v in variants]), common=sweep.REFERENCES, split=split, publish=False,
        )  # fmt: skip
        found = sweep.sweep(plan, ranges)
        sweep.write(found, shared.as_json(found), begun.out, plot)
    if asked.json:
        shared.print_json(found)
        return
    console = begun.session.console
    show(console, found)
    console.result(f"{begun.out}: {'sweep.png, ' if plot else ''}sweep.csv, sweep.json; bundles are in cells/")


def show(console: Any, found: dict[str, Any]) -> None:
    """Print a table for each curve, one for the references, and the paired differences."""
    from foster_cli.console import clean
    from foster_cli.evaluate.formats import interval, metrics, paired_rows, ranked_words
    from foster_cli.evaluate.sweep import DEFAULT, REFERENCES

    names, rows = metrics(found), found["rows"]
    console.result(f"{clean(found['data']['name'])}: {ranked_words(found)}")
    for curve in found["curves"]:
        lines = []
        for p in curve["points"]:
            row, mark = rows[p["row"]], " (default)" if p["row"] == DEFAULT else ""
            lines.append([p["value"] + mark, *[interval(row[m]) for m in names], str(row["best_step"])])
        console.table(f"{curve['parameter']}: {curve['text']}", ["", *names, "kept step"], lines)
    beside = [[name, *[interval(rows[name][m]) for m in names]] for name in REFERENCES]
    console.table("beside them", ["", *names], beside)
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
