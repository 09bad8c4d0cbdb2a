"""`foster ablate`. In: a table of interactions. Out: a table whose rows each change one part of the method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foster_cli.commands.from_settings import Asked, Data, Force, K, Seeds, asks, opt
from foster_cli.evaluate.ablation_rows import GROUPS, KINDS
from foster_cli.settings import ModelConfig, StudentConfig

_ROWS = f"Comma-separated: {', '.join(GROUPS)} (groups), {', '.join(KINDS)}; NAME@LAYERS: only with these layers."


@asks("ablate", "device", "cache", "json")
def command(
    data: Data,
    asked: Asked,
    rows: Annotated[str, opt("--rows", _ROWS)] = "table3,figure3",
    layers: Annotated[
        str, opt("--layers", "Encoder layers to train: none, last, all or a number; comma-separated, rows for each.")
    ] = ModelConfig.train_layers,
    seeds: Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW learning rates for training on a row's result; of several, validation chooses one.")
    ] = f"{StudentConfig.lr:g}",
    split: Annotated[str, opt("--split", "Cases to rank: test, or valid while you still choose settings.")] = "test",
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; by default runs/<data>-ablate-b<budget>.")
    ] = None,
    force: Force = False,
    k: K = "10,20",
    bilevel_steps: Annotated[
        int | None, opt("--bilevel-steps", "Maximum inner steps of the row bilevel; by default T.")
    ] = None,
    bilevel_window: Annotated[
        int | None, opt("--bilevel-window", "How many of the last of these steps to differentiate; by default all.")
    ] = None,
) -> None:
    """Find out which part of the method does what on your data (the paper's Table 3 and Figure 3).

    Makes a bundle for each row: the default settings (row foster) with one thing changed. All rows share seed 0 and
    one teacher. Then ranks the held-out cases with fresh models, beside baselines: random real sequences, all the
    data, an untrained model, the teacher's item embeddings alone, item kNN without and with titles, popularity,
    nearest texts. Gives 95 % intervals and paired differences: of rows that change a part of Algorithm 2 from the
    row bome if there is one, of others from foster.

    Writes ablate.json, .csv, .md and .tex and the bundles into the folder. Finished work is cached there in cells/:
    after Ctrl-C, the same command continues.

    Example: foster ablate games.parquet --rows table3,figure3,ours --budget 20
    """
    from dataclasses import replace

    from foster_cli.commands import shared
    from foster_cli.distill.checks import check_settings
    from foster_cli.errors import FosterError
    from foster_cli.evaluate import ablation
    from foster_cli.evaluate.ablation_rows import parse_layers, parse_rows
    from foster_cli.evaluate.formats import ABLATION, write_table
    from foster_cli.evaluate.plan import Comparison
    from foster_cli.settings import choice

    picked = parse_rows(rows, parse_layers("--layers", layers))
    choice("--split", split, ("test", "valid"))
    settings = asked.settings
    models = ablation.models(picked, settings.model)
    for model in models:
        if model.items == "id" and model.train_layers != "none":
            raise FosterError(f"--layers {layers}: --items id has no text encoder", "use --layers none")
        if model.lora is not None and model.items != "id" and model.train_layers == "none":
            raise FosterError(
                f"--lora {model.lora}: --layers {layers} has rows without any", "give numbers: --layers 2"
            )
        check_settings(replace(settings, model=model))
    most = settings.distill.inner_steps if bilevel_steps is None else bilevel_steps
    bilevel = (most, most if bilevel_window is None else bilevel_window)
    ablation.variants(picked, settings, bilevel)  # reports invalid rows before the data are read
    grid, ks = shared.rates("--rates", rates), shared.numbers("--k", k)
    with shared.begin(data, asked, out, "ablate", force) as begun:
        models = ablation.models(picked, begun.settings.model)  # with what validation chose
        variants = ablation.variants(picked, begun.settings, bilevel)
        plan = Comparison(
            begun.data, begun.settings, variants, grid, seeds, ks, begun.session, begun.out,
            ablation.pairs([v.name for v in variants]), models, ablation.COMMON, split,
        )  # fmt: skip
        found = ablation.ablate(plan)
        write_table(found, shared.as_json(found), begun.out, "ablate", ABLATION)
    if asked.json:
        shared.print_json(found)
        return
    show(begun.session.console, found)
    begun.session.console.result(
        f"{begun.out}: ablate.json, ablate.csv, ablate.md, ablate.tex, and a bundle for each row that has one"
    )


def show(console: Any, found: dict[str, Any]) -> None:
    """Print the rows' settings, the metrics, validation and costs, and the paired differences as tables."""
    from foster_cli.evaluate.formats import ABLATION, AXES, legend_rows, metrics, paired_rows, table_rows, title

    names, rows = metrics(found), table_rows(found, ABLATION)
    console.table("rows", ["", *[c.head for c in AXES], "what differs"], legend_rows(found))
    console.table(title(found), ["", *names], [row[: 1 + len(names)] for row in rows])
    console.table(
        "validation and costs", ["", *[c.head for c in ABLATION]], [[row[0], *row[1 + len(names) :]] for row in rows]
    )
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
