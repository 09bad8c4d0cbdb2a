"""`foster compare`: a table of interactions in; ways of shrinking it, measured side by side, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foster_cli.baselines import METHODS
from foster_cli.commands import options
from foster_cli.commands.options import DISTILL, MODEL, STUDENT, TRAIN
from foster_cli.commands.settings import AlphaOption, LoraOption, PoolingOption, opt

#: All but the one that needs more than an hour on one core.
_DEFAULT = ",".join(name for name in METHODS if name != "td3")


def command(
    data: options.Data,
    methods: Annotated[str, opt("--methods", f"Which, by comma: {', '.join(METHODS)}.")] = _DEFAULT,
    budget: Annotated[int, opt("--budget", "M, sequences that each method makes or chooses.")] = DISTILL.budget,
    seeds: options.Seeds = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW rates for training on a method's result; validation chooses one.")
    ] = "3e-4,1e-3,3e-3",
    full_rates: Annotated[
        str | None, opt("--full-rates", "The same for all the data, by one training each; those of --rates without it.")
    ] = None,
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; runs/<data>-compare-b<budget> without it.")
    ] = None,
    k: options.K = "10,20",
    length: options.Length = DISTILL.length,
    steps: Annotated[int, opt("--steps", "K, outer steps of foster and td3.")] = DISTILL.steps,
    draws: Annotated[int, opt("--draws", "Draws tried for the start of foster and rollout.")] = DISTILL.draws,
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
    """Find out which way of shrinking a dataset is best on yours.

    Makes a bundle by each method (seed 0, one teacher), chooses on validation the rate to train on it, and that for
    all the data, and ranks the test split once with fresh models of each, beside an untrained model, popularity and
    nearest texts.

    Writes compare.json, .csv, .md and .tex and the bundles into the folder. What is finished is kept there in
    cells/: after Ctrl-C, the same command goes on where it was.

    Example: foster compare games.parquet --methods foster,random,kcenter --budget 20
    """
    import json as json_module
    import sys

    from foster_cli.commands import settings
    from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.evaluate import table
    from foster_cli.evaluate.formats import write_table
    from foster_cli.evaluate.plan import Plan, method_variant

    chosen = settings.names("--methods", methods, tuple(METHODS))
    model = ModelConfig(
        encoder=encoder, train_layers=train_layers, width=width, precision=precision, backbone=backbone, items=items,
        pooling=pooling, lora=lora, lora_alpha=lora_alpha,
    )  # fmt: skip
    train = TrainConfig(epochs=epochs)
    config = DistillConfig(budget=budget, length=length, steps=steps, draws=draws)
    student = StudentConfig(
        steps=student_steps, items_per_step=settings.items_per_step("--student-items", student_items)
    )
    check_settings(model, train, config, student)
    grid, ks = settings.rates("--rates", rates), settings.numbers("--k", k)
    full_grid = grid if full_rates is None else settings.rates("--full-rates", full_rates)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    begun = options.begin(data, device, out, "compare", budget, prepare)
    plan = Plan(
        begun.data, begun.paths, prepare, {"": model}, train, config, student,
        tuple(method_variant(name, config, student) for name in chosen), grid, seeds, ks, begun.device, begun.out,
        cache, table.pairs(chosen), full_rates=full_grid,
    )  # fmt: skip
    found = table.compare_methods(plan, begun.console)
    text = json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_table(found, text, begun.out, "compare")
    if json:
        sys.stdout.write(text)
        return
    show(begun.console, found)
    begun.console.result(
        f"{begun.out}: compare.json, compare.csv, compare.md, compare.tex, and a bundle for each method"
    )


def show(console: Any, found: dict[str, Any]) -> None:
    """The metrics, the costs and the paired differences, for a person."""
    from foster_cli.evaluate.formats import COSTS, metrics, paired_rows, table_rows, title

    names, rows = metrics(found), table_rows(found)
    console.table(title(found), ["", *names], [row[: 1 + len(names)] for row in rows])
    console.table("costs", ["", *[c.head for c in COSTS]], [[row[0], *row[1 + len(names) :]] for row in rows])
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
