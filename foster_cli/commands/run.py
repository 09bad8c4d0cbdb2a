"""Starts the run of `foster distill`: a new run, a resumed one, or more steps of a finished bundle."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foster_cli.baselines import METHODS, adapted, refuse_unread
from foster_cli.baselines.coreset import shrink
from foster_cli.bundle import load, read_state
from foster_cli.commands.from_settings import Asked
from foster_cli.commands.shared import absolute, check_windows, decided, next_run
from foster_cli.console import Console
from foster_cli.data.prepare import load_dataset
from foster_cli.data.schema import Dataset
from foster_cli.distill.checks import check_settings
from foster_cli.distill.run_folder import Beginning, finished, interrupted, run_folder
from foster_cli.errors import FosterError
from foster_cli.evaluate.economics import economics, line
from foster_cli.session import Session
from foster_cli.settings import Settings, choice, positive


@dataclass(frozen=True)
class Request:
    """The arguments of `foster distill`: the settings in `asked`, and all others."""

    asked: Asked
    data: list[Path]
    out: Path | None
    resume: Path | None
    extend: int | None


@dataclass
class Run:
    """A run that is ready to start. `beginning`: whether it is new or continues a stored run."""

    settings: Settings
    data: Dataset
    out: Path
    session: Session
    beginning: Beginning

    def make(self) -> dict[str, Any]:
        """Write the bundle; returns the metrics of its manifest."""
        metrics: dict[str, Any] = shrink(
            self.settings, self.data, self.out, self.session, beginning=self.beginning
        )["metrics"]  # fmt: skip
        return metrics

    def show(self, m: dict[str, Any]) -> None:
        """Print the result, with its metrics `m`, and the next command."""
        s, console = self.settings, self.session.console
        console.event(event="bundle", path=str(self.out), metrics=m)
        if METHODS[s.method].real:
            chosen = f"{s.distill.budget} real sequences chosen by {s.method} in {m['seconds_select']:.1f} s"
            console.result(f"{self.out}: {chosen}")
        else:
            size = f"{s.distill.budget} sequences x {s.distill.length} positions"
            console.result(f"{self.out}: {size} over {self.data.statistics['items']:,} items")
            console.result(
                f"validation R@10: {m['valid_R@10']:.4f} (outer step {m['best_step']}), full data "
                f"{m['full_valid_R@10']:.4f}, untrained {m['untrained_valid_R@10']:.4f}"
            )
            if m["student_seconds"] is not None:
                console.result(line(economics([load(self.out)], m["teacher_seconds"], m["student_seconds"])))
        console.result(f"next: foster eval {self.out}")


def check(asked: Asked, method: str, file: Path | None) -> Asked:
    """`asked` for `method`, with the settings of `file` beneath what was typed.

    Raises FosterError for an option that the method does not read, or a setting out of range.
    """
    asked = replace(asked, settings=replace(asked.settings, method=choice("--method", method, METHODS)))
    refuse_unread(asked.settings, asked.typed)
    asked = asked.beneath(file)
    check_settings(adapted(asked.settings, asked.typed))
    return asked


def started(request: Request) -> Run | None:
    """The run, with its data read and its folder chosen; None if a bundle to resume is finished already."""
    asked, out = request.asked, request.out
    if request.resume is not None:
        return _resumed(request, request.resume)
    if request.extend is not None:
        raise FosterError("--extend: goes on with a finished bundle", "name it: --resume BUNDLE --extend N")
    if not request.data:
        raise FosterError("DATA is missing", "foster distill FILE, or --resume BUNDLE")
    if out is not None and out.exists():
        raise FosterError(f"--out {out}: exists already", "give another name, or remove it first")
    settings = replace(adapted(asked.settings, asked.typed), paths=absolute(request.data))
    return _read(settings, request.data, out, asked.session(events=True), Beginning(resume=False), asked.free)


def _paths(settings: Settings) -> list[Path]:
    return [Path(p) for p in settings.paths]


def _read(
    settings: Settings, paths: list[Path], out: Path | None, session: Session, beginning: Beginning,
    free: Collection[tuple[str, str]] = (),
) -> Run:  # fmt: skip
    data = load_dataset(paths, settings.prepare)
    s = data.statistics
    session.console.note(f"{data.name}: {s['interactions']:,} interactions, {s['users']:,} users, {s['items']:,} items")
    check_windows(data, settings)
    settings = decided(settings, free, data, session)
    out = out or next_run(data.name, settings.method, settings.distill.budget)
    return Run(settings, data, out, session, beginning)


def _resumed(request: Request, bundle: Path) -> Run | None:
    """The run that `--resume` continues (with `--extend`: by N more steps); None if it is finished already.

    Raises FosterError if there is nothing to continue, or if an option differs from the run's.
    """
    asked, out, extend = request.asked, request.out, request.extend
    if "settings" in asked.typed:
        raise FosterError("--settings: --resume continues with the settings of the run", "leave it out")
    if extend is not None:
        positive("--extend", extend)
        if run_folder(bundle).exists() and not finished(bundle):
            raise FosterError(f"{bundle}: is not finished", f"continue it first: foster distill --resume {bundle}")
        settings, trees = more_steps(bundle, out or bundle, extend)
        _check_same(request, settings, {})  # a bundle does not say whether it used the cache
        return _read(settings, _paths(settings), out or bundle, asked.session(events=True), Beginning(False, trees))
    if out is not None:
        raise FosterError("--out: --resume continues where the run began", "leave --out out, or give --extend N")
    if finished(bundle):
        _check_same(request, load(bundle).made, {})
        Console(json_mode=asked.json).result(f"{bundle}: was finished already; next: foster eval {bundle}")
        return None
    run = interrupted(bundle)
    _check_same(request, run.settings, {"cache": run.use_cache, "device": run.device})
    session = asked.session(run.device, events=True)
    session = replace(session, use_cache=run.use_cache)
    return _read(run.settings, _paths(run.settings), bundle, session, Beginning(resume=True))


def _check_same(request: Request, began: Settings, known: dict[str, Any]) -> None:
    """Raise FosterError if DATA or an option differs from what the run began with."""
    if request.data and absolute(request.data) != began.paths:
        given = ", ".join(map(str, request.data))
        raise FosterError(f"DATA {given}: the run began with {', '.join(began.paths)}", "leave DATA out")
    request.asked.check_same(began, known)


def more_steps(path: Path, out: Path, count: int) -> tuple[Settings, dict[str, Any]]:
    """Settings and initial trees for `count` more steps of the finished bundle `path`, to be written to `out`."""
    made, tree = load(path).made, read_state(path)
    if out != path and out.exists():
        raise FosterError(f"--out {out}: exists already", "give another name, or remove it first")
    longer = replace(made, distill=replace(made.distill, steps=made.distill.steps + count))
    try:
        outer = tree["outer"]
        return longer, {"outer": outer, "start": {**tree["start"], "factors": outer["state"]["synthetic"]}}
    except (KeyError, TypeError) as error:
        raise FosterError(f"{path}: its state lacks {error}", "distill again") from error
