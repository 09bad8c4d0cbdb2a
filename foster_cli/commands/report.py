"""`foster report`: a bundle in; one HTML page about it out, and its figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from foster_cli.bundle import Bundle
    from foster_cli.console import Console
    from foster_cli.data.schema import Dataset


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="The bundle; the newest in ./runs without it.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The page; BUNDLE/report.html without it.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    eval: Annotated[
        Path | None,
        typer.Option("--eval", help="What foster eval wrote about this bundle; BUNDLE/eval.json without it."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="A folder: the figures as PNG and SVG too (needs matplotlib).")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="The data it was distilled from, if it has moved (repeatable)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one HTML page about a bundle: results, settings, curves, popularity, map, and every sequence.

    The page needs no network and no other file. What is missing is named on it: without an evaluation the command
    that makes one, without the real data where that was.

    Example: foster report --open, or: foster report runs/games-foster-b20-1 --out games.html
    """
    from foster_cli.bundle import load
    from foster_cli.commands.common import resolve_bundle, spare_data
    from foster_cli.console import Console, clean
    from foster_cli.report.figures import check_matplotlib, write_figures
    from foster_cli.report.gather import gather
    from foster_cli.report.html import page
    from foster_cli.report.results import read_evaluation
    from foster_cli.runtime import writing

    console = Console(json_mode=json)
    if figures is not None:
        check_matplotlib()
    path = resolve_bundle(bundle, console)
    target = out if out is not None else path / "report.html"
    _check_targets(target, figures, path)
    loaded = load(path)
    spare_data(target, loaded)
    evaluation = read_evaluation(loaded, eval)
    report = gather(loaded, evaluation, _data(loaded, data))
    text = page(report)
    with writing(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    drawn = [] if figures is None else write_figures(report, figures)
    if report.missing_real:
        console.note(f"without the real data: {clean(report.missing_real, 4096)}")
    if evaluation is None:
        console.note(f"not evaluated yet: foster eval {clean(path, 4096)} makes the table of results")
    console.event(
        command="report", bundle=str(path), out=str(target), bytes=len(text.encode()), evaluated=evaluation is not None,
        figures=[str(f) for f in drawn],
    )  # fmt: skip
    console.result(f"{clean(target, 4096)}: {len(text.encode()) / 2**20:.1f} MiB, one page, to be opened in a browser")
    if drawn:
        console.result(f"{clean(figures, 4096)}: {len(drawn)} files, {', '.join(f.stem for f in drawn[::2])}")
    if open:
        _show(target, console)


def _data(bundle: Bundle, data: list[Path] | None) -> Dataset | str:
    """The bundle's dataset, or why it is not there. FosterError where `data` was named and is not it."""
    from foster_cli.commands.common import bundle_data
    from foster_cli.errors import FosterError

    try:
        return bundle_data(bundle, data)
    except FosterError as error:
        if data:
            raise
        return str(error)


def _check_targets(target: Path, figures: Path | None, bundle: Path) -> None:
    """FosterError where writing would destroy something."""
    from foster_cli.errors import FosterError
    from foster_cli.runtime import real_path

    if target.is_dir():
        raise FosterError(f"--out {target} is a folder", f"give a file, such as {target / 'report.html'}")
    inside = target.exists() and real_path(target.parent) == real_path(bundle)
    if inside and target.name != "report.html":
        raise FosterError(f"--out {target} is a file of the bundle itself", "give another name")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise FosterError(f"--figures {figures} is a file", "give the name of a folder")


def _show(target: Path, console: Console) -> None:
    """Open the page, or say where it is."""
    import webbrowser

    if not webbrowser.open(target.resolve().as_uri()):
        console.note(f"no browser was found: open {target.resolve()} yourself")
