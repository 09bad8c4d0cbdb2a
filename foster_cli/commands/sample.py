"""`foster sample`. In: numbers. Out: a generated shop to try foster on, as one raw table in a parquet or CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foster_cli.commands.from_settings import Force, Json

if TYPE_CHECKING:
    import numpy as np

    from foster_cli.console import Console

ENDINGS = (".parquet", ".csv")
#: Users without --rows.
USERS = 5000


def command(
    out: Annotated[Path, typer.Option("--out", help="File to write, *.parquet or *.csv.")] = Path("shop.parquet"),
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            help="About so many interactions, 100 or more, written block by block: memory does not grow with them.",
        ),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(
            "--users",
            help="Number of users, 10 or more. With --rows, each has --rows / --users interactions on average.",
            show_default="5000; with --rows, a tenth of it",
        ),
    ] = None,
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

    With --rows, the shop can have any number of interactions. It is made and written in blocks of users, whose rows
    are in order of time within each block.

    Example: foster sample --out shop.parquet && foster distill shop.parquet --budget 20
    """
    from foster_cli.console import Console
    from foster_cli.errors import FosterError
    from foster_cli.files import may_write

    console = Console(json_mode=json)
    if out.suffix not in ENDINGS:
        raise FosterError(f"--out {out}: samples are written as parquet or CSV", f"use --out {_parquet_name(out)}")
    if out.is_dir():
        raise FosterError(f"--out {out} is a folder", f"use --out {out / f'shop{out.suffix}'}")
    may_write(out, force, ENDINGS)

    import numpy as np

    from foster_cli.runtime import stream_seed

    rng = np.random.default_rng(stream_seed(seed, "sample"))
    if rows is None:
        users = USERS if users is None else users
        found, bought = _whole(out, users, items, rng, turnover)
    else:
        found, users, bought = _in_blocks(out, rows, users, items, rng, turnover, console)
    console.result(f"{out}: {found:,} interactions of {users:,} users with {bought:,} of {items:,} items")
    console.event(
        command="sample",
        out=str(out),
        interactions=found,
        users=users,
        items=items,
        items_bought=bought,
        turnover=turnover,
        seed=seed,
    )


def _whole(out: Path, users: int, items: int, rng: np.random.Generator, turnover: float) -> tuple[int, int]:
    """Write a shop that is made at once. Out: the numbers of its rows and of the items in them."""
    from foster_cli.data.sample import generate_shop
    from foster_cli.files import writing

    shop = generate_shop(users, items, rng, turnover)
    with writing(out) as path:
        if out.suffix == ".csv":
            import pyarrow as pa
            from pyarrow import csv

            csv.write_csv(pa.Table.from_pandas(shop, preserve_index=False), path)
        else:
            shop.to_parquet(path, engine="pyarrow", index=False)
    return len(shop), int(shop["item_id"].nunique())


def _in_blocks(
    out: Path,
    rows: int,
    users: int | None,
    items: int,
    rng: np.random.Generator,
    turnover: float,
    console: Console,
) -> tuple[int, int, int]:
    """Write a shop of about `rows` interactions block by block. Out: the numbers of rows, users and items bought."""
    from foster_cli.data.sample import ShopBlocks, write_blocks
    from foster_cli.files import writing

    blocks = ShopBlocks(rows, users, items, rng, turnover)
    with writing(out) as path, console.progress("blocks", len(blocks)) as ticker:
        found = write_blocks(blocks, path, out.suffix == ".csv", ticker.at)
    return found, blocks.users, int(blocks.bought.sum())


def _parquet_name(out: Path) -> Path:
    return out.with_suffix(".parquet") if out.name else Path("shop.parquet")
