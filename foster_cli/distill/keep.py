"""Where a distillation is kept while it runs: the folder `<bundle>.run`, so that it can go on after any interruption.

In: what was asked for (`Request`) and what decides the numbers (`deciding`). Out: a `Kept` with a `Store` of trees:

    run      what was asked for, and what decides the numbers
    start-N  a starting point that was tried: its name, a sha256 of its Q, what validation said
    start    the chosen one, how D~ is read, a sha256 of V
    outer    the outer loop between two steps: everything that changes, the best D~, log and validations
    teacher/, teacher.run/   the teacher, where the cache is not used

One process holds its lock. It is removed when the bundle is whole.
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

from foster_cli import __version__
from foster_cli.checkpoint import Store
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, from_dict
from foster_cli.console import Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.distill.synthetic import Start, Synthetic
from foster_cli.distrust import read_json
from foster_cli.errors import FosterError, NotFinite
from foster_cli.ops.reading import Reading
from foster_cli.runtime import disk_error, real_path

_SETTINGS: dict[str, type] = {
    "prepare": PrepareSettings, "model": ModelConfig, "train": TrainConfig, "config": DistillConfig,
    "student": StudentConfig,
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a distillation was asked for."""

    paths: list[str]
    prepare: PrepareSettings
    model: ModelConfig
    train: TrainConfig
    config: DistillConfig
    student: StudentConfig
    seed: int
    device: str
    method: str
    use_cache: bool

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Request:
        """From `dataclasses.asdict`. Raises FosterError for an unknown setting."""
        return cls(**{k: from_dict(_SETTINGS[k], v) if k in _SETTINGS else v for k, v in tree.items()})


def deciding(request: Request, data: str, encoder: str | None, device: torch.device) -> dict[str, Any]:
    """All that decides the numbers: settings, hashes of data and encoder, versions, device and threads."""
    model = {k: v for k, v in dataclasses.asdict(request.model).items() if k != "encoder"}
    return {
        "data": data, "encoder": encoder, "method": request.method, "seed": request.seed, **model,
        **{f"train {k}": v for k, v in dataclasses.asdict(request.train).items()},
        **{f"distill {k}": v for k, v in dataclasses.asdict(request.config).items()},
        **{f"student {k}": v for k, v in dataclasses.asdict(request.student).items()},
        "device": device.type, "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "foster": __version__, "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip


def run_folder(out: Path) -> Path:
    """Where the distillation into the bundle `out` is kept."""
    out = real_path(out)
    return out.with_name(out.name + ".run")


def kept_request(out: Path) -> Request:
    """What the interrupted distillation into `out` was asked for. FosterError where there is none."""
    tree = Store(run_folder(out)).read("run")
    if tree is None:
        raise FosterError(f"{out}: no interrupted run of it is kept", "begin with `foster distill DATA`")
    return Request.of(tree["request"])


def finished(out: Path) -> bool:
    """Whether the bundle `out` is whole and nothing of its making is left to do; a folder left behind is removed."""
    manifest, run = out / "bundle.json", Store(run_folder(out)).read("run")
    if not manifest.is_file():
        return False
    if run is not None:
        made = read_json(manifest)
        if not isinstance(made, dict) or made.get("distill") != run["request"]["config"]:
            return False  # an extension that is to take this bundle's place
        shutil.rmtree(run_folder(out), ignore_errors=True)
    return True


@dataclass
class Kept:
    """An open run folder. `store` counts the time from when it is made: see `distilling`."""

    folder: Path
    store: Store

    def distilling(self) -> Store:
        """The store of what follows the teacher."""
        return Store(self.folder)

    def finish(self) -> None:
        """The bundle is whole: remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def keeping(
    out: Path, request: Request, fields: dict[str, Any], resume: bool | None, console: Console,
    seeded: dict[str, Any] | None = None,
) -> Iterator[Kept]:  # fmt: skip
    """Hold the run folder of `out`. `fields`: see `deciding`.

    `resume` True: there is one, of the same fields, or FosterError names the difference. False: there is none, or
    FosterError. None: one of the same fields is gone on with, another is cleared. `seeded`: trees for a new one.
    """
    from filelock import FileLock, Timeout

    folder = run_folder(out)
    lock = FileLock(str(folder / "lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FosterError(f"{out}: another process is making it", "wait for it, or give another --out") from error
    except OSError as error:
        raise disk_error(error, folder) from error
    kept = Kept(folder, Store(folder))
    try:
        _clear_leftovers(folder, out)
        _open(kept, out, request, fields, resume, console, seeded)
        yield kept
    except NotFinite:  # it would come to the same again
        kept.finish()
        raise
    except FosterError:
        if not any(p.name.split("-")[0] != "run" for p in folder.iterdir() if p.name != "lock"):
            kept.finish()  # nothing was done yet, so nothing is lost
        raise
    except KeyboardInterrupt:
        if resume is not None:  # else the command that asked for it goes on by itself
            console.note(f"interrupted; go on with: foster distill --resume {out}")
        raise
    finally:
        if folder.is_dir() and Store(folder).read("run") is None:
            kept.finish()
        lock.release()


def _clear_leftovers(folder: Path, out: Path) -> None:
    """Remove what a killed process was writing; a bundle that it had moved away to replace it is put back."""
    for old in folder.glob(f".{out.name}.old-*"):
        if not out.exists():
            old.rename(out)
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _open(
    kept: Kept, out: Path, request: Request, fields: dict[str, Any], resume: bool | None, console: Console,
    seeded: dict[str, Any] | None,
) -> None:  # fmt: skip
    found = kept.store.read("run")
    if found is not None and resume is False:
        raise FosterError(
            f"{out}: an interrupted run is kept in {kept.folder}",
            f"go on with `foster distill --resume {out}`, or remove that folder",
        )
    if found is not None:
        change = difference(found["fields"], fields)
        if change is None:
            return
        if resume:
            raise FosterError(f"{out}: {change[0]}", change[1])
        console.note(f"{kept.folder} is of another run ({change[0]}); beginning anew")
    elif resume:
        raise FosterError(f"{kept.folder}: its state cannot be read", "remove it and begin anew")
    for path in kept.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    kept.store.write({**(seeded or {}), "run": {"request": dataclasses.asdict(request), "fields": fields}})


def difference(began: dict[str, Any], here: dict[str, Any]) -> tuple[str, str] | None:
    """The first field that differs, and what to do; None where all are equal."""
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
    """sha256 of a tensor's values."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def start_tree(start: Start, reading: Reading, V: Tensor) -> dict[str, Any]:
    """The chosen start as it is kept."""
    strides = {name: p.stride() for name, p in start.synthetic.named_parameters()}
    return {
        "factors": start.synthetic.factors(), "strides": strides, "error": start.error, "contexts": start.contexts,
        "name": start.name, "own": reading.own, "items": reading.items, "mix": reading.mix, "V": digest(V),
    }  # fmt: skip


def kept_start(store: Store, V: Tensor) -> tuple[Start, Reading] | None:
    """The chosen start, if it was chosen already. FosterError where V (n, d) is not what it was."""
    tree = store.read("start")
    if tree is None:
        return None
    if tree["V"] != digest(V):
        raise FosterError(
            "the teacher here gives other item vectors than the one this set was begun with",
            "go on where it was begun, or begin anew with another --out",
        )
    factors = []
    for name in ("U", "T", "G"):  # in the memory layout they had: it decides the order of sums, and so the last bits
        x = tree["factors"][name]
        factors.append(torch.empty_strided(x.shape, tree["strides"][name], dtype=x.dtype).copy_(x).to(V.device))
    synthetic = Synthetic(*factors)
    items = None if tree["items"] is None else tree["items"].to(V.device)
    return Start(synthetic, tree["error"], tree["contexts"], tree["name"]), Reading(tree["own"], items, tree["mix"])
