"""`foster bench distill`. In: a table of interactions. Out: seconds and memory of an outer step, by method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foster_cli.commands.from_settings import Asked, Data, asks, opt

_ROWS = "td3-all-last,foster-all-last,td3-few-last,foster-few-last,td3-few-all,foster-few-all"


@asks("bench distill", "device", "json")
def command(
    data: Data,
    asked: Asked,
    rows: Annotated[
        str, opt("--rows", f"Rows to measure, comma-separated; by default all: {_ROWS}.", show_default=False)
    ] = _ROWS,
    steps: Annotated[int, opt("--steps", "Outer steps to measure, after one that is not counted.", min=1)] = 3,
    limit: Annotated[
        float | None, opt("--limit", "Maximum seconds per row, start included; a slower row reports this.", min=1)
    ] = None,
    td3_steps: Annotated[
        int, opt("--td3-steps", "TD3's maximum inner steps; half of those before its window are run.", min=1)
    ] = 200,
    td3_window: Annotated[int, opt("--td3-window", "TD3's inner steps to differentiate through.", min=1)] = 40,
    out: Annotated[
        Path | None, opt("--out", "Folder of the table and finished rows; by default runs/<data>-bench-distill.")
    ] = None,
) -> None:
    """Measure seconds and peak memory of an outer step of TD3 and of FOSTER (the paper's Table 5).

    Six rows: over all items or few, with the encoder's last layer or all of its layers trained. Each row runs in a
    separate process, without any training before. A row that runs out of memory or time (--limit) reports this.

    Writes bench.json, .csv and .md into the folder. Finished rows are cached in cells/: after Ctrl-C, the same command
    continues, and measures nothing twice.

    Example: foster bench distill games.parquet --steps 3 --limit 600
    """
    from dataclasses import replace

    from foster_cli.baselines.td3 import TD3Config
    from foster_cli.bench.distill import ROWS, StepBench, table
    from foster_cli.bench.formats import DISTILL, Table, distill_cells, distill_csv
    from foster_cli.commands import shared
    from foster_cli.data.prepare import load_dataset
    from foster_cli.distill.checks import check_settings
    from foster_cli.errors import FosterError

    chosen, c = shared.names("--rows", rows, ROWS), asked.settings.distill
    if c.targets == "next":
        c = replace(c, mix=False, init="rollout")
    settings = replace(asked.settings, distill=c, paths=shared.absolute(data))
    check_settings(settings)
    if c.items_per_step is None:
        raise FosterError("--items-per-step all: the rows with few items need a number", "use for example 512")
    if td3_window > td3_steps:
        raise FosterError(
            f"--td3-steps {td3_steps}: fewer than --td3-window {td3_window}", "raise it, or lower the other"
        )
    session = asked.session()
    dataset = load_dataset(data, settings.prepare)
    own = TD3Config(inner_steps=td3_steps, window=td3_window)
    title = (
        f"{dataset.name}: {dataset.statistics['items']:,} items, M {c.budget}, L {c.length}, {c.real_batch} real "
        f"windows a step, TD3 with {(td3_steps - td3_window) // 2} and {td3_window} inner steps, FOSTER with "
        f"{c.inner_steps}; median of {steps}"
    )
    with shared.bench_folder(out, f"{dataset.name}-bench-distill", session.console) as place:
        found = table(StepBench(dataset, settings, own, steps, chosen, limit, session, place))
        shown = Table(title, DISTILL, distill_cells(found), distill_csv(found))
        shared.finish_bench(session.console, found, shown, place, asked.json)
