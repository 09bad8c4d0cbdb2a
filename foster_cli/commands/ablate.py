"""`foster ablate`: a table of interactions in; a table of the method with one part changed in each row out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foster_cli.commands import options
from foster_cli.commands.options import DISTILL, MODEL, STUDENT, TRAIN
from foster_cli.commands.settings import AlphaOption, LoraOption, PoolingOption, opt
from foster_cli.evaluate.rows import GROUPS, KINDS

_ROWS = f"Which, by comma: {', '.join(GROUPS)}, or of {', '.join(KINDS)}; NAME@LAYERS: with these layers alone."


def command(
    data: options.Data,
    rows: Annotated[str, opt("--rows", _ROWS)] = "table3,figure3",
    layers: Annotated[
        str, opt("--layers", "Layers of the text encoder that learn: some of none, last, all, or a number, by comma.")
    ] = MODEL.train_layers,
    budget: Annotated[int, opt("--budget", "M, synthetic sequences.")] = DISTILL.budget,
    seeds: options.Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW rates for training on a row's result; of several, validation chooses one.")
    ] = f"{STUDENT.lr:g}",
    split: Annotated[str, opt("--split", "What the table ranks: test, or valid while you still choose.")] = "test",
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; runs/<data>-ablate-b<budget> without it.")
    ] = None,
    k: options.K = "10,20",
    length: options.Length = DISTILL.length,
    steps: Annotated[int, opt("--steps", "K, outer steps.")] = DISTILL.steps,
    draws: Annotated[int, opt("--draws", "Draws tried for the start.")] = DISTILL.draws,
    items_per_step: Annotated[str, opt("--items-per-step", "|S| in distillation, or all.")] = str(
        DISTILL.items_per_step
    ),
    inner_steps: Annotated[int, opt("--inner-steps", "T, inner steps.")] = DISTILL.inner_steps,
    reset_every: Annotated[int, opt("--reset-every", "tau, outer steps between resets.")] = DISTILL.reset_every,
    dh_weight: Annotated[float, opt("--dh-weight", "lambda, weight of L_DH.")] = DISTILL.dh_weight,
    bilevel_steps: Annotated[
        int | None, opt("--bilevel-steps", "Most inner steps of the row bilevel; T without it.")
    ] = None,
    bilevel_window: Annotated[
        int | None, opt("--bilevel-window", "How many of them, the last ones, are differentiated; all without it.")
    ] = None,
    encoder: options.Encoder = MODEL.encoder,
    pooling: PoolingOption = None,
    backbone: options.Backbone = MODEL.backbone,
    items: options.Items = MODEL.items,
    lora: LoraOption = None,
    lora_alpha: AlphaOption = None,
    width: options.Width = None,
    precision: options.Precision = MODEL.precision,
    epochs: options.Epochs = TRAIN.epochs,
    student_steps: options.StudentSteps = STUDENT.steps,
    student_items: options.StudentItems = str(STUDENT.items_per_step),
    device: options.Device = "auto",
    cache: options.Cache = True,
    json: options.Json = False,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    time_column: options.TimeColumn = None,
    text_columns: options.TextColumns = None,
    split_column: options.SplitColumn = None,
    k_core: options.KCore = None,
) -> None:
    """Find out which part of the method does what on your data (the paper's Table 3 and Figure 3).

    Makes a bundle for each row: the default settings (row foster) with one thing changed. All with seed 0 and one
    teacher. Then ranks the held-out cases with fresh models, beside random real sequences, all the data, an untrained
    model, popularity and nearest texts. Gives 95 % intervals and paired differences.

    Writes ablate.json, .csv, .md and .tex and the bundles into the folder. What is finished is kept there in cells/:
    after Ctrl-C, the same command goes on where it was.

    Example: foster ablate games.parquet --rows table3,figure3,ours --budget 20
    """
    import json as json_module
    import sys

    from foster_cli.commands import settings
    from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, choice
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.errors import FosterError
    from foster_cli.evaluate import ablation
    from foster_cli.evaluate.formats import ABLATION, write_table
    from foster_cli.evaluate.plan import Plan
    from foster_cli.evaluate.rows import parse_layers, parse_rows

    picked = parse_rows(rows, parse_layers("--layers", layers))
    choice("--split", split, ("test", "valid"))
    model = ModelConfig(
        encoder=encoder, width=width, precision=precision, backbone=backbone, items=items, pooling=pooling, lora=lora,
        lora_alpha=lora_alpha,
    )  # fmt: skip
    config = DistillConfig(
        budget=budget, length=length, steps=steps, draws=draws, inner_steps=inner_steps, reset_every=reset_every,
        dh_weight=dh_weight, items_per_step=settings.items_per_step("--items-per-step", items_per_step),
    )  # fmt: skip
    drawn = settings.items_per_step("--student-items", student_items)
    student, train = StudentConfig(steps=student_steps, items_per_step=drawn), TrainConfig(epochs=epochs)
    models = ablation.models(picked, model)
    for each in models.values():
        if items == "id" and each.train_layers != "none":
            raise FosterError(f"--layers {layers}: --items id has no text encoder", "use --layers none")
        if lora is not None and items != "id" and each.train_layers == "none":
            raise FosterError(f"--lora {lora}: --layers {layers} has rows without any", "give numbers: --layers 2")
        check_settings(each, train, config, student)
    most = inner_steps if bilevel_steps is None else bilevel_steps
    window = most if bilevel_window is None else bilevel_window
    variants = ablation.variants(picked, config, student, (most, window))
    grid, ks = settings.rates("--rates", rates), settings.numbers("--k", k)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    begun = options.begin(data, device, out, "ablate", budget, prepare)
    plan = Plan(
        begun.data, begun.paths, prepare, models, train, config, student, variants, grid, seeds, ks, begun.device,
        begun.out, cache, ablation.pairs([v.name for v in variants]), split=split,
    )  # fmt: skip
    found = ablation.ablate(plan, begun.console)
    text = json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_table(found, text, begun.out, "ablate", ABLATION)
    if json:
        sys.stdout.write(text)
        return
    show(begun.console, found)
    begun.console.result(
        f"{begun.out}: ablate.json, ablate.csv, ablate.md, ablate.tex, and a bundle for each row that has one"
    )


def show(console: Any, found: dict[str, Any]) -> None:
    """What the rows are, the metrics, validation and costs, the paired differences, for a person."""
    from foster_cli.evaluate.formats import ABLATION, AXES, legend_rows, metrics, paired_rows, table_rows, title

    names, rows = metrics(found), table_rows(found, ABLATION)
    console.table("rows", ["", *[c.head for c in AXES], "what differs"], legend_rows(found))
    console.table(title(found), ["", *names], [row[: 1 + len(names)] for row in rows])
    console.table(
        "validation and costs", ["", *[c.head for c in ABLATION]], [[row[0], *row[1 + len(names) :]] for row in rows]
    )
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
