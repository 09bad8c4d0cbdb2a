"""What several commands share: which bundle, which run folder, one place where settings become options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from foster_cli.console import Console
from foster_cli.errors import FosterError

if TYPE_CHECKING:
    import torch

    from foster_cli.bundle import Bundle
    from foster_cli.data.schema import Dataset

RUNS = Path("runs")


def note_ops(console: Console, device: torch.device) -> None:
    """Say once where plain PyTorch stands in for the extension. Raises FosterError for a wrong `FOSTER_OPS`."""
    from foster_cli import ops

    reason = ops.fallback(device)
    if reason is not None:
        console.note(f"plain PyTorch does the work of the compiled ops: {reason}")


def newest_bundle(runs: Path) -> Path:
    """The bundle in `runs` that was written last. Raises FosterError where there is none."""
    found = [p.parent for p in runs.glob("*/bundle.json")] if runs.is_dir() else []
    if not found:
        raise FosterError(f"no bundle in {runs}/ here", "make one with `foster distill DATA`, or name one")
    return max(found, key=lambda p: ((p / "bundle.json").stat().st_mtime_ns, p.name))


def resolve_bundle(bundle: Path | None, console: Console) -> Path:
    """`bundle`, or the newest one in runs/, which is then named on stderr."""
    if bundle is not None:
        return bundle
    newest = newest_bundle(RUNS)
    console.note(f"taking the newest bundle: {newest}")
    return newest


def safe_name(name: str) -> str:
    """A dataset's name made fit for a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"


def next_run(name: str, method: str, budget: int) -> Path:
    """runs/<data>-<method>-b<budget>-<n>/ with the first n that is free, also of an interrupted run."""
    stem = f"{safe_name(name)}-{method}-b{budget}"
    n = 1
    while (RUNS / f"{stem}-{n}").exists() or (RUNS / f"{stem}-{n}.run").exists():
        n += 1
    return RUNS / f"{stem}-{n}"


def spare_data(target: Path, bundle: Bundle) -> None:
    """FosterError where `--out` names a file that the bundle was made from."""
    from foster_cli.runtime import real_path

    recorded = bundle.manifest.get("data", {}).get("path", [])
    if any(real_path(target) == real_path(Path(p)) for p in recorded):
        raise FosterError(f"--out {target}: is the data that the bundle was made from", "give another name")


def bundle_data(bundle: Bundle, data: list[Path] | None) -> Dataset:
    """The dataset a bundle was distilled from: its recorded files, or `data`; FosterError if it is another one."""
    from foster_cli.config import from_dict
    from foster_cli.data.columns import PrepareSettings
    from foster_cli.data.prepare import load_dataset

    recorded = bundle.manifest.get("data", {})
    if not {"path", "prepare", "hash"} <= set(recorded):
        raise FosterError(f"{bundle.path}: bundle.json does not say what it was distilled from", "distill again")
    paths = data or [Path(p) for p in recorded["path"]]
    missing = [p for p in paths if not p.exists()]
    if missing:
        raise FosterError(
            f"{missing[0]}: no such file (the bundle was distilled from it)", "name the data: --data FILE"
        )
    used = dict(recorded["prepare"])
    if used.get("text_columns") is not None:
        used["text_columns"] = tuple(used["text_columns"])
    settings = from_dict(PrepareSettings, used)
    found = load_dataset(paths, settings)
    if found.hash != recorded["hash"]:
        raise FosterError(
            f"{bundle.path} was distilled from other data than {', '.join(map(str, paths))} (the hashes differ)",
            "name the file it was made from: --data FILE",
        )
    return found
