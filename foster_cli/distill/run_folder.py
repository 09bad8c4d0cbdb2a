"""The folder `<bundle>.run`, in which a distillation stores its state so that it can be resumed.

In: the settings, and all that the result depends on (`deciding`). Out: a `RunFolder` with a `Store` of trees:

    run      the settings, and all that the result depends on
    start-N  a starting point that was tried: its name, the sha256 of its Q, its validation
    start    the chosen starting point, how D~ is read, the sha256 of V
    outer    the outer loop between two steps: its whole state, the best D~, log and validations
    teacher/, teacher.run/   the teacher, if the cache is not used

One process at a time holds the folder's lock. The folder is removed once the bundle is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli.bundle import SUMS
from foster_cli.cache import discard
from foster_cli.checkpoint import Store
from foster_cli.console import Console
from foster_cli.distrust import read_json
from foster_cli.errors import FosterError, NotFinite
from foster_cli.files import disk_error, exists, quoted, real_path, sha256_file, taken
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.synthetic.factors import Synthetic
from foster_cli.synthetic.reading import Reading
from foster_cli.train.task import Task
from foster_cli.version import __version__


@dataclass(frozen=True)
class Start:
    """A start. `error`: share of |Q|^2 lost to the ranks; `contexts` (M,): window indices; `name`: kind and draw."""

    synthetic: Synthetic
    error: float
    contexts: list[int]
    name: str = "random"


@dataclass(frozen=True)
class Beginning:
    """How a run begins. `resume` True: continue the stored run, or fail naming the difference. False: fail if one is
    stored. None: continue the stored run if it is the same one, else clear it. `trees`: initial trees of a new run.
    `replace`: whether a bundle that is at the run's place when it begins is replaced in the end."""

    resume: bool | None = None
    trees: dict[str, Any] = dataclasses.field(default_factory=dict)
    replace: bool = True


IF_SAME = Beginning()


@dataclass(frozen=True)
class Interrupted:
    """What an interrupted run was started with. `data`: the hash of the dataset."""

    settings: Settings
    device: str
    use_cache: bool
    data: str


class OtherTeacher(FosterError):
    """The teacher is another one than the run needs, so that it cannot go on here."""


def _request(settings: Settings, session: Session) -> dict[str, Any]:
    """What the run was started with, as the tree `run` stores it. The names are those of the first release."""
    values = settings.to_dict()
    values["config"] = values.pop("distill")
    return {**values, "device": str(session.device), "use_cache": session.use_cache}


def interrupted(out: Path) -> Interrupted:
    """What the interrupted distillation into `out` was started with. Raises FosterError if there is none."""
    tree = Store(run_folder(out)).read("run")
    if tree is None:
        raise FosterError(f"{out}: no interrupted run of it is kept", "begin with `foster distill DATA`")
    values = dict(tree["request"])
    device, use_cache = values.pop("device"), values.pop("use_cache")
    values["distill"] = values.pop("config")
    return Interrupted(Settings.from_dict(values), device, use_cache, tree["fields"]["data"])


def deciding(settings: Settings, task: Task) -> dict[str, Any]:
    """All that the result depends on: settings, hashes of data and encoder, versions, device and threads."""
    sections, device = settings.sections(), task.device
    model = {k: v for k, v in sections["model"].items() if k != "encoder"}
    return {
        "data": task.data.hash, "encoder": None if task.source is None else task.source.hash,
        "method": settings.method, "seed": settings.seed, **model,
        **{f"{name} {k}": v for name in ("train", "distill", "student", "ranking") for k, v in sections[name].items()},
        "device": device.type, "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "foster": __version__, "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip


def run_folder(out: Path) -> Path:
    """The folder in which the distillation into the bundle `out` stores its state."""
    out = real_path(out)
    return out.with_name(out.name + ".run")


def standing(out: Path) -> str | None:
    """The sha256 of the sums of the bundle at `out`; empty for something else, None for nothing."""
    if not exists(out):
        return None
    return sha256_file(out / SUMS) if (out / SUMS).is_file() else ""


def finished(out: Path) -> bool:
    """Whether the bundle `out` is complete and nothing is left to do. Removes a leftover run folder of that bundle."""
    manifest, run = out / "bundle.json", Store(run_folder(out)).read("run")
    if not manifest.is_file():
        return False
    if run is not None:
        try:
            made = read_json(manifest)
        except (ValueError, OSError) as error:
            raise FosterError(f"{out}: its manifest cannot be read ({error})", "copy the bundle again") from error
        if not isinstance(made, dict) or made.get("distill") != run["request"]["config"]:
            return False  # a run with more steps, which will replace this bundle
        if run.get("instead") == standing(out):
            return False  # a run with --force, which will replace this bundle
        shutil.rmtree(run_folder(out), ignore_errors=True)
    return True


@dataclass
class RunFolder:
    """An open run folder."""

    folder: Path
    store: Store

    def distilling(self) -> Store:
        """The store of the stages after the teacher. Its clock continues from the time of earlier processes."""
        store = Store(self.folder)
        store.continue_clock()
        return store

    def untouched(self, beginning: Beginning) -> bool:
        """Whether the folder holds no more than what the run began with."""
        first = {f"{name}-{1:08d}" for name in ("run", *beginning.trees)}
        return all(p.stem in first for p in self.folder.iterdir() if p.name != "lock")

    def check_place(self, out: Path) -> None:
        """Raise FosterError if what is at `out` is not what was there when the run began: it would be replaced."""
        now, run = standing(out), self.store.read("run")
        if now is not None and run is not None and run.get("instead", now) != now:
            raise FosterError(
                f"{out}: something else was put there meanwhile",
                f"move it away, then `foster distill --resume {quoted(out)}`",
            )

    def finish(self) -> None:
        """Remove the folder: there is nothing to resume."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @classmethod
    @contextmanager
    def open(cls, out: Path, settings: Settings, task: Task, beginning: Beginning) -> Iterator[RunFolder]:
        """Lock the run folder of `out` and begin or continue the run as `beginning` says; else raise FosterError."""
        from filelock import FileLock, Timeout

        folder, session = run_folder(out), task.session
        lock = FileLock(str(folder / "lock"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FosterError(f"{out}: another process is making it", "wait for it, or give another --out") from error
        except OSError as error:
            raise disk_error(error, folder) from error
        opened = cls(folder, Store(folder))
        fresh = opened.store.read("run") is None
        run = {"request": _request(settings, session), "fields": deciding(settings, task)}
        try:
            _clear_leftovers(folder, out)
            opened._begin(out, run, beginning, session.console)
            yield opened
        except NotFinite:  # a second run would end the same way
            opened.finish()
            raise
        except FosterError as error:
            if fresh and (isinstance(error, OtherTeacher) or opened.untouched(beginning)):
                opened.finish()  # this process began the run and has done nothing for it, so nothing is lost
            raise
        except KeyboardInterrupt:
            if beginning.resume is not None:  # else the calling command resumes it by itself
                session.console.note(f"interrupted; continue with: foster distill --resume {out}")
            raise
        finally:
            if folder.is_dir() and Store(folder).read("run") is None:
                opened.finish()
            lock.release()

    def _begin(self, out: Path, run: dict[str, Any], beginning: Beginning, console: Console) -> None:
        found, resume = self.store.read("run"), beginning.resume
        if found is not None and resume is False:
            raise FosterError(
                f"{out}: an interrupted run is kept in {self.folder}",
                f"continue it with `foster distill --resume {out}`, or remove that folder",
            )
        if found is not None:
            change = difference(found["fields"], run["fields"])
            if change is None:
                paths = run["request"]["paths"]
                if found["request"]["paths"] != paths:  # the data were moved
                    self.store.write({"run": {**found, "request": {**found["request"], "paths": paths}}})
                return
            if resume:
                raise FosterError(f"{out}: {change[0]}", change[1])
            console.note(f"{self.folder} is of another run ({change[0]}); beginning anew")
        instead = _place(out, beginning)
        if found is None and resume:
            raise FosterError(f"{self.folder}: its state cannot be read", "remove it and begin anew")
        for path in self.folder.iterdir():
            if path.name != "lock":
                discard(path)
        self.store.write({**beginning.trees, "run": {**run, "instead": instead}})


def _place(out: Path, beginning: Beginning) -> str | None:
    """What the bundle of a new run will replace (`standing`). Raises FosterError if it may replace nothing, and another
    process has put something there since the command began."""
    now = standing(out)
    if now is not None and beginning.resume:
        raise FosterError(f"{out}: another process has finished it meanwhile", f"foster eval {quoted(out)}")
    if now is not None and not beginning.replace:
        raise taken(out)
    return now


def _clear_leftovers(folder: Path, out: Path) -> None:
    """Remove the partial files of a killed process, and put back a bundle that it was about to replace."""
    for old in folder.glob(f".{out.name}.old-*"):
        if not out.exists():
            old.rename(out)
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def difference(began: dict[str, Any], here: dict[str, Any]) -> tuple[str, str] | None:
    """The first field that differs, as a message and a hint; None if all are equal."""
    for name in [*began, *(k for k in here if k not in began)]:
        a, b = began.get(name), here.get(name)
        if a == b:
            continue
        if name in ("data", "encoder"):
            return f"this run began with another {name} (its hash differs)", "begin anew with another --out"
        if name == "threads":
            return f"this run began with {a} threads, here are {b}", f"set OMP_NUM_THREADS={a}"
        return f"this run began with {name} {a}, here is {b}", "begin anew with another --out"
    return None


def digest(x: Tensor) -> str:
    """The sha256 of a tensor's values."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def start_tree(start: Start, reading: Reading, V: Tensor) -> dict[str, Any]:
    """The chosen start as a tree to store."""
    strides = {name: p.stride() for name, p in start.synthetic.named_parameters()}
    return {
        "factors": start.synthetic.factors(), "strides": strides, "error": start.error, "contexts": start.contexts,
        "name": start.name, "own": reading.own, "items": reading.items, "mix": reading.mix, "V": digest(V),
    }  # fmt: skip


def stored_start(store: Store, V: Tensor) -> tuple[Start, Reading] | None:
    """The chosen start and its reading, if stored already. Raises FosterError if V (n, d) has changed since."""
    tree = store.read("start")
    if tree is None:
        return None
    if tree["V"] != digest(V):
        raise OtherTeacher(
            "the teacher here gives other item vectors than the one this set was begun with",
            "continue where it was begun, or begin anew with another --out",
        )
    factors = []
    for name in ("U", "T", "G"):  # restore the memory layout: it sets the order of sums, and so the last bits
        x = tree["factors"][name]
        factors.append(torch.empty_strided(x.shape, tree["strides"][name], dtype=x.dtype).copy_(x).to(V.device))
    items = None if tree["items"] is None else tree["items"].to(V.device)
    return Start(Synthetic(*factors), tree["error"], tree["contexts"], tree["name"]), Reading(
        tree["own"], items, tree["mix"]
    )
