"""`foster export`. In: a bundle. Out: its synthetic sequences as a file, a folder or on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foster_cli.commands.from_settings import Force, Json, Moved, make_session
from foster_cli.export import FORMATS

if TYPE_CHECKING:
    from foster_cli.console import Console
    from foster_cli.export import Format
    from foster_cli.export.job import Job

_FORMAT_HELP = "; ".join(f"{f.name}: {f.description}" for f in FORMATS.values())


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle; the newest one in ./runs without it.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help=f"{_FORMAT_HELP}. By default from the ending of --out, else jsonl."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File or folder to write, - for standard output; by default BUNDLE/synthetic…."),
    ] = None,
    force: Force = False,
    top: Annotated[
        int | None, typer.Option("--top", help="Items that jsonl and parquet list per position; by default 10.")
    ] = None,
    decode: Annotated[
        str | None,
        typer.Option("--decode", help="How hard formats choose an item: argmax (the likeliest) or sample (at random)."),
    ] = None,
    copies: Annotated[
        int | None, typer.Option("--copies", help="Hard sequences per synthetic user with --decode sample; default 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of --decode sample; by default 0.")] = None,
    template: Annotated[
        Path | None, typer.Option("--template", help="File of your own prompts for alpaca, chat or llamafactory.")
    ] = None,
    template_out: Annotated[
        Path | None,
        typer.Option("--template-out", help="Only write the prompts of --format to this file, for you to edit."),
    ] = None,
    data: Moved = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Train models on the soft and on the hard sequences, and print what is lost."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Models trained on each of the two with --measure; default 2.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where --measure trains: cpu, cuda, cuda:N, mps or auto (default).")
    ] = None,
    json: Json = False,
) -> None:
    """Write the synthetic sequences of a bundle for other programs to read.

    jsonl, parquet and torch contain the distributions. All other formats have one item per position, each at most
    once in a sequence, and the export prints the probability of these items. A coreset's real sequences are written
    unchanged. docs/export.md shows every format and the tool that reads it.

    Example: foster export --format jsonl, or: foster export runs/games-foster-b20-1 --format csv --out -
    """
    from foster_cli.console import Console, clean
    from foster_cli.export import get_format
    from foster_cli.export.output import check_stdout, check_target, endings, to_stdout, to_target
    from foster_cli.files import may_write

    chosen = get_format(format) if format is not None else _by_ending(out)
    if template_out is not None:
        _copy_template(chosen, template_out, force)
        Console(json_mode=json).note(f"wrote {clean(template_out, 4096)}: edit it, then give it as --template")
        return
    piped = out is not None and str(out) == "-"
    console = Console(json_mode=json and not piped)
    given = {
        "--top": top, "--decode": decode, "--copies": copies, "--seed": seed, "--template": template,
        "--data": data or None, "--measure": measure or None, "--seeds": seeds, "--device": device,
    }  # fmt: skip
    _check_options(chosen, tuple(name for name, value in given.items() if value is not None), decode == "sample")
    if piped:
        check_stdout(chosen, measure)

    from foster_cli.bundle import load
    from foster_cli.commands.shared import bundle_data, refuse_own_data, resolve_bundle
    from foster_cli.export.job import Job

    path = resolve_bundle(bundle, console)
    target = out if out is not None else path / chosen.default
    if not piped:
        check_target(chosen, target, path, out is None or force)
    loaded = load(path)
    if not piped:
        refuse_own_data(target, loaded)

    if not piped and out is not None and not chosen.folder:
        may_write(out, force, endings(chosen))
    if not piped and measure and out is not None:
        may_write(_cost_file(out), force, (".json",))

    job = Job(
        loaded, target.name, 10 if top is None else top, decode or "argmax", 1 if copies is None else copies, seed or 0,
        template, lambda: bundle_data(loaded, data),
    )  # fmt: skip
    if measure:
        job.check_measurable()
    if piped:
        if to_stdout(chosen, job):
            console.note(f"wrote {_summary(chosen, job)} to standard output")
            _note_mass(chosen, job, console, measure)
        return
    to_target(chosen, job, target, out is None or force)
    console.note(f"wrote {clean(target, 4096)}: {_summary(chosen, job)}")
    _note_mass(chosen, job, console, measure)
    event = _event(chosen, job, path, target)
    if measure:
        event["cost"] = _measure(job, target, seeds or 2, device or "auto", console)
    console.event(**event)


def _by_ending(out: Path | None) -> Format:
    """The format with the ending of `out`, else jsonl."""
    ending = out.suffix[1:].lower() if out is not None else ""
    return next((f for f in FORMATS.values() if ending and f.extension == ending), FORMATS["jsonl"])


def _check_options(chosen: Format, given: tuple[str, ...], sampled: bool) -> None:
    """Raise FosterError for an option in `given` that would have no effect."""
    from foster_cli.errors import FosterError

    measure = "--measure" in given
    effect = {
        "--top": chosen.lists, "--decode": chosen.hard, "--copies": chosen.hard, "--measure": chosen.hard,
        "--template": chosen.template is not None, "--data": chosen.data or measure,
    }  # fmt: skip
    for name in given:
        if not effect.get(name, True):
            raise FosterError(f"{name}: means nothing with --format {chosen.name}", "leave it out")
        if name == "--seed" and not sampled:
            raise FosterError("--seed: means nothing without --decode sample", "leave it out, or add that")
        if name in ("--seeds", "--device") and not measure:
            raise FosterError(f"{name}: means nothing without --measure", "leave it out, or add that")


def _cost_file(target: Path) -> Path:
    """The file with the costs of hardening, beside the export."""
    return target.with_name(f"{target.name}.cost.json")


def _copy_template(chosen: Format, target: Path, force: bool) -> None:
    """Write the prompts that `chosen` fills to a new file."""
    from foster_cli.errors import FosterError
    from foster_cli.export.templates import SHIPPED
    from foster_cli.files import may_write, writing

    if chosen.template is None:
        with_prompts = ", ".join(f.name for f in FORMATS.values() if f.template)
        raise FosterError(f"--template-out: {chosen.name} has no prompts", f"give --format: {with_prompts}")
    may_write(target, force, (".txt",), "--template-out")
    with writing(target, force) as temporary:
        temporary.write_bytes((SHIPPED / f"{chosen.template}.txt").read_bytes())


def _summary(chosen: Format, job: Job) -> str:
    """`60 hard sequences × 20 positions as chat`."""
    users, length = job.size
    if job.bundle.windows is not None:
        return f"{users} real sequences of at most {length} positions as {chosen.name}"
    if chosen.hard:
        return f"{len(job.hard)} hard sequences × {length} positions as {chosen.name}"
    return f"{users} synthetic users × {length} positions as {chosen.name}"


def _note_mass(chosen: Format, job: Job, console: Console, measured: bool) -> None:
    """Print the mean probability of the hard items."""
    if not chosen.hard or job.hard.real:
        return
    read, predicted = job.hard.mass()
    what = f"{read:.3f} of what it reads"
    if job.hard.goals is not None:
        what += f" and {predicted:.3f} of what it predicts"
    hint = "" if measured else "; --measure says what that costs"
    console.note(f"one item per position carries {what}, on average{hint}")


def _event(chosen: Format, job: Job, path: Path, target: Path) -> dict[str, Any]:
    """The event that `--json` prints."""
    users, length = job.size
    event: dict[str, Any] = {
        "command": "export", "bundle": str(path), "out": str(target), "format": chosen.name,
        "synthetic_users": users, "positions": length,
    }  # fmt: skip
    if not chosen.hard:
        return event | ({"top": job.top} if chosen.lists else {})
    read, predicted = job.hard.mass()
    event |= {"decode": job.decode, "copies": job.copies, "seed": job.seed, "sequences": len(job.hard)}
    return event | {"mean_probability": {"read": read, "predicted": predicted}}


def _measure(job: Job, target: Path, seeds: int, device: str, console: Console) -> dict[str, Any]:
    """Train on the soft and the hard sequences; print the metrics and write them beside the export."""
    import json as json_module

    from foster_cli.export.cost import METRICS, hardening_cost
    from foster_cli.files import writing

    cost = hardening_cost(job.bundle, job.hard, job.data, seeds, make_session(console, device))
    beside = _cost_file(target)
    with writing(beside) as temporary:
        temporary.write_text(json_module.dumps(cost, indent=1) + "\n", encoding="utf-8")
    rows = [[name, *[f"{cost[name][m]['mean']:.4f}" for m in METRICS]] for name in ("soft", "hard", "untrained")]
    used = ", ".join(map(str, cost["seeds"]))
    console.table(f"trained on the sequences, {cost['cases']:,} validation cases, seeds {used}", ["", *METRICS], rows)
    console.note(f"wrote {beside}")
    return cost
