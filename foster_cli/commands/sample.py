"""`foster sample`: generates a shop to try foster on, as one raw parquet table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.from_settings import Force, Json


def command(
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")] = Path("shop.parquet"),
    users: Annotated[int, typer.Option("--users", help="Number of users, 10 or more.")] = 5000,
    items: Annotated[int, typer.Option("--items", help="Number of items, 20 or more.")] = 2000,
    turnover: Annotated[
        float,
        typer.Option(
            "--turnover",
            metavar="SHARE",
            help="Share of validation's targets that do not occur in training; 0 to 0.8. With one above 0, new items "
            "keep appearing and old ones are no longer bought.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal files.")] = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Generate a shop: a raw interaction table to try foster on without a download.

    The next purchase depends on the words of the titles and on hidden complements that only interactions show.
    Popularity has a power-law tail, and tastes drift. Users have about 10 interactions each. The file has the columns
    user_id, item_id, timestamp, title, categories, and no split: `foster preprocess` and `foster distill`
    split it by time.

    Example: foster sample --out shop.parquet && foster distill shop.parquet --budget 20
    """
    from foster_cli.console import Console
    from foster_cli.errors import FosterError
    from foster_cli.files import may_write, writing

    console = Console(json_mode=json)
    if out.suffix != ".parquet":
        raise FosterError(f"--out {out}: samples are written as parquet", f"use --out {_parquet_name(out)}")
    if out.is_dir():
        raise FosterError(f"--out {out} is a folder", f"use --out {out / 'shop.parquet'}")
    may_write(out, force, (".parquet",))

    import numpy as np

    from foster_cli.data.sample import generate_shop
    from foster_cli.runtime import stream_seed

    shop = generate_shop(users, items, np.random.default_rng(stream_seed(seed, "sample")), turnover)
    with writing(out) as path:
        shop.to_parquet(path, engine="pyarrow", index=False)
    rows, bought = len(shop), int(shop["item_id"].nunique())
    console.result(f"{out}: {rows:,} interactions of {users:,} users with {bought:,} of {items:,} items")
    console.event(
        command="sample",
        out=str(out),
        interactions=rows,
        users=users,
        items=items,
        items_bought=bought,
        turnover=turnover,
        seed=seed,
    )


def _parquet_name(out: Path) -> Path:
    return out.with_suffix(".parquet") if out.name else Path("shop.parquet")
