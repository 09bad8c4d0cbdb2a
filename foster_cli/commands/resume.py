"""`foster distill --resume BUNDLE`: what an interrupted or finished run was asked for, held against the options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foster_cli.console import Console
from foster_cli.errors import FosterError

if TYPE_CHECKING:
    from foster_cli.distill.keep import Request

#: Options of StudentConfig by their names in it; all others have the names of their settings.
_STUDENT = {"student_lr": "lr", "student_steps": "steps", "student_items": "items_per_step"}
_PREPARE = ("user_column", "item_column", "time_column", "text_columns", "split_column", "k_core")


@dataclass(frozen=True)
class Going:
    """What is gone on with: `request`, into the bundle `out`. `seeded`: see `distill.pipeline.run`."""

    request: Request
    out: Path
    seeded: dict[str, Any] | None = None


def resumed(
    ctx: typer.Context, resume: Path, out: Path | None, extend: int | None, data: list[Path] | None, console: Console
) -> Going | None:
    """What `--resume` (with `--extend`: N more steps) goes on with; None where the bundle is finished already.

    Raises FosterError where there is nothing to go on with, or an option is not what the run began with.
    """
    from foster_cli.config import positive
    from foster_cli.distill.keep import finished, kept_request, run_folder

    if extend is not None:
        positive("--extend", extend)
        if run_folder(resume).exists() and not finished(resume):
            raise FosterError(f"{resume}: is not finished", f"go on with it first: foster distill --resume {resume}")
        going = more_steps(resume, out or resume, extend, ctx.params["cache"])
    else:
        if out is not None:
            raise FosterError("--out: --resume goes on where the run began", "leave --out out, or give --extend N")
        if finished(resume):
            check_given(ctx, made_of(resume), data, unknown=("cache",))
            console.result(f"{resume}: was finished already; next: foster eval {resume}")
            return None
        going = Going(kept_request(resume), resume)
    check_given(ctx, going.request, data)
    return going


def more_steps(path: Path, out: Path, count: int, use_cache: bool) -> Going:
    """`count` more steps of the finished bundle at `path`, into `out`; the teacher is trained again, or cached."""
    from foster_cli.bundle import read_state

    made = made_of(path)
    tree = read_state(path)
    if out != path and out.exists():
        raise FosterError(f"--out {out}: exists already", "give another name, or remove it first")
    longer = replace(made.config, steps=made.config.steps + count)
    request = replace(made, config=longer, use_cache=use_cache)  # a bundle does not say whether it used the cache
    try:
        outer = tree["outer"]
        seeded = {"outer": outer, "start": {**tree["start"], "factors": outer["state"]["synthetic"]}}
    except (KeyError, TypeError) as error:
        raise FosterError(f"{path}: its state lacks {error}", "distill again") from error
    return Going(request, out, seeded)


def made_of(path: Path) -> Request:
    """What the finished bundle at `path` was asked for, by its manifest."""
    from foster_cli.bundle import load
    from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, from_dict
    from foster_cli.data.columns import PrepareSettings
    from foster_cli.distill.keep import Request

    m = load(path).manifest
    try:
        used = dict(m["data"]["prepare"])
        if used["text_columns"] is not None:
            used["text_columns"] = tuple(used["text_columns"])
        return Request(
            [str(p) for p in m["data"]["path"]], from_dict(PrepareSettings, used), from_dict(ModelConfig, m["model"]),
            from_dict(TrainConfig, m["train"]), from_dict(DistillConfig, m["distill"]),
            from_dict(StudentConfig, m["student"]), m["seed"], "auto", m["method"], True,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise FosterError(f"{path}: its manifest lacks {error}", "distill again") from error


def check_given(
    ctx: typer.Context, request: Request, data: list[Path] | None, unknown: tuple[str, ...] = ()
) -> None:  # fmt: skip
    """FosterError for the first option on the command line that differs from what the run began with.

    `unknown`: options of which nothing is known any more; they are passed over.
    """
    from foster_cli.commands.settings import absolute, was_given

    if data and absolute(data) != request.paths:
        raise FosterError(
            f"DATA {', '.join(map(str, data))}: the run began with {', '.join(request.paths)}", "leave DATA out"
        )
    values: dict[str, Any] = {"seed": request.seed, "method": request.method, "cache": request.use_cache}
    for part in (request.model, request.train, request.config):
        values |= vars(part)
    values |= {name: getattr(request.student, field) for name, field in _STUDENT.items()}
    values |= {name: getattr(request.prepare, name) for name in _PREPARE}
    if request.device != "auto":
        values["device"] = request.device
    for name, given in ctx.params.items():
        if not was_given(ctx, name) or name not in values or name in unknown:
            continue
        began = values[name]
        if isinstance(began, tuple):
            began = ",".join(began)
        if name in ("items_per_step", "student_items"):
            began = "all" if began is None else str(began)
        if given != began:
            raise FosterError(
                f"--{name.replace('_', '-')} {given}: the run began with {began}", "leave it out, or begin anew"
            )
