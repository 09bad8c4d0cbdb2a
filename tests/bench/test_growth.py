"""`benches/growth.py`: a toy size has the numbers that the table needs, and finished sizes are not measured again."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).parents[2] / "benches"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; it imports its neighbour `record`."""
    monkeypatch.syspath_prepend(str(BENCHES))
    return importlib.import_module("growth")


def test_a_toy_size(script: Any) -> None:
    found = script.measure(3000, 120, steps=2, student_steps=3)
    assert 2000 < found["interactions"] < 4000 and 20 < found["items"] <= 120
    assert (found["steps"], found["student_steps"]) == (2, 3)
    assert found["epoch_s"] == pytest.approx(found["draw_s"] + found["step_s"] * found["epoch_steps"])
    assert found["own_s"] == pytest.approx(found["start_s"] + found["student_steps_s"])
    assert found["epoch_over_own"] == pytest.approx(found["epoch_s"] / found["own_s"])
    assert found["factor_bytes"] == 4 * 64 * found["items"]
    assert min(found[name] for name in ("step_s", "student_step_s", "own_s", "peak_mb")) > 0
    assert f"| {found['interactions']:,} | {found['items']:,} |" in script.markdown([found])


def test_finished_sizes_are_kept(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, asked = tmp_path / "growth.json", []
    row = {
        "interactions": 1000, "items": 100, "step_s": 0.1, "epoch_steps": 3, "epoch_s": 0.3, "student_step_s": 0.02,
        "start_s": 0.0, "own_s": 8.0, "epoch_over_own": 0.04, "steps": 40, "student_steps": 400,
    }  # fmt: skip

    def apart(size: int, items: int, steps: int, student_steps: int) -> dict[str, Any]:
        asked.append((size, items))
        return {**row, "steps": steps, "student_steps": student_steps}

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["growth.py", "--out", str(out), *arguments])
        script.main()

    monkeypatch.setattr(script, "record", lambda rows, out: out.write_text(
        json.dumps({"machine": script.machine(), "rows": rows})
    ))  # fmt: skip
    monkeypatch.setattr(script, "apart", apart)
    run("--sizes", "1000")
    run("--sizes", "2000", "1000")
    assert asked == [(1000, 379), (2000, 537)]  # 12 by the square root
    assert [row["asked"] for row in json.loads(out.read_text())["rows"]] == [1000, 2000]
    run("--sizes", "1000", "--items", "50")
    run("--sizes", "1000", "--steps", "7")
    assert asked[2:] == [(1000, 50), (1000, 379)]
    assert capsys.readouterr().out.count("| 1,000 | 100 |") == 1 + 2 + 3 + 1
