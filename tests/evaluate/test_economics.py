"""What a synthetic set costs and saves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foster_cli.evaluate.economics import data_bytes, economics, line, needed
from foster_cli.evaluate.rows import ROWS


def _bundle(folder: Path, data: list[str], coreset: bool = False, **metrics: Any) -> Any:
    """500 bytes of bundle, among them 200 of titles and 250 of the item factor; the evaluation is no part of it."""
    sizes = {"bundle.json": 10, "items.parquet": 200, "item_factor.safetensors": 250, "eval.json": 999}
    for name, size in {**sizes, "windows.safetensors" if coreset else "factors.safetensors": 40}.items():
        (folder / name).write_bytes(b"x" * size)
    made, windows = SimpleNamespace(paths=tuple(data)), object() if coreset else None
    return SimpleNamespace(path=folder, manifest={"metrics": metrics}, made=made, windows=windows)


def test_by_hand(tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    data.write_bytes(b"x" * 4000)
    bundle = _bundle(tmp_path, [str(data)], teacher_seconds=100.0, seconds_distill=150.0)
    found = economics([bundle], 110.0, 10.0)
    assert found == {"full": 110.0, "own": 10.0, "make": 250.0, "pays_after": 3, "bytes": 500, "data_bytes": 4000}
    assert "11 times less" in line(found) and "pays after 3 trainings" in line(found)
    assert economics([bundle], 260.0, 10.0)["pays_after"] == 1
    bundle.manifest["metrics"]["teacher"] = {"seconds": {"text": 30.0, "id": 20.5}}
    assert economics([bundle], 110.0, 10.0)["make"] == 300.5


def test_several_sets_cost_their_mean(tmp_path: Path) -> None:
    made = []
    for name, seconds in (("a", 100.0), ("b", 150.0)):
        (tmp_path / name).mkdir()
        made.append(_bundle(tmp_path / name, ["gone.parquet"], teacher_seconds=seconds, seconds_distill=10.0))
    (tmp_path / "b" / "items.parquet").write_bytes(b"x" * 301)
    found = economics(made, 60.0, 10.0)
    assert found["make"] == 135.0 and found["pays_after"] == 3
    assert found["bytes"] == 550 and found["data_bytes"] is None  # of 500 and 601: to the even one


@pytest.mark.parametrize("coreset", [False, True])
def test_what_a_row_needs(tmp_path: Path, coreset: bool) -> None:
    data = tmp_path / "data.parquet"
    data.write_bytes(b"x" * 4000)
    bundle = _bundle(tmp_path, [str(data)], coreset)
    assert data_bytes([str(data), str(data)]) == 8000
    found = {name: needed(name, bundle.path, data_bytes([str(data)])) for name in ROWS}
    small = {"synthetic": 500, "item_factor": 450, "untrained": 200, "text_similarity": 200}
    for name in ("synthetic_text", "without_factor"):  # a coreset has no such rows
        small[name] = 460 if coreset else 500
    assert found == {name: small.get(name, 4000) for name in ROWS}
    data.unlink()
    assert data_bytes([str(data)]) is None and data_bytes([]) is None
    assert needed("full", bundle.path, None) is None and needed("synthetic", bundle.path, None) == 500


def test_a_slower_training_never_pays_and_lost_data_have_no_size(tmp_path: Path) -> None:
    found = economics([_bundle(tmp_path, [str(tmp_path / "gone.csv")], seconds_select=2.0)], 5.0, 5.0)
    assert found["pays_after"] is None and found["data_bytes"] is None and found["make"] == 2.0
    assert "never pays" in line(found) and "times less" not in line(found) and "instead" not in line(found)
