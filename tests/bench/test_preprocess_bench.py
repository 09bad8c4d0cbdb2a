"""`benches/preprocess.py`: a toy size has the numbers that the table needs, and finished rows stay."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

BENCHES = Path(__file__).parents[2] / "benches"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; it imports its neighbour `record`."""
    monkeypatch.syspath_prepend(str(BENCHES))
    return importlib.import_module("preprocess")


def test_a_toy_size(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "preprocess.json"

    def run(*arguments: str) -> str:
        command = ["preprocess.py", "--sizes", "5000", "--beside", "5000", "--per-user", "10", "--per-item", "10"]
        monkeypatch.setattr(sys, "argv", [*command, "--data", str(tmp_path), "--out", str(out), *arguments])
        script.main()
        return capsys.readouterr().out

    table = run()
    rows = json.loads(out.read_text())["rows"]
    assert [(row["program"], row["format"]) for row in rows] == [
        ("foster", "csv"), ("foster", "parquet"), ("pandas", "csv"), ("pandas", "parquet")
    ]  # fmt: skip
    assert len({(row["interactions"], row["users"], row["items"]) for row in rows}) == 1, "all keep the same"
    assert 1000 < rows[0]["interactions"] < 5000
    own = {row["format"]: row["seconds"] for row in rows if row["program"] == "foster"}
    for row in rows:
        assert row["exit"] == 0 and row["seconds"] > 0 and row["processor_s"] > 0 and row["peak_mb"] > 50
        assert row["out_mb"] > 0
        if row["program"] == "pandas":
            assert row["over_foster"] == pytest.approx(row["seconds"] / own[row["format"]])
            assert 0 < row["import_s"] < row["seconds"]
    assert table.count("| 5,000 | 500 | 500 |") == 4
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".json", ".parquet"]

    monkeypatch.setattr(script, "measured", None)
    assert run() == table, "from the file"


def test_what_fails_is_a_row_and_is_tried_again(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = script.measured([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], 3)
    assert failed["exit"] == -9 and failed["peak_mb"] > 0
    said = "import json; print('noise'); print(json.dumps({'users': 3, 'other': 4}))"
    done = script.measured([sys.executable, "-c", said], 2)
    assert done["exit"] == 0 and done["users"] == 3 and "other" not in done
    assert done["peak_mb"] < 40, "not the memory of this process"

    out, asked = tmp_path / "preprocess.json", []
    monkeypatch.setattr(script, "make_table", lambda asked, path: path)

    def measured(command: list[str], repeats: int) -> dict[str, Any]:
        asked.append(command)
        return {**failed, "exit": 0, "interactions": 9} if len(asked) == 2 else failed

    monkeypatch.setattr(script, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["x", "--sizes", "100", "--out", str(out), "--args=--memory 1GB"])
    script.main()
    assert "failed: -9" in capsys.readouterr().out
    assert [command[-2:] for command in asked] == [["--memory", "1GB"]] * 2, "the others only at sizes of --beside"
    script.main()
    assert len(asked) == 3 and asked[2][4].endswith(".parquet")


def test_recboles_table(script: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"user_id": ["U1", "U2"], "item_id": ["P1", "P2"], "timestamp": [5, 6]})
    table.assign(title=['a "b"', "c"]).to_parquet(tmp_path / "shop.parquet")
    script.make_atomic(tmp_path / "shop.parquet", tmp_path / "shop" / "shop.inter")
    lines = (tmp_path / "shop" / "shop.inter").read_text().splitlines()
    assert lines == ["user_id:token\titem_id:token\ttimestamp:float", "U1\tP1\t5", "U2\tP2\t6"]
