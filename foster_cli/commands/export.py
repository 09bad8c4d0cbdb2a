"""`foster export`: a bundle in; its synthetic sequences out, as a file or on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foster_cli.export import FORMATS

if TYPE_CHECKING:
    from foster_cli.export import Format
    from foster_cli.export.view import SyntheticView

_FORMAT_HELP = "; ".join(f"{f.name}: {f.description}" for f in FORMATS.values())


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle; the newest one in ./runs without it.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help=f"{_FORMAT_HELP}. Without it: by the ending of --out, else jsonl."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, - for standard output; BUNDLE/synthetic.ENDING without it."),
    ] = None,
    top: Annotated[int, typer.Option("--top", help="How many items to list per position.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the synthetic sequences of a bundle for other programs to read.

    jsonl and parquet hold the likeliest items of every position with their probabilities and the mass they
    cover; csv holds one item per position, each at most once in a sequence. The real sequences of a coreset are
    written as they are.

    Example: foster export --format jsonl, or: foster export runs/games-foster-b20-1 --format csv --out -
    """
    import sys

    from foster_cli.console import Console, clean
    from foster_cli.errors import FosterError
    from foster_cli.export import get_format

    to_stdout = out is not None and str(out) == "-"
    console = Console(json_mode=json and not to_stdout)
    chosen = get_format(format) if format is not None else _by_ending(out)
    if to_stdout and sys.stdout is None:
        raise FosterError("--out -: standard output is closed", "give --out FILE")
    if to_stdout and chosen.binary and sys.stdout.isatty():
        raise FosterError(f"{chosen.name} is binary and not for a terminal", "give --out FILE, or pipe it on")

    from foster_cli.bundle import load
    from foster_cli.commands.common import resolve_bundle
    from foster_cli.export.view import make_view

    path = resolve_bundle(bundle, console)
    target = out if out is not None else path / f"synthetic.{chosen.extension}"
    if not to_stdout:
        _check_target(target, path)
    view = make_view(load(path), top)
    users, length = view.hard.shape
    kind = "synthetic users ×" if view.lengths is None else "real sequences of at most"
    summary = f"{users} {kind} {length} positions as {chosen.name}"
    if to_stdout:
        if _to_stdout(chosen, view, top):
            console.note(f"wrote {summary} to standard output")
        return

    from foster_cli.runtime import writing

    with writing(target) as temporary, temporary.open("wb") as file:
        chosen.write(view, file, top)
    console.note(f"wrote {clean(target, 4096)}: {summary}")
    console.event(
        command="export",
        bundle=str(path),
        out=str(target),
        format=chosen.name,
        synthetic_users=users,
        positions=length,
        top=top,
    )


def _by_ending(out: Path | None) -> Format:
    """The format whose extension `out` has, else jsonl."""
    ending = out.suffix[1:].lower() if out is not None else ""
    return next((f for f in FORMATS.values() if f.extension == ending), FORMATS["jsonl"])


def _check_target(target: Path, bundle: Path) -> None:
    """Raise FosterError where writing `target` would destroy something."""
    from foster_cli.errors import FosterError

    if target.is_dir():
        raise FosterError(f"--out {target} is a folder", f"give a file, such as {target / 'synthetic.jsonl'}")
    inside = target.exists() and target.parent.resolve() == bundle.resolve()
    if inside and not target.name.startswith("synthetic."):
        raise FosterError(f"--out {target} is a file of the bundle itself", "give another name")


class _Stdout:
    """Standard output in bytes. With `python -u` it is unbuffered and may take a part only: write on."""

    def write(self, data: bytes) -> None:
        import sys

        left = memoryview(data)
        while left:
            left = left[sys.stdout.buffer.write(left) :]


def _to_stdout(chosen: Format, view: SyntheticView, top: int) -> bool:
    """Write to standard output and nothing else there. False where the reader has gone (`| head`)."""
    import os
    import sys

    from foster_cli.errors import FosterError

    try:
        chosen.write(view, _Stdout(), top)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # What is still buffered would fail again when the interpreter closes stdout: let it go nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    except OSError as error:
        raise FosterError(f"cannot write to standard output: {error.strerror}", "give --out FILE") from error
    return True
