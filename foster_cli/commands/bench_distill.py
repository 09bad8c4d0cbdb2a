"""`foster bench distill`: a table of interactions in; seconds and memory of an outer step, by method, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.settings import DATA_HELP, opt
from foster_cli.config import DistillConfig, ModelConfig

_D, _M = DistillConfig(), ModelConfig()
_ROWS = "td3-all-last,foster-all-last,td3-few-last,foster-few-last,td3-few-all,foster-few-all"


def command(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help=DATA_HELP)],
    rows: Annotated[
        str, typer.Option("--rows", show_default=False, help=f"Which, by comma; all of them without it: {_ROWS}.")
    ] = _ROWS,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Outer steps measured, after one that is not.")] = 3,
    limit: Annotated[
        float | None, typer.Option("--limit", min=1, help="Most seconds of a row, starting included; it then says so.")
    ] = None,
    items_per_step: Annotated[
        int, typer.Option("--items-per-step", min=2, help="|S|, items drawn at each step in the rows with few.")
    ] = _D.items_per_step or 512,
    budget: Annotated[int, opt("--budget", "M, synthetic sequences.")] = _D.budget,
    length: Annotated[int, opt("--length", "L, positions of a sequence, real or synthetic.")] = _D.length,
    targets: Annotated[
        str, opt("--targets", "FOSTER's positions: own (goals of their own, mixed users) or next (as in the paper).")
    ] = _D.targets,
    real_batch: Annotated[
        int, typer.Option("--real-batch", min=1, help="Real windows of an outer step, of both methods.")
    ] = _D.real_batch,
    td3_steps: Annotated[
        int,
        typer.Option("--td3-steps", min=1, help="TD3's most inner steps; half of those before its window are made."),
    ] = 200,
    td3_window: Annotated[
        int, typer.Option("--td3-window", min=1, help="TD3's inner steps that are differentiated through.")
    ] = 40,
    encoder: Annotated[str, opt("--encoder", "minilm, tinybert, a folder or org/name.")] = _M.encoder,
    width: Annotated[int | None, opt("--width", "d, width of the recommender; the encoder's own without it.")] = None,
    device: Annotated[str, opt("--device", "cpu, cuda, cuda:N, mps or auto.")] = "auto",
    out: Annotated[
        Path | None, opt("--out", "Folder of the table and finished rows; runs/<data>-bench-distill without it.")
    ] = None,
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
    """Measure seconds and peak memory of an outer step of TD3 and of FOSTER (the paper's Table 5).

    Six rows: over all items or few, the encoder's last layer or all of them learning. Each runs in a process of its
    own. One that runs out of memory, or past --limit, says so in its place. Nothing is trained before.

    Writes bench.json, .csv and .md into the folder. Finished rows are kept in cells/: the same command goes on after
    Ctrl-C, and measures nothing twice.

    Example: foster bench distill games.parquet --steps 3 --limit 600
    """
    from dataclasses import replace

    from foster_cli.baselines.td3 import TD3Config
    from foster_cli.bench.distill import ROWS, Plan, table
    from foster_cli.bench.formats import DISTILL, distill_cells, distill_csv
    from foster_cli.commands import settings
    from foster_cli.commands.bench import finish, folder
    from foster_cli.commands.common import note_ops
    from foster_cli.config import StudentConfig, TrainConfig, choice
    from foster_cli.console import Console
    from foster_cli.data.prepare import load_dataset
    from foster_cli.distill.pipeline import check_settings
    from foster_cli.errors import FosterError
    from foster_cli.runtime import pick_device

    chosen = settings.names("--rows", rows, tuple(ROWS))
    model = ModelConfig(encoder=encoder, width=width)
    config = DistillConfig(budget=budget, length=length, items_per_step=items_per_step, real_batch=real_batch)
    if choice("--targets", targets, ("own", "next")) == "next":
        config = replace(config, targets="next", mix=False, init="rollout")
    check_settings(model, TrainConfig(), config, StudentConfig())
    if td3_window > td3_steps:
        raise FosterError(
            f"--td3-steps {td3_steps}: fewer than --td3-window {td3_window}", "raise it, or lower the other"
        )
    where = pick_device(device)
    console = Console()  # its lines go to stderr; stdout is for the table, or the JSON
    note_ops(console, where)
    prepare = settings.prepare_settings(user_column, item_column, time_column, text_columns, split_column, k_core)
    dataset = load_dataset(data, prepare)
    place = folder(out, f"{dataset.name}-bench-distill", console)
    plan = Plan(
        dataset, settings.absolute(data), prepare, model, config, TD3Config(inner_steps=td3_steps, window=td3_window),
        steps, chosen, limit, where, place,
    )  # fmt: skip
    found = table(plan, console)
    s = found["data"]["statistics"]
    title = (
        f"{dataset.name}: {s['items']:,} items, M {budget}, L {length}, {real_batch} real windows a step, TD3 with "
        f"{(td3_steps - td3_window) // 2} and {td3_window} inner steps, FOSTER with {config.inner_steps}; "
        f"median of {steps}"
    )
    finish(console, found, title, DISTILL, distill_cells(found), distill_csv(found), place, json)
