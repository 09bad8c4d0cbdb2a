"""`foster sweep`: a table of interactions in; curves of one setting at a time out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.commands import options
from foster_cli.commands.options import DISTILL, MODEL, STUDENT, TRAIN
from foster_cli.commands.settings import AlphaOption, LoraOption, PoolingOption, opt
from foster_cli.evaluate.parameters import PARAMETERS

_OVER = (
    f"NAME=VALUES, one curve; repeatable. Names: {', '.join(PARAMETERS)}; or M, S, tau, lambda, T."
)  # fmt: skip


def command(
    data: options.Data,
    over: Annotated[list[str], typer.Option("--over", help=_OVER, show_default=False)],
    split: Annotated[str, opt("--split", "What the curves rank: valid, for choosing a setting, or test.")] = "valid",
    budget: Annotated[int, opt("--budget", "M, where it is not varied.")] = DISTILL.budget,
    seeds: options.Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW rates for training on a point's set; of several, validation chooses one.")
    ] = f"{STUDENT.lr:g}",
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; runs/<data>-sweep-b<budget> without it.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw sweep.png (needs foster-cli[plot]).")] = True,
    k: options.K = "10,20",
    length: options.Length = DISTILL.length,
    steps: Annotated[int, opt("--steps", "K, outer steps.")] = DISTILL.steps,
    draws: Annotated[int, opt("--draws", "Draws tried for the start.")] = DISTILL.draws,
    items_per_step: Annotated[str, opt("--items-per-step", "|S| in distillation, where it is not varied.")] = str(
        DISTILL.items_per_step
    ),
    inner_steps: Annotated[int, opt("--inner-steps", "T, where it is not varied.")] = DISTILL.inner_steps,
    reset_every: Annotated[int, opt("--reset-every", "tau, where it is not varied.")] = DISTILL.reset_every,
    dh_weight: Annotated[float, opt("--dh-weight", "lambda, where it is not varied.")] = DISTILL.dh_weight,
    encoder: options.Encoder = MODEL.encoder,
    pooling: PoolingOption = None,
    backbone: options.Backbone = MODEL.backbone,
    items: options.Items = MODEL.items,
    train_layers: options.TrainLayers = MODEL.train_layers,
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
    """See how much a setting matters on your data, and choose it (the paper's Figures 4 to 6).

    Distils at each value of one setting, all else at its default, and ranks the validation cases with fresh models,
    beside all the data and an untrained model. Points share one teacher; those with the same settings are made once.

    Writes sweep.png, sweep.csv and sweep.json into the folder. What is finished is kept there in cells/: after
    Ctrl-C, the same command goes on where it was, and values can be added.

    Example: foster sweep games.parquet --over budget=10,20,40 --over tau=25,50,100
    """
    import json as json_module
    import sys

    from foster_cli.commands import settings
    from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, choice
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.evaluate import plot as plotting
    from foster_cli.evaluate import sweep
    from foster_cli.evaluate.parameters import parse_over
    from foster_cli.evaluate.plan import Plan

    ranges = parse_over(over)
    choice("--split", split, ("valid", "test"))
    if plot:
        plotting.need_matplotlib()
    model = ModelConfig(
        encoder=encoder, train_layers=train_layers, width=width, precision=precision, backbone=backbone, items=items,
        pooling=pooling, lora=lora, lora_alpha=lora_alpha,
    )  # fmt: skip
    config = DistillConfig(
        budget=budget, length=length, steps=steps, draws=draws, inner_steps=inner_steps, reset_every=reset_every,
        dh_weight=dh_weight, items_per_step=settings.items_per_step("--items-per-step", items_per_step),
    )  # fmt: skip
    drawn = settings.items_per_step("--student-items", student_items)
    student, train = StudentConfig(steps=student_steps, items_per_step=drawn), TrainConfig(epochs=epochs)
    check_settings(model, train, config, student)
    variants = sweep.variants(ranges, config, student)
    grid, ks = settings.rates("--rates", rates), settings.numbers("--k", k)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    begun = options.begin(data, device, out, "sweep", budget, prepare)
    plan = Plan(
        begun.data, begun.paths, prepare, {"": model}, train, config, student, variants, grid, seeds, ks, begun.device,
        begun.out, cache, sweep.pairs([v.name for v in variants]), sweep.REFERENCES, split, False,
    )  # fmt: skip
    found = sweep.sweep(plan, ranges, begun.console)
    text = json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    sweep.write(found, text, begun.out, plot)
    if json:
        sys.stdout.write(text)
        return
    show(begun.console, found)
    begun.console.result(f"{begun.out}: {'sweep.png, ' if plot else ''}sweep.csv, sweep.json; bundles are in cells/")


def show(console: Any, found: dict[str, Any]) -> None:
    """A table for each curve, one for the references, the paired differences, for a person."""
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
