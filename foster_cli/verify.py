"""`foster verify`: checks each file of a bundle, and that the files agree with each other.

In: a bundle's folder. Out: a `Finding` per check; a fault in the bundle is a finding, not an exception.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foster_cli import bundle
from foster_cli.distrust import read_small
from foster_cli.errors import FosterError
from foster_cli.settings import PARTS
from foster_cli.train.best import value_of

#: Largest CSV table that is read, in bytes.
MOST_TABLE = 1 << 28
#: The keys that `foster distill` writes into every manifest.
REQUIRED = ("format", "method", "data", "encoder", "item_factor", "model", "train", "distill", "student", "seed",
            "metrics", "machine")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of a check. `ok` None: the check was not possible. `said`: what was found."""

    name: str
    ok: bool | None
    said: str


def verify(path: Path) -> list[Finding]:
    """Every check that needs no data, in order; a check that depends on a failed one has `ok` None."""
    found: list[Finding] = []

    def look(name: str, at: Callable[[], str]) -> bool:
        try:
            found.append(Finding(name, True, at()))
        except (FosterError, ValueError, KeyError, TypeError, OSError) as error:
            said = error.message.removeprefix(f"{path}: ") if isinstance(error, FosterError) else str(error)
            found.append(Finding(name, False, said))
        return found[-1].ok is True

    if not look("SHA256SUMS", lambda: f"{len(bundle.stated_sums(path))} files"):
        return found
    stated = bundle.stated_sums(path)
    required = bundle.CORESET_FILES if bundle.WINDOWS in stated else bundle.FILES
    state = [name for name in bundle.STATE_FILES if name in stated]
    whole = [look(name, lambda name=name: _sum(path, stated, name)) for name in (*required, *state)]  # type: ignore[misc]
    loaded: list[bundle.Bundle] = []
    if not all(whole[: len(required)]) or not look("contents", lambda: _contents(path, loaded)):
        known = {f.name for f in found}
        later = [name for name in ("contents", "manifest", "log", "validations") if name not in known]
        return [*found, *(Finding(name, None, "not looked at") for name in later)]
    b = loaded[0]
    look("manifest", lambda: _manifest(b))
    look("log", lambda: f"{len(read_table(path / 'log.csv'))} rows")
    look("validations", lambda: _validations(b, read_table(path / "checks.csv")))
    if state:
        look("state", lambda: f"goes on after outer step {bundle.read_state(path)['outer']['step']}")
    return found


def _sum(path: Path, stated: dict[str, str], name: str) -> str:
    bundle.check_files(path, stated, [name])
    return f"{(path / name).stat().st_size:,} bytes, sha256 as stated"


def _contents(path: Path, loaded: list[bundle.Bundle]) -> str:
    """Load the bundle as every command does: checks shapes, types, finite values, ids and titles."""
    b = bundle.load(path)
    loaded.append(b)
    n, d = b.V.shape
    if len(set(b.item_ids)) != n:
        raise ValueError("an item id occurs twice")
    if b.windows is not None:
        return f"{len(b.windows)} real sequences over {n:,} items of width {d}"
    rows = len(b.factors["T"]) // (2 if b.own_goals else 1)
    return f"{len(b.factors['U'])} sequences x {rows} positions over {n:,} items of width {d}, all finite"


def _manifest(b: bundle.Bundle) -> str:
    m = b.manifest
    missing = [name for name in REQUIRED if name not in m]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    for name, kind in PARTS.items():
        known = {f.name for f in dataclasses.fields(kind)}
        unknown = set(m["data"]["prepare"] if name == "prepare" else m.get(name, {})) - known
        if unknown:
            raise ValueError(f"{name}.{min(unknown)} is no setting of this foster")
    if m["item_factor"].get("shape") != list(b.V.shape):
        raise ValueError("item_factor.shape is not that of V")
    M = len(b.windows) if b.windows is not None else len(b.factors["U"])
    if m["distill"].get("budget") != M:
        raise ValueError(f"distill.budget is not the number of sequences, {M}")
    return f"format {m['format']}, {m['method']}, made by foster {m['machine'].get('foster', '?')}"


def read_table(path: Path) -> list[dict[str, float]]:
    """A CSV file of finite numbers, a dict per row. Raises ValueError for anything else."""
    lines = read_small(path, MOST_TABLE).decode("utf-8").splitlines()
    if len(lines) < 2:
        return []
    try:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines, strict=True)]
    except (csv.Error, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not all(math.isfinite(v) for row in rows for v in row.values()):
        raise ValueError(f"{path.name}: a number that is not finite")
    return rows


def _validations(b: bundle.Bundle, rows: list[dict[str, float]]) -> str:
    metrics: dict[str, Any] = b.manifest.get("metrics", {})
    if not rows or "R@10" not in rows[0]:
        if b.windows is None:
            raise ValueError("checks.csv has no validation, which is a row with R@10")
        return "none"
    best = max(rows, key=value_of)
    said = metrics.get("valid_R@10")
    if not isinstance(said, (int, float)) or abs(said - best["R@10"]) > 1e-12:
        raise ValueError(f"the best of checks.csv is {best['R@10']:.4f}, the manifest says {said}")
    if metrics.get("best_step") != best["step"]:
        raise ValueError(
            f"the best step of checks.csv is {best['step']:.0f}, the manifest says {metrics.get('best_step')}"
        )
    _check_student_steps(b, best)
    return f"{len(rows)}, best R@10 {best['R@10']:.4f} at step {best['step']:.0f}"


def _check_student_steps(b: bundle.Bundle, best: dict[str, float]) -> None:
    """Raise ValueError unless the manifest says how long the models of the row `best` trained. In format 2 it need not:
    training on such a set takes the largest number that was tried."""
    said = b.manifest["metrics"].get("student_steps")
    if said is None and b.manifest["format"] < bundle.FORMAT:
        return
    found = int(best["student_steps"]) if "student_steps" in best else None
    if said != found:
        raise ValueError(f"the best student_steps of checks.csv is {found}, the manifest says {said}")
