"""A measured row. A fresh process measures it, so that its peak memory is its own; a finished row is stored.

In: a JSON-able request (format: `child.py`). Out: a row with `status`: `done`, with the measurements; `out of memory`;
`over N s`; `killed by SIGKILL`, or by another signal. Every row has the load and the machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import Cell, Cells
from foster_cli.runtime import machine

#: The child: reads a request from its stdin, writes the row as one line on its stdout, its progress on stderr.
COMMAND = (sys.executable, "-m", "foster_cli.bench.child")


def measured_on() -> dict[str, Any]:
    """The versions and machine properties that affect a time: where these differ, a stored row is measured again."""
    here = machine()
    return {key: here[key] for key in ("foster", "torch", "cpu", "threads", "ops", "gpu")}


def load() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def ask(request: dict[str, Any], limit: float | None, command: tuple[str, ...] = COMMAND) -> dict[str, Any]:
    """The row of `request`, from a fresh process that has `limit` seconds (None: no limit).

    Raises FosterError for an invalid request, RuntimeError for a fault in the child.
    """
    before = load()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        answer, _ = child.communicate(json.dumps(request), timeout=limit)
    except subprocess.TimeoutExpired:
        row: dict[str, Any] = {"status": f"over {limit:g} s"}
    else:
        row = _row(child.returncode, answer)
    finally:
        child.kill()
        child.wait()
    return {**row, "load": [before, load()], "machine": machine()}


def _row(code: int, answer: str) -> dict[str, Any]:
    if code < 0:  # the system sends SIGKILL when memory runs out
        return {"status": f"killed by {signal.Signals(-code).name}"}
    row: dict[str, Any] = json.loads(answer.splitlines()[-1]) if answer.strip() else {"status": "fault"}
    if row["status"] == "wrong":
        raise FosterError(row["message"], row["hint"])
    if row["status"] == "fault":
        raise RuntimeError(f"a row ended with exit code {code}: {row.get('message', 'no answer')}")
    return row


@dataclass(frozen=True)
class RowRequest:
    """A requested row: the name of its cell, the `request` to the child, the `fields` that the row depends on, the time
    `limit` in seconds (None: no limit)."""

    name: str
    request: dict[str, Any]
    fields: dict[str, Any]
    limit: float | None


class _NotStored(Exception):
    """The row's process was killed: the row is shown, not stored, and measured again the next time."""


def measured(cells: Cells, asked: RowRequest, ready: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Read the stored row, or call `ready`, measure the row and store it. A row that was killed is not stored."""
    made: list[dict[str, Any]] = []

    def make() -> Cell:
        ready()
        made.append(ask(asked.request, asked.limit))
        if made[-1]["status"].startswith("killed"):
            raise _NotStored
        return Cell(made[-1])

    try:
        row = cells.cell(asked.name, {**asked.fields, "limit": asked.limit}, make).record
    except _NotStored:
        row = made[-1]
    if not made:
        cells.console.note(f"{asked.name}: kept from before")
    return row
