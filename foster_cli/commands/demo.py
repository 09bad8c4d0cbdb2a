"""`foster demo`: all steps on generated data: sample, distill, eval, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: The rows of its table. Those that train longest are left out (`text`, `id`, `synthetic_text`, `without_factor`), and
#: two that count.
ROWS = (
    "synthetic", "full", "teacher", "equal_compute", "random", "untrained", "item_factor", "item_knn", "knn_tfidf",
    "ease", "popularity", "text_similarity",
)  # fmt: skip

#: The files that it writes beside the bundle.
FILES = ("shop.parquet", "metrics.json", "synthetic.jsonl", "report.html")


def command(
    out: Annotated[Path, typer.Option("--out", help="Folder to fill.")] = Path("demo"),
    users: Annotated[int, typer.Option("--users", help="Users of the generated shop.")] = 1500,
    items: Annotated[int, typer.Option("--items", help="Items of the generated shop.")] = 600,
    steps: Annotated[int, typer.Option("--steps", help="Outer steps.")] = 100,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh models per row.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Seed; it fixes the result on a given machine.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier demo wrote to --out.")] = False,
    width: Annotated[int, typer.Option("--width", help="Width of the recommender; a small one is fast.")] = 64,
) -> None:
    """Generate a shop, distil it, evaluate, export and report.

    Leaves shop.parquet, bundle/, metrics.json, synthetic.jsonl and report.html.

    Example: foster demo --out demo
    """
    import json
    import os
    import shutil

    import torch

    from foster_cli.bundle import check_replaceable
    from foster_cli.commands import distill, export, report, sample
    from foster_cli.commands import eval as evaluate
    from foster_cli.console import Console
    from foster_cli.errors import FosterError
    from foster_cli.evaluate.economics import line
    from foster_cli.files import exists, may_write

    if "OMP_NUM_THREADS" not in os.environ:  # with products this small, two are slower where a core is busy
        torch.set_num_threads(1)
    if out.exists() and not out.is_dir():
        raise FosterError(f"--out {out}: is a file", "give a folder")
    bundle = out / "bundle"
    for name in FILES:
        may_write(out / name, force, (Path(name).suffix,))
    if exists(bundle) and not force:
        raise FosterError(f"--out {bundle}: exists already", "give another --out, or --force to replace it")
    if exists(bundle):
        check_replaceable(bundle)
        shutil.rmtree(bundle)
    shutil.rmtree(out / "bundle.run", ignore_errors=True)  # left by an interrupted demo
    shop = out / "shop.parquet"
    for name in FILES:
        (out / name).unlink(missing_ok=True)  # left by an earlier demo
    sample.command(out=shop, users=users, items=items, seed=seed)
    distill.command(
        data=[shop], out=bundle, seed=seed, steps=steps, width=width, draws=1, check_every=max(1, steps),
        check_seeds=1, epochs=6, lexical=256, student_steps=100,
    )  # fmt: skip
    evaluate.command(bundles=[bundle], seeds=seeds, rows=",".join(ROWS), out=out / "metrics.json")
    export.command(bundle=bundle, format="jsonl", out=out / "synthetic.jsonl")
    report.command(bundle=bundle, out=out / "report.html", eval=out / "metrics.json")
    Console().result(line(json.loads((out / "metrics.json").read_text())["economics"]))
