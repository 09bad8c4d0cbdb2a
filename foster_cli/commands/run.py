"""Starts the run of `foster distill`: a new run, a resumed one, or more steps of a finished bundle."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foster_cli.baselines import METHODS, adapted, refuse_unread
from foster_cli.baselines.coreset import shrink
from foster_cli.bundle import check_replaceable, load, read_state
from foster_cli.commands.from_settings import Asked
from foster_cli.commands.shared import absolute, check_windows, decided, next_run, read_data
from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.distill.checks import check_settings
from foster_cli.distill.run_folder import Beginning, finished, interrupted, run_folder
from foster_cli.errors import FosterError
from foster_cli.evaluate.data_of import same_data
from foster_cli.evaluate.economics import economics, line
from foster_cli.files import exists, quoted
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
    force: bool = False


@dataclass
class Run:
    """A run that is ready to start. `out`: the bundle; None: a free name is taken when it starts. `beginning`: whether
    it is new or continues a stored run."""

    settings: Settings
    data: Dataset
    out: Path | None
    session: Session
    beginning: Beginning

    def make(self) -> dict[str, Any]:
        """Write the bundle; returns the metrics of its manifest."""
        s, name = self.settings, self.data.name
        with next_run(name, s.method, s.distill.budget) if self.out is None else nullcontext(self.out) as self.out:
            metrics: dict[str, Any] = shrink(s, self.data, self.out, self.session, beginning=self.beginning)["metrics"]
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
                assert self.out is not None  # `make` took a name
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
    if out is not None:
        _check_free(out, request.force)
    settings = replace(adapted(asked.settings, asked.typed), paths=absolute(request.data))
    session, beginning = asked.session(events=True), Beginning(resume=False, replace=request.force)
    data = read_data(request.data, settings.prepare, session.console)
    return _ready(settings, data, out, session, beginning, asked.free)


def _check_free(out: Path, force: bool) -> None:
    """Raise FosterError if `out` exists, unless it is a bundle and `force` is given."""
    if exists(out) and not force:
        raise FosterError(f"--out {out}: exists already", "give another name, or --force to replace the bundle")
    if exists(out):
        check_replaceable(out)


def _ready(
    settings: Settings, data: Dataset, out: Path | None, session: Session, beginning: Beginning,
    free: Collection[tuple[str, str]] = (),
) -> Run:  # fmt: skip
    s = data.statistics
    session.console.note(f"{data.name}: {s['interactions']:,} interactions, {s['users']:,} users, {s['items']:,} items")
    check_windows(data, settings)
    settings = decided(settings, free, data, session)
    return Run(settings, data, out, session, beginning)


def _again(request: Request, began: Settings, recorded: str) -> tuple[Settings, Dataset]:
    """The data that the run or bundle to continue began with, which DATA names if they have moved; and its settings,
    with their path. Raises FosterError for other data, before anything is trained."""
    assert request.resume is not None
    paths = request.data or [Path(p) for p in began.paths]
    typed = f"foster distill --resume {quoted(request.resume)} FILE"
    if request.extend is not None:
        typed += f" --extend {request.extend}" + (f" --out {quoted(request.out)}" if request.out is not None else "")
    missing, other = f"if it was moved, name it: {typed}", f"name the data that it began with: {typed}"
    data = same_data(paths, began.prepare, recorded, f"{request.resume} began with", missing, other)
    return replace(began, paths=absolute(paths)), data


def _resumed(request: Request, bundle: Path) -> Run | None:
    """The run that `--resume` continues (with `--extend`: by N more steps); None if it is finished already.

    Raises FosterError if there is nothing to continue, or if an option differs from the run's.
    """
    asked, out, extend = request.asked, request.out, request.extend
    if request.force and (extend is None or out is None):
        raise FosterError("--force: --resume replaces nothing but its own bundle", "leave it out")
    if "settings" in asked.typed:
        raise FosterError("--settings: --resume continues with the settings of the run", "leave it out")
    if extend is not None:
        positive("--extend", extend)
        if run_folder(bundle).exists() and not finished(bundle):
            raise FosterError(f"{bundle}: is not finished", f"continue it first: foster distill --resume {bundle}")
        out = bundle if out is None else out
        if out != bundle:
            _check_free(out, request.force)
        settings, trees = more_steps(bundle, out, extend)
        asked.check_same(settings, {})  # a bundle does not say whether it used the cache
        session, beginning = asked.session(events=True), Beginning(False, trees, out == bundle or request.force)
        settings, data = _again(request, settings, load(bundle).manifest["data"]["hash"])
        return _ready(settings, data, out, session, beginning)
    if out is not None:
        raise FosterError("--out: --resume continues where the run began", "leave --out out, or give --extend N")
    if finished(bundle):
        asked.check_same(load(bundle).made, {})
        Console(json_mode=asked.json).result(f"{bundle}: was finished already; next: foster eval {bundle}")
        return None
    run = interrupted(bundle)
    asked.check_same(run.settings, {"cache": run.use_cache, "device": run.device})
    session = asked.session(run.device, events=True)
    session = replace(session, use_cache=run.use_cache)
    settings, data = _again(request, run.settings, run.data)
    return _ready(settings, data, bundle, session, Beginning(resume=True))


def more_steps(path: Path, out: Path, count: int) -> tuple[Settings, dict[str, Any]]:
    """Settings and initial trees for `count` more steps of the finished bundle `path`, to be written to `out`."""
    made, tree = load(path).made, read_state(path)
    if out == path:
        check_replaceable(path)
    longer = replace(made, distill=replace(made.distill, steps=made.distill.steps + count))
    try:
        outer = tree["outer"]
        return longer, {"outer": outer, "start": {**tree["start"], "factors": outer["state"]["synthetic"]}}
    except (KeyError, TypeError) as error:
        raise FosterError(f"{path}: its state lacks {error}", "distill again") from error
