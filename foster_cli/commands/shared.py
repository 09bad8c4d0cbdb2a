"""Code that several commands share: parse lists, find the bundle and the folder, print results."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
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
    """Absolute paths and addresses, as a bundle records them. Raises FosterError for what can be read only once."""
    from foster_cli.data.readers.source import url_of
    from foster_cli.files import real_path

    for path in paths:
        if str(path) == "-" or path.is_fifo():
            name = "standard input" if str(path) == "-" else f"the pipe {path}"
            raise FosterError(
                f"{name} can be read only once, and foster eval reads the data again",
                f"foster preprocess {path} --out data.parquet, then use that file",
            )
    return tuple(url_of(str(path)) or str(real_path(path)) for path in paths)


class Begun(NamedTuple):
    """The start of a command that fills a folder, after the data are read. `settings` name the files."""

    session: Session
    data: Dataset
    settings: Settings
    out: Path


@contextmanager
def begin(paths: list[Path], asked: Asked, out: Path | None, kind: str, force: bool = False) -> Iterator[Begun]:
    """Check folder and device, read the data, print where finished work is stored. Raises FosterError if one fails, and
    while another process fills the folder.

    The default of `out` is runs/<data>-<kind>-b<budget>. `force`: whether a table of other data there is replaced.
    """
    from foster_cli.files import alone

    if out is not None and out.exists() and not out.is_dir():
        raise FosterError(f"--out {out}: is a file", "give the name of a folder")
    session = asked.session()
    data = read_data(paths, asked.settings.prepare, session.console)
    out = out or RUNS / f"{safe_name(data.name)}-{kind}-b{asked.settings.distill.budget}"
    session.console.note(f"finished work is kept in {out}; the same command continues from there")
    if kind != "sweep":  # its points may have budgets of their own
        check_windows(data, asked.settings)
    if kind != "tune":  # its study is of its data alone, and never replaced
        check_continues(out, kind, data.hash, force)
    with alone(out, f"foster {kind}"):
        settings = decided(asked.settings, asked.free, data, session)
        yield Begun(session, data, replace(settings, paths=absolute(paths)), out)


def read_data(paths: list[Path], prepare: PrepareSettings, console: Console) -> Dataset:
    """The dataset of `paths`. Of raw tables, what became of their rows is printed, and is an event."""
    from foster_cli.data.account import account_lines
    from foster_cli.data.prepare import load_dataset
    from foster_cli.data.store import is_prepared

    with console.working() as progress:
        data = load_dataset(paths, prepare, None, progress)
    if not (len(paths) == 1 and is_prepared(paths[0])):
        columns = data.settings["columns"]
        for line in account_lines(data.statistics, columns, data.bad):
            console.note(line)
        console.event(event="data", columns=columns, **data.statistics)
    return data


def check_continues(out: Path, kind: str, data: str, force: bool) -> None:
    """Raise FosterError if <kind>.json in the folder `out` is not of the dataset with the hash `data`, so that it would
    be replaced, unless `force` is given."""
    file = out / f"{kind}.json"
    if force or not file.exists():
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["data"]["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != data:
        raise FosterError(
            f"--out {out}: exists already, and its {kind}.json is of other data",
            "give another name, or --force to replace it",
        )


def decided(settings: Settings, free: Collection[tuple[str, str]], data: Dataset, session: Session) -> Settings:
    """`settings` with the ranking that the data decide, and the best of the settings in `free` (`train.trials`)."""
    from foster_cli.train.task import settled
    from foster_cli.train.trials import with_best

    return with_best(settled(settings, data, session.console), free, data, session)


def check_windows(data: Dataset, settings: Settings) -> None:
    """Raise FosterError for a budget above the number of training windows, before anything slow begins, and for data
    without texts where texts are read."""
    from foster_cli.data.windows import training_windows
    from foster_cli.distill.checks import check_budget
    from foster_cli.train.task import check_texts

    check_texts(data, settings.model, settings.distill.teacher)
    check_budget(len(training_windows(data, settings.distill.length)), settings.distill)


def newest_bundle(runs: Path) -> Path:
    """The bundle in `runs` that was written last. Raises FosterError if there is none."""
    from foster_cli.files import quoted

    found = [p.parent for p in runs.glob("*/bundle.json")] if runs.is_dir() else []
    begun = max(runs.glob("*.run/run-*.json"), key=lambda p: p.stat().st_mtime_ns, default=None)
    if not found and begun is not None:
        out = begun.parent.with_suffix("")
        raise FosterError(f"{out}: is not finished", f"continue it with `foster distill --resume {quoted(out)}`")
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


@contextmanager
def next_run(name: str, method: str, budget: int) -> Iterator[Path]:
    """runs/<data>-<method>-b<budget>-<n>/ with the first n that neither a bundle nor another run has.

    The folder <n>.run, which is made here, keeps the name from other processes. It is removed if nothing is left in it.
    """
    stem = f"{safe_name(name)}-{method}-b{budget}"
    out = next(path for n in itertools.count(1) if _reserved(path := RUNS / f"{stem}-{n}"))
    try:
        yield out
    finally:
        with suppress(OSError):  # an interrupted run is kept there, or it was removed
            out.with_name(out.name + ".run").rmdir()


def _reserved(out: Path) -> bool:
    """Whether the name `out` was free; then its run folder is made, so that it is not any more."""
    from foster_cli.files import disk_error

    folder = out.with_name(out.name + ".run")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise disk_error(error, folder) from error
    if out.exists():
        folder.rmdir()
        return False
    return True


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
    from foster_cli.evaluate.data_of import same_data

    recorded = bundle.manifest.get("data", {})
    if not {"path", "prepare", "hash"} <= set(recorded):
        raise FosterError(f"{bundle.path}: bundle.json does not say what it was distilled from", "distill again")
    paths, prepare = data or [Path(p) for p in recorded["path"]], from_dict(PrepareSettings, recorded["prepare"])
    return same_data(
        paths, prepare, recorded["hash"], f"{bundle.path} was distilled from", "name the data: --data FILE",
        "name the file it was made from: --data FILE",
    )  # fmt: skip


def as_json(found: Any) -> str:
    """A result as JSON text, for the files and for --json."""
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_json(found: Any) -> None:
    """Print a result as JSON to stdout."""
    sys.stdout.write(as_json(found))


@contextmanager
def bench_folder(out: Path | None, name: str, console: Console) -> Iterator[Path]:
    """Create the folder `out`, by default `name` in runs/, and hold its lock. Raises FosterError if that fails."""
    from foster_cli.files import alone

    place = out or RUNS / safe_name(name)
    with alone(place, "foster bench"):
        console.note(f"finished rows are stored in {place / 'cells'}; give another --out to measure them again")
        yield place


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
