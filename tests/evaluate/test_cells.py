"""Cells: each is made once, every damage is seen, a row comes back from its cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import CASES, protocol_of
from foster_cli.evaluate.cells import Cell, Cells, as_cell, as_row, base_fields
from foster_cli.evaluate.rows import Row, joined
from foster_cli.files import sha256_json
from foster_cli.settings import ModelConfig, RankingConfig, Settings


def test_another_protocol_is_another_cell(dataset: Dataset) -> None:
    """Rates, ranks, bundles and remembered validations of all commands have these fields. What the data decide has the
    key of the same protocol given by hand."""

    def key(ranking: RankingConfig) -> str:
        settings = Settings(model=ModelConfig(items="id"), ranking=ranking)
        return sha256_json(base_fields(settings, dataset, torch.device("cpu")))

    decided = protocol_of(dataset, RankingConfig()).mask_seen
    assert key(RankingConfig()) == key(RankingConfig(decided))
    every = [key(RankingConfig(masked, which)) for masked in (True, False) for which in CASES]
    assert len(set(every)) == 6 and key(RankingConfig(cases="last")) in every


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    cells, made = Cells(tmp_path, SILENT), []

    def make() -> Cell:
        made.append(1)
        return Cell({"x": 0.1, "title": "ü"}, np.array([1.0, 2.5, 0.1]))

    for _ in range(3):
        found = cells.cell("a", {"rate": 1e-3}, make)
        assert found.record == {"x": 0.1, "title": "ü"}
        assert found.ranks is not None and found.ranks.dtype == np.float64 and found.ranks.tolist() == [1.0, 2.5, 0.1]
    assert len(made) == 1
    cells.cell("a", {"rate": 1e-2}, make)
    assert len(made) == 2 and len(list(tmp_path.iterdir())) == 4


def test_every_damage_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A byte of either file changed, a file cut short, one missing: the cell is made again, with a note."""
    cells = Cells(tmp_path, Console())
    made = []

    def make() -> Cell:
        made.append(1)
        return Cell({"x": 1.5}, np.array([1.0, 7.0]))

    cells.cell("a", {"f": 1}, make)
    whole = {p: p.read_bytes() for p in sorted(tmp_path.iterdir())}
    assert [p.suffix for p in whole] == [".json", ".safetensors"]
    changes = [
        (p, data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        for p, data in whole.items()
        for i in range(0, len(data), 5)
    ]
    changes += [(p, data[: len(data) // 2]) for p, data in whole.items()]
    changes += [(p, b"") for p in whole]
    changes += [(p, b"[1]") for p in whole]
    remade = 0
    for path, data in changes:
        path.write_bytes(data)
        before = len(made)
        found = cells.cell("a", {"f": 1}, make)
        assert found.record == {"x": 1.5} and found.ranks is not None and found.ranks.tolist() == [1.0, 7.0]
        remade += len(made) - before
        for p, content in whole.items():
            assert p.read_bytes() == content or p == path
            p.write_bytes(content)
    assert remade == len(changes)
    assert capfd.readouterr().err.count("a damaged cell is made again") == remade
    next(tmp_path.glob("*.safetensors")).unlink()
    assert cells.cell("a", {"f": 1}, make).ranks is not None


def test_an_interrupted_cell_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> Cell:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, SILENT).cell("a", {}, stop)
    assert list(tmp_path.iterdir()) == []


def test_a_row_comes_back_from_its_cells() -> None:
    row = Row(np.array([[1.0, 2.0], [3.0, 4.5]]), [0.1, 0.2], [1.0, 2.0], [5.0, 6.0], ["step 1", None])
    cells = [
        as_cell(Row(row.ranks[[i]], [row.coverage[i]], [row.train_seconds[i]], [row.peak_mb[i]], [row.chosen[i]]))
        for i in range(2)
    ]
    back = joined([as_row(cell) for cell in cells])
    assert back.ranks.tolist() == row.ranks.tolist()
    assert (back.coverage, back.train_seconds, back.peak_mb, back.chosen) == (
        row.coverage, row.train_seconds, row.peak_mb, row.chosen
    )  # fmt: skip
