"""What the tests of the commands share that is no fixture: how `foster` is called, small data, what bundles hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import typer

from foster_cli.app import app


class Said(NamedTuple):
    """How a call ended and what it printed."""

    code: int
    out: str
    err: str


Foster = Callable[..., Said]

#: A distillation of seconds.
QUICK = ("--budget", "3", "--length", "6", "--steps", "2", "--epochs", "1", "--draws", "1", "--student-steps", "10",
         "--check-seeds", "1", "--reset-every", "1")  # fmt: skip


def ok(said: Said) -> str:
    """What a call that must succeed printed."""
    assert said.code == 0, said.err
    return said.out


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def distilled(foster: Foster, data: Path, *options: Any, out: str = "bundle") -> dict[str, Any]:
    """The manifest of a quick distillation into `out`."""
    ok(foster("distill", data, *QUICK, *options, "--out", out))
    return read_json(Path(out, "bundle.json"))


#: Rows that are made in seconds: the most important ones, and one that reads texts.
FEW_ROWS = ("synthetic", "full", "random", "untrained", "item_factor", "popularity", "text_similarity")


def evaluated(foster: Foster, *options: Any, bundle: str = "bundle") -> dict[str, Any]:
    """The JSON of `foster eval` with one seed, of `FEW_ROWS` unless `options` say otherwise."""
    few = ("--seeds", "1", "--rows", ",".join(FEW_ROWS), "--json")
    found: dict[str, Any] = json.loads(ok(foster("eval", bundle, *few, *options)))
    return found


def means(found: dict[str, Any], row: str) -> list[float]:
    """The metrics of a row."""
    return [found["rows"][row][metric]["mean"] for metric in ("R@10", "N@10", "R@20", "N@20", "MRR")]


#: What time and the machine decide in a row; a bundle holds the times of its making, so its size is one of them.
COSTS = ("train_seconds", "peak_mb", "select_seconds", "select_peak_mb", "seconds_per_outer_step", "bytes")
#: The row that trains for a measured time.
TIMED = "equal_compute"


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """All of a table's JSON but times, memory and the row that they decide."""
    rows = {name: {k: v for k, v in row.items() if k not in COSTS} for name, row in found["rows"].items()}
    rows.pop(TIMED, None)
    sizes = {k: v for k, v in (found.get("economics") or {}).items() if k.endswith("bytes")}
    paired = {k: v for k, v in found["paired"].items() if TIMED not in k.split("-")}
    return {**found, "rows": rows, "paired": paired, "economics": sizes}


def one_line(said: Said, *words: str) -> str:
    """The line of error in `said`, checked for form; it holds each of `words`."""
    assert said.code == 2, said
    lines = [line for line in said.err.splitlines() if line.startswith("foster: ")]
    assert len(lines) == 1, said.err
    line = lines[0]
    assert said.err.rstrip("\n").endswith(line), said.err
    assert "Traceback" not in said.err
    assert "; " in line, "no hint on what to type"
    assert not said.out
    for word in words:
        assert word in line, line
    return line


def headings(text: str) -> dict[str, dict[str, str]]:
    """What stands under each heading of a --help: the entries in one line each, by their first word."""
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            name = line.removesuffix(":")
            found[name] = []
        elif name and re.match(r"  \S", line):
            found[name].append(line.split())
        elif name:
            found[name][-1].extend(line.split())
    return {name: {entry[0]: " ".join(entry) for entry in entries} for name, entries in found.items()}


def commands() -> dict[str, Any]:
    """Every command of the app, by what is typed after `foster`."""
    found: dict[str, Any] = {}

    def walk(group: Any, before: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{before}{name} ")
            else:
                found[before + name] = command

    walk(typer.main.get_command(app), "")
    return found


def shop(users: int = 30, items: int = 25) -> pd.DataFrame:
    """Every user buys ten items, one a day; titles of two words."""
    rows = [
        (f"u{u:02d}", f"i{(7 * u + 3 * t) % items:02d}", 1_600_000_000 + 86_400 * t + u)
        for u in range(users)
        for t in range(10)
    ]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    words = ["red", "blue", "green", "small", "large"]
    table["title"] = [f"{words[int(i[1:]) % 5]} thing {i[1:]}" for i in table["item_id"]]
    return table


def files(folder: Path) -> set[str]:
    """Every file and folder under `folder`, hidden ones too."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}
