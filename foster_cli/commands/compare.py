"""`foster compare`: a table of interactions in; ways of shrinking it, measured side by side, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foster_cli.baselines import METHODS
from foster_cli.commands.settings import DATA_HELP, AlphaOption, LoraOption, PoolingOption, opt
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig

_D, _M, _T, _S = DistillConfig(), ModelConfig(), TrainConfig(), StudentConfig()
#: All but the one that needs minutes for each outer step.
_DEFAULT = ",".join(name for name in METHODS if name != "td3")


def command(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help=DATA_HELP)],
    methods: Annotated[str, opt("--methods", f"Which, by comma: {', '.join(METHODS)}.")] = _DEFAULT,
    budget: Annotated[int, opt("--budget", "M, sequences that each method makes or chooses.")] = _D.budget,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh models per trained row.")] = 3,
    rates: Annotated[
        str, opt("--rates", "AdamW rates for training on a method's result; validation chooses one.")
    ] = "3e-4,1e-3,3e-3",
    out: Annotated[
        Path | None, opt("--out", "Folder of results and finished cells; runs/<data>-compare-b<budget> without it.")
    ] = None,
    k: Annotated[str, opt("--k", "Cut-offs of R@k and N@k.")] = "10,20",
    length: Annotated[int, opt("--length", "L, positions of a sequence, real or synthetic.")] = _D.length,
    steps: Annotated[int, opt("--steps", "K, outer steps of foster and td3.")] = _D.steps,
    draws: Annotated[int, opt("--draws", "Draws tried for the start of foster and rollout.")] = _D.draws,
    encoder: Annotated[
        str, opt("--encoder", "minilm, tinybert, a folder or org/name: a text encoder or a causal LM.")
    ] = _M.encoder,
    pooling: PoolingOption = None,
    backbone: Annotated[
        str, opt("--backbone", "The sequence model: sasrec, gru4rec, bert4rec, narm or hstu.")
    ] = _M.backbone,
    items: Annotated[str, opt("--items", "What an item is known by: text, or id.")] = _M.items,
    train_layers: Annotated[
        str, opt("--train-layers", "all, a number of top layers, or none (a linear head learns).")
    ] = _M.train_layers,
    lora: LoraOption = None,
    lora_alpha: AlphaOption = None,
    width: Annotated[int | None, opt("--width", "d, width of the recommender; the encoder's own without it.")] = None,
    precision: Annotated[str, opt("--precision", "fp32, or bf16 for the encoder's layers that learn.")] = _M.precision,
    epochs: Annotated[int, opt("--epochs", "Most epochs on the full data; stops early on validation.")] = _T.epochs,
    student_steps: Annotated[int, opt("--student-steps", "Most steps of training on a synthetic set.")] = _S.steps,
    student_items: Annotated[str, opt("--student-items", "Items drawn at each of these steps, or all.")] = str(
        _S.items_per_step
    ),
    device: Annotated[str, opt("--device", "cpu, cuda, cuda:N, mps or auto.")] = "auto",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Share one teacher; without, every method trains its own.")
    ] = True,
    json: Annotated[bool, opt("--json", "Print JSON instead of the table.")] = False,
    user_column: Annotated[str | None, opt("--user-column", "Column of user ids.")] = None,
    item_column: Annotated[str | None, opt("--item-column", "Column of item ids.")] = None,
    time_column: Annotated[str | None, opt("--time-column", "Column of times.")] = None,
    text_columns: Annotated[str | None, opt("--text-columns", "Columns of the item texts: A,B.")] = None,
    split_column: Annotated[str | None, opt("--split-column", "Column of train/valid/test; none: by time.")] = None,
    k_core: Annotated[
        int | None,
        opt("--k-core", "Keep users and items with this many interactions; 5, or 1 where the table brings a split."),
    ] = None,
) -> None:
    """Find out which way of shrinking a dataset is best on yours.

    Makes a bundle by each method (seed 0, one teacher), chooses on validation the rate to train on it, and ranks
    the test split once with fresh models, beside all the data, an untrained model, popularity and nearest texts.

    Writes compare.json, .csv, .md and .tex and the bundles into the folder. What is finished is kept there in
    cells/: after Ctrl-C, the same command goes on where it was.

    Example: foster compare games.parquet --methods foster,random,kcenter --budget 20
    """
    import json as json_module
    import sys

    from foster_cli.commands import settings
    from foster_cli.commands.common import RUNS, note_ops, safe_name
    from foster_cli.console import Console
    from foster_cli.data.prepare import load_dataset
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.errors import FosterError
    from foster_cli.evaluate.table import Plan, compare_methods
    from foster_cli.runtime import pick_device

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
    if out is not None and out.exists() and not out.is_dir():
        raise FosterError(f"--out {out}: is a file", "give the name of a folder")
    where = pick_device(device)
    console = Console()  # its lines go to stderr; stdout is for the table, or the JSON
    note_ops(console, where)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    dataset = load_dataset(data, prepare)
    out = out or RUNS / f"{safe_name(dataset.name)}-compare-b{budget}"
    plan = Plan(
        dataset, settings.absolute(data), prepare, model, train, config, student, chosen, grid, seeds, ks, where, out,
        cache,
    )  # fmt: skip
    console.note(f"finished cells are kept in {out / 'cells'}; the same command goes on from there")
    found = compare_methods(plan, console)
    text = json_module.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write(found, text, out)
    if json:
        sys.stdout.write(text)
        return
    show(console, found)
    console.result(f"{out}: compare.json, compare.csv, compare.md, compare.tex, and a bundle for each method")


def write(found: dict[str, Any], text: str, out: Path) -> None:
    """compare.json (`text`), .csv, .md and .tex, each whole or not at all."""
    from foster_cli.evaluate.formats import to_csv, to_md, to_tex
    from foster_cli.runtime import writing

    texts = {"json": text, "csv": to_csv(found), "md": to_md(found), "tex": to_tex(found)}
    for ending, content in texts.items():
        with writing(out / f"compare.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")


def show(console: Any, found: dict[str, Any]) -> None:
    """The metrics, the costs and the paired differences, for a person."""
    from foster_cli.evaluate.formats import COSTS, metrics, paired_rows, table_rows, title

    names, rows = metrics(found), table_rows(found)
    console.table(title(found), ["", *names], [row[: 1 + len(names)] for row in rows])
    console.table("costs", ["", *COSTS], [[row[0], *row[1 + len(names) :]] for row in rows])
    console.table("paired differences, 95 % intervals", ["", *names], paired_rows(found))
