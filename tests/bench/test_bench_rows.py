"""A row's process: how it can end, and what is kept of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foster_cli.bench import rows
from foster_cli.bench.child import answer
from foster_cli.bench.rows import RowRequest, ask, measured
from foster_cli.console import SILENT
from foster_cli.errors import FosterError
from foster_cli.evaluate.cells import Cells


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import json, os, signal, sys, time\nrequest = json.load(sys.stdin)\n{code}")


def test_a_row_that_is_done_carries_its_machine_and_load() -> None:
    row = ask({"a": [1, "é"]}, None, child("print('noise'); print(json.dumps({'status': 'done', 'got': request}))"))
    assert row["status"] == "done" and row["got"] == {"a": [1, "é"]}
    assert row["machine"]["torch"] == torch.__version__ and len(row["load"]) == 2


def test_a_row_that_is_killed_or_late_is_a_row() -> None:
    killed = ask({}, None, child("os.kill(os.getpid(), signal.SIGKILL)"))
    assert killed["status"] == "killed by SIGKILL" and "machine" in killed
    assert ask({}, None, child("os.kill(os.getpid(), signal.SIGSEGV)"))["status"] == "killed by SIGSEGV"
    assert ask({}, 0.5, child("time.sleep(60)"))["status"] == "over 0.5 s"


def test_what_is_wrong_or_broken_is_raised() -> None:
    wrong = {"status": "wrong", "message": "no such row", "hint": "use another"}
    with pytest.raises(FosterError, match="no such row; use another"):
        ask({}, None, child(f"print(json.dumps({wrong!r}))"))
    fault = {"status": "fault", "message": "KeyError: 'x'"}
    with pytest.raises(RuntimeError, match="KeyError: 'x'"):
        ask({}, None, child(f"print(json.dumps({fault!r}))"))
    with pytest.raises(RuntimeError, match="exit code 3"):
        ask({}, None, child("sys.exit(3)"))


def test_an_interruption_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *_: Any, **__: Any) -> Any:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask({}, None, child("time.sleep(60)"))
    assert started[0].returncode is not None


def allocate(*_: Any) -> dict[str, Any]:
    """More than any machine has: torch's own error."""
    return {"x": torch.empty(1 << 52).sum().item()}


def test_every_way_of_having_no_memory() -> None:
    def raising(error: Exception) -> Any:
        def measure(*_: Any) -> dict[str, Any]:
            raise error

        return measure

    full = {"status": "out of memory"}
    assert answer({}, allocate) == full
    for error in (
        MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):  # fmt: skip
        assert answer({}, raising(error)) == full
    assert answer({}, raising(RuntimeError("shapes differ"))) == {
        "status": "fault", "message": "RuntimeError: shapes differ"
    }  # fmt: skip
    assert answer({}, raising(FosterError("a", "b"))) == {"status": "wrong", "message": "a", "hint": "b"}
    assert answer({"n": 2}, lambda request, _: {"twice": 2 * request["n"]}) == {"status": "done", "twice": 4}


def test_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished row, one out of memory and a late one; not one that something killed."""
    answers = ["done", "out of memory", "over 5 s", "killed by SIGKILL", "done"]
    asked: list[dict[str, Any]] = []

    def asking(request: dict[str, Any], limit: float | None) -> dict[str, Any]:
        asked.append(request)
        return {"status": answers[len(asked) - 1], "load": [None, None]}

    monkeypatch.setattr(rows, "ask", asking)
    cells, ready = Cells(tmp_path, SILENT), []

    def row(number: int, limit: float | None = 5.0) -> str:
        request = {"number": number}
        return str(measured(cells, RowRequest("row", request, request, limit), lambda: ready.append(number))["status"])

    assert [row(i) for i in range(4)] == answers[:4]
    assert [row(i) for i in range(3)] == answers[:3] and len(asked) == 4
    assert row(3) == "done" and len(asked) == 5 and ready == [0, 1, 2, 3, 3]
    answers.append("done")
    assert row(2, limit=None) == "done" and len(asked) == 6  # with another limit it is another row
    assert all(json.loads(p.read_text())["record"]["status"] in answers for p in tmp_path.glob("row-*.json"))
