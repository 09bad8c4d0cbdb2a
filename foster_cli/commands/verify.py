"""`foster verify`. In: a bundle. Out: a line for each check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foster_cli.commands.from_settings import Json, Moved


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; the newest one in ./runs without it.", show_default=False)
    ] = None,
    data: Moved = None,
    json: Json = False,
) -> None:
    """Check a bundle: checksums, shapes, finite values, manifest, log, and the data if they are available.

    Exits with code 2 if a check fails. A bundle from a stranger is read with care: nothing in it is run, and absurdly
    large parts are refused.

    Example: foster verify runs/games-foster-b20-1
    """
    from foster_cli.bundle import load, run_kept, stated_sums
    from foster_cli.commands.shared import bundle_data, resolve_bundle
    from foster_cli.console import Console, clean
    from foster_cli.errors import FosterError
    from foster_cli.verify import Finding, verify

    console = Console(json_mode=json)
    path = resolve_bundle(bundle, console)
    if not path.exists() and run_kept(path):
        stated_sums(path)  # raises, and names the command that continues it
    found = verify(path)
    if all(f.ok for f in found):
        b = load(path)
        files = data or [Path(p) for p in b.manifest["data"].get("path", [])]
        if all(p.exists() for p in files) or data:
            try:
                dataset = bundle_data(b, data)
                found.append(Finding("data", True, f"{clean(dataset.name)}, the hash is the bundle's"))
            except FosterError as error:
                found.append(Finding("data", False, error.message))
        else:
            found.append(Finding("data", None, "not here; give --data FILE to check it"))
    for f in found:
        word = "not checked" if f.ok is None else "ok" if f.ok else "WRONG"
        console.event(check=f.name, ok=f.ok, said=f.said)
        console.result(f"{word:12}{f.name}: {clean(f.said, 400)}")
    wrong = sum(f.ok is False for f in found)
    if wrong:
        raise FosterError(f"{path}: {wrong} of {len(found)} checks failed", "copy the bundle again, or distill again")
