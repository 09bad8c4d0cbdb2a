"""`foster compare`. In: a table of interactions. Out: a table that compares methods of shrinking it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foster_cli.baselines import METHODS
from foster_cli.commands.from_settings import Asked, Data, Force, K, Seeds, asks, opt

#: All methods except the one that needs more than an hour on one core.
_DEFAULT = ",".join(name for name in METHODS if name != "td3")


@asks("compare", "device", "cache", "json")
def command(
    data: Data,
    asked: Asked,
    methods: Annotated[str, opt("--methods", f"Comma-separated: {', '.join(METHODS)}.")] = _DEFAULT,
    seeds: Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW learning rates to try for training on a method's result; validation chooses one.")
    ] = "3e-4,1e-3,3e-3",
    full_rates: Annotated[
        str | None, opt("--full-rates", "Learning rates to try on all the data, one training each; by default --rates.")
    ] = None,
    rows: Annotated[
        str | None,
        opt("--rows", "Rows beside the methods: A,B or all; by default all but id, a model without texts."),
    ] = None,
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; by default runs/<data>-compare-b<budget>.")
    ] = None,
    force: Force = False,
    k: K = "10,20",
) -> None:
    """Find out which way of shrinking a dataset is best on yours.

    Makes a bundle by each method (seed 0, one teacher). Chooses on validation the learning rate for training on each
    bundle and on all the data. Then ranks the test split once with fresh models of each, beside rows that no method
    decides: those of `foster eval` from full on (random is a method).

    Writes compare.json, .csv, .md and .tex and the bundles into the folder. Finished work is cached there in cells/:
    after Ctrl-C, the same command continues.

    Example: foster compare games.parquet --methods foster,random,kcenter --budget 20
    """
    from foster_cli.commands import shared
    from foster_cli.distill.checks import check_settings
    from foster_cli.evaluate import compare
    from foster_cli.evaluate.formats import write_table
    from foster_cli.evaluate.plan import ROWS, Comparison, method_variant
    from foster_cli.evaluate.references import asked_rows

    chosen, common = shared.names("--methods", methods, METHODS), asked_rows(rows, ROWS)
    check_settings(asked.settings)
    grid, ks = shared.rates("--rates", rates), shared.numbers("--k", k)
    full_grid = grid if full_rates is None else shared.rates("--full-rates", full_rates)
    with shared.begin(data, asked, out, "compare", force) as begun:
        variants = tuple(method_variant(name, begun.settings) for name in chosen)
        plan = Comparison(
            begun.data, begun.settings, variants, grid, seeds, ks, begun.session, begun.out, compare.pairs(chosen),
            common=common, full_rates=full_grid,
        )  # fmt: skip
        found = compare.compare_methods(plan)
        write_table(found, shared.as_json(found), begun.out, "compare")
    if asked.json:
        shared.print_json(found)
        return
    show(begun.session.console, found)
    begun.session.console.result(
        f"{begun.out}: compare.json, compare.csv, compare.md, compare.tex, and a bundle for each method"
    )


def show(console: Any, found: dict[str, Any]) -> None:
    """Print the metrics, the costs and the paired differences as tables."""
    from foster_cli.evaluate.formats import COSTS, metrics, nothing_learned, paired_rows, table_rows, title

    names, rows = metrics(found), table_rows(found)
    console.table(title(found), ["", *names], [row[: 1 + len(names)] for row in rows])
    if said := nothing_learned(found["rows"], names):
        console.result(said)
    console.table("costs", ["", *[c.head for c in COSTS]], [[row[0], *row[1 + len(names) :]] for row in rows])
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
