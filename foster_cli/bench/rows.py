"""A measured row: asked of a fresh process, so that its peak of memory is its own, and kept when it is done.

In: a request, JSON-able (`child.py` says which). Out: a row with `status`: `done`, with what was measured;
`out of memory`; `over N s`; `killed by SIGKILL`, or by another signal. Every row carries load and machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from foster_cli.config import from_dict
from foster_cli.console import Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import Cell, Cells
from foster_cli.runtime import machine

#: The child: reads a request from its stdin, writes the row as one line on its stdout, its progress on stderr.
COMMAND = (sys.executable, "-m", "foster_cli.bench.child")


def read_prepare(values: dict[str, Any]) -> PrepareSettings:
    """`PrepareSettings` from JSON, where its columns are a list."""
    columns = values["text_columns"]
    return from_dict(PrepareSettings, {**values, "text_columns": None if columns is None else tuple(columns)})


def measured_on() -> dict[str, Any]:
    """What of versions and machine decides a time: a row that was measured on another one is measured again."""
    here = machine()
    return {key: here[key] for key in ("foster", "torch", "cpu", "threads", "ops", "gpu")}


def load() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def ask(request: dict[str, Any], limit: float | None, command: tuple[str, ...] = COMMAND) -> dict[str, Any]:
    """The row of `request`, from a fresh process that has `limit` seconds (None: as long as it takes).

    Raises FosterError for what the child finds wrong with the request.
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
    if code < 0:  # the system's own way of being out of memory is SIGKILL
        return {"status": f"killed by {signal.Signals(-code).name}"}
    row: dict[str, Any] = json.loads(answer.splitlines()[-1]) if answer.strip() else {"status": "fault"}
    if row["status"] == "wrong":
        raise FosterError(row["message"], row["hint"])
    if row["status"] == "fault":
        raise RuntimeError(f"a row ended with exit code {code}: {row.get('message', 'no answer')}")
    return row


def kept(
    cells: Cells, name: str, request: dict[str, Any], fields: dict[str, Any], limit: float | None, console: Console,
    ready: Callable[[], object] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """The row of `request` as it was kept under `fields`, or measured now; one that was killed is not kept.

    `ready` is called before a measurement.
    """
    made: list[dict[str, Any]] = []

    class NotKept(Exception):
        pass

    def make() -> Cell:
        ready()
        made.append(ask(request, limit))
        if made[-1]["status"].startswith("killed"):
            raise NotKept
        return Cell(made[-1])

    try:
        row = cells.cell(name, {**fields, "limit": limit}, make).record
    except NotKept:
        row = made[-1]
    if not made:
        console.note(f"{name}: kept from before")
    return row
