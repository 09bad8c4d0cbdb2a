"""`foster report`. In: a bundle. Out: one HTML page about it and, on request, its figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foster_cli.commands.from_settings import Force, Json, Moved

if TYPE_CHECKING:
    from foster_cli.bundle import Bundle
    from foster_cli.console import Console
    from foster_cli.data.schema import Dataset


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="The bundle; the newest in ./runs without it.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Page to write; by default BUNDLE/report.html.")] = None,
    force: Force = False,
    open: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    eval: Annotated[
        Path | None,
        typer.Option("--eval", help="JSON that foster eval wrote for this bundle; by default BUNDLE/eval.json."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder for the figures as PNG and SVG (needs matplotlib).")
    ] = None,
    data: Moved = None,
    json: Json = False,
) -> None:
    """Write one HTML page about a bundle: results, settings, curves, popularity, map, and every sequence.

    The page needs no network and no other file. It names what is missing: without an evaluation, the command that
    makes one; without the real data, the place where they were.

    Example: foster report --open, or: foster report runs/games-foster-b20-1 --out games.html
    """
    from foster_cli.bundle import load
    from foster_cli.commands.shared import refuse_own_data, resolve_bundle
    from foster_cli.console import Console, clean
    from foster_cli.files import may_write, writing
    from foster_cli.report.figures import check_matplotlib, figure_files, write_figures
    from foster_cli.report.gather import gather
    from foster_cli.report.html import page
    from foster_cli.report.results import read_evaluation

    console = Console(json_mode=json)
    if figures is not None:
        check_matplotlib()
    path = resolve_bundle(bundle, console)
    target = out if out is not None else path / "report.html"
    _check_targets(target, figures, path)
    loaded = load(path)
    refuse_own_data(target, loaded)
    if out is not None:
        may_write(out, force, (".html", ".htm"))
    evaluation = read_evaluation(loaded, eval)
    report = gather(loaded, evaluation, _data(loaded, data))
    text = page(report)
    for name in [] if figures is None else figure_files(report, figures):
        may_write(name, force, (".png", ".svg"), "--figures")
    with writing(target, out is None or force) as temporary:
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
    """The bundle's dataset, or the reason why it is missing. Raises FosterError if `data` is given but differs."""
    from foster_cli.commands.shared import bundle_data
    from foster_cli.errors import FosterError

    try:
        return bundle_data(bundle, data)
    except FosterError as error:
        if data:
            raise
        return str(error)


def _check_targets(target: Path, figures: Path | None, bundle: Path) -> None:
    """Raise FosterError if the report would overwrite something else."""
    from foster_cli.errors import FosterError
    from foster_cli.files import real_path

    if target.is_dir():
        raise FosterError(f"--out {target} is a folder", f"give a file, such as {target / 'report.html'}")
    inside = target.exists() and real_path(target.parent) == real_path(bundle)
    if inside and target.name != "report.html":
        raise FosterError(f"--out {target} is a file of the bundle itself", "give another name")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise FosterError(f"--figures {figures} is a file", "give the name of a folder")


def _show(target: Path, console: Console) -> None:
    """Open the page in a browser, or print where it is."""
    import webbrowser

    if not webbrowser.open(target.resolve().as_uri()):
        console.note(f"no browser was found: open {target.resolve()} yourself")
