"""Code that several commands share: parse lists, find the bundle and the folder, print results."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings, Settings, choice, from_dict, is_number

if TYPE_CHECKING:
    from foster_cli.bench.formats import Table
    from foster_cli.bundle import Bundle
    from foster_cli.commands.from_settings import Asked
    from foster_cli.console import Console
    from foster_cli.data.schema import Dataset
    from foster_cli.session import Session

RUNS = Path("runs")


def numbers(name: str, value: str) -> tuple[int, ...]:
    """`10,20` as numbers of at least 1, without repeats. Raises FosterError for anything else."""
    parts = [p.strip() for p in value.split(",")]
    if not all(is_number(p) and int(p) > 0 for p in parts):
        raise FosterError(f"{name} {value}: not a list of numbers", f"use for example {name} 10,20")
    return tuple(dict.fromkeys(int(p) for p in parts))


def names(option: str, value: str, known: Iterable[str]) -> tuple[str, ...]:
    """`a,b` as names. Raises FosterError for a name that is unknown or given twice."""
    found = tuple(part.strip() for part in value.split(","))
    for name in found:
        choice(option, name, known)
        if found.count(name) > 1:
            raise FosterError(f"{option}: {name} is given twice", "name each once")
    return found


def rates(name: str, value: str) -> tuple[float, ...]:
    """`3e-4,1e-3` as positive numbers, without repeats. Raises FosterError for anything else."""
    found = []
    for part in value.split(","):
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
    if not all(0 < x < math.inf for x in found):
        raise FosterError(f"{name} {value}: not a list of positive numbers", f"use for example {name} 3e-4,1e-3")
    return tuple(dict.fromkeys(found))


def absolute(paths: list[Path]) -> tuple[str, ...]:
    """Absolute paths, as a bundle records them."""
    from foster_cli.files import real_path

    return tuple(str(real_path(p)) for p in paths)


class Begun(NamedTuple):
    """The start of a command that fills a folder, after the data are read. `settings` name the files."""

    session: Session
    data: Dataset
    settings: Settings
    out: Path


def begin(paths: list[Path], asked: Asked, out: Path | None, kind: str) -> Begun:
    """Check folder and device, read the data, print where finished work is stored. Raises FosterError if one fails.

    The default of `out` is runs/<data>-<kind>-b<budget>.
    """
    from foster_cli.data.prepare import load_dataset

    if out is not None and out.exists() and not out.is_dir():
        raise FosterError(f"--out {out}: is a file", "give the name of a folder")
    session = asked.session()
    data = load_dataset(paths, asked.settings.prepare)
    out = out or RUNS / f"{safe_name(data.name)}-{kind}-b{asked.settings.distill.budget}"
    session.console.note(f"finished work is kept in {out}; the same command continues from there")
    if kind != "sweep":  # its points may have budgets of their own
        check_windows(data, asked.settings)
    settings = decided(asked.settings, asked.free, data, session)
    return Begun(session, data, replace(settings, paths=absolute(paths)), out)


def decided(settings: Settings, free: Collection[tuple[str, str]], data: Dataset, session: Session) -> Settings:
    """`settings` with the ranking that the data decide, and the best of the settings in `free` (`train.trials`)."""
    from foster_cli.train.task import settled
    from foster_cli.train.trials import with_best

    return with_best(settled(settings, data, session.console), free, data, session)


def check_windows(data: Dataset, settings: Settings) -> None:
    """Raise FosterError for a budget above the number of training windows, before anything slow begins."""
    from foster_cli.data.windows import training_windows
    from foster_cli.distill.checks import check_budget

    check_budget(len(training_windows(data, settings.distill.length)), settings.distill)


def newest_bundle(runs: Path) -> Path:
    """The bundle in `runs` that was written last. Raises FosterError if there is none."""
    found = [p.parent for p in runs.glob("*/bundle.json")] if runs.is_dir() else []
    if not found:
        raise FosterError(f"no bundle in {runs}/ here", "make one with `foster distill DATA`, or name one")
    return max(found, key=lambda p: ((p / "bundle.json").stat().st_mtime_ns, p.name))


def resolve_bundle(bundle: Path | None, console: Console) -> Path:
    """`bundle` or, if it is None, the newest one in runs/, whose name is printed to stderr."""
    if bundle is not None:
        return bundle
    newest = newest_bundle(RUNS)
    console.note(f"taking the newest bundle: {newest}")
    return newest


def safe_name(name: str) -> str:
    """A dataset's name, with characters that do not suit a path replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"


def next_run(name: str, method: str, budget: int) -> Path:
    """runs/<data>-<method>-b<budget>-<n>/ with the first n that neither a bundle nor an interrupted run has."""
    stem = f"{safe_name(name)}-{method}-b{budget}"
    n = 1
    while (RUNS / f"{stem}-{n}").exists() or (RUNS / f"{stem}-{n}.run").exists():
        n += 1
    return RUNS / f"{stem}-{n}"


def refuse_own_data(target: Path, bundle: Bundle) -> None:
    """Raise FosterError if `target` is a file that the bundle was made from, or a file of any bundle."""
    from foster_cli.bundle import CORESET_FILES, FILES, STATE_FILES, SUMS
    from foster_cli.files import real_path

    recorded = bundle.manifest.get("data", {}).get("path", [])
    if any(real_path(target) == real_path(Path(p)) for p in recorded):
        raise FosterError(f"--out {target}: is the data that the bundle was made from", "give another name")
    names = {*FILES, *CORESET_FILES, *STATE_FILES, SUMS}
    if target.is_file() and target.name in names and (target.parent / SUMS).is_file():
        raise FosterError(f"--out {target}: is a file of a bundle", "give another name")


def bundle_data(bundle: Bundle, data: list[Path] | None) -> Dataset:
    """The dataset of a bundle, from its recorded files or from `data`. Raises FosterError if it is another one."""
    from foster_cli.data.prepare import load_dataset

    recorded = bundle.manifest.get("data", {})
    if not {"path", "prepare", "hash"} <= set(recorded):
        raise FosterError(f"{bundle.path}: bundle.json does not say what it was distilled from", "distill again")
    prepare = from_dict(PrepareSettings, recorded["prepare"])
    paths = data or [Path(p) for p in recorded["path"]]
    missing = [p for p in paths if not p.exists()]
    if missing:
        raise FosterError(
            f"{missing[0]}: no such file (the bundle was distilled from it)", "name the data: --data FILE"
        )
    found = load_dataset(paths, prepare)
    if found.hash != recorded["hash"]:
        raise FosterError(
            f"{bundle.path} was distilled from other data than {', '.join(map(str, paths))} (the hashes differ)",
            "name the file it was made from: --data FILE",
        )
    return found


def as_json(found: Any) -> str:
    """A result as JSON text, for the files and for --json."""
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_json(found: Any) -> None:
    """Print a result as JSON to stdout."""
    sys.stdout.write(as_json(found))


def bench_folder(out: Path | None, name: str, console: Console) -> Path:
    """Create the folder `out`, by default `name` in runs/, and return it. Raises FosterError if that fails."""
    place = out or RUNS / safe_name(name)
    try:
        (place / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FosterError(f"--out {place}: {error.strerror or error}", "give another folder") from error
    console.note(f"finished rows are stored in {place / 'cells'}; give another --out to measure them again")
    return place


def finish_bench(console: Console, found: dict[str, Any], table: Table, out: Path, json_asked: bool) -> None:
    """Write bench.json, .csv and .md, each atomically; print the table, or the JSON."""
    from foster_cli.files import writing

    for ending, content in {"json": as_json(found), "csv": table.csv, "md": table.to_md()}.items():
        with writing(out / f"bench.{ending}") as tmp:
            tmp.write_text(content, encoding="utf-8", newline="\n")
    if json_asked:
        print_json(found)
        return
    console.table(table.title, table.head, table.cells)
    console.result(f"{out}: bench.json, bench.csv, bench.md")
