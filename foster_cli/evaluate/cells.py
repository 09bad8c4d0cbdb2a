"""Finished pieces of a comparison, kept in a folder so that none is made twice.

In: a name, the fields that decide a piece (hashed into its file name), and how to make it. Out: a `Cell`, made or read.

    <name>-<key>.json           fields, what was measured and where, sha256 of that and of the ranks; written last
    <name>-<key>.safetensors    ranks (C,) float64, where the cell has some
    <name>-<key>/               a bundle

Each is written beside and renamed, so an interruption leaves whole cells only. One that was changed is made again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from foster_cli import __version__, bundle
from foster_cli.config import LATER, ModelConfig, TrainConfig, without
from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.evaluate.compare import Row
from foster_cli.models.source import find_encoder
from foster_cli.runtime import machine, save_tensors, sha256_file, sha256_json, writing

Float = npt.NDArray[np.float64]
#: Raised whenever a cell with the same fields would hold something else.
FORMAT = 1


def base_fields(
    data: Dataset, model: ModelConfig, train: TrainConfig, length: int, device: torch.device
) -> dict[str, Any]:  # fmt: skip
    """What decides every cell of one teacher: data, encoder, model, training on real data, kind of device, versions."""
    shape = without(dataclasses.asdict(model), LATER)
    encoder = None
    if model.items == "text":  # known by its hash, wherever it lies
        encoder = find_encoder(shape.pop("encoder"), model.pooling).hash
    return {
        "foster": __version__, "torch": torch.__version__, "device": device.type, "data": data.hash,
        "encoder": encoder, "model": shape, "train": dataclasses.asdict(train), "length": length,
    }  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What was measured, JSON-able, and ranks (C,) if it ranked the C test cases."""

    record: dict[str, Any]
    ranks: Float | None = None


@dataclass(frozen=True)
class Cells:
    """The cells in `folder`. `console` hears of damaged ones."""

    folder: Path
    console: Console

    def path(self, name: str, fields: dict[str, Any]) -> Path:
        """Where the cell lies, without an ending."""
        return self.folder / f"{name}-{sha256_json([FORMAT, fields])[:20]}"

    def cell(self, name: str, fields: dict[str, Any], make: Callable[[], Cell]) -> Cell:
        """The cell of `fields` as it was kept, or made now and kept. Raises FosterError where it cannot be written."""
        stem = self.path(name, fields)
        file, tensors = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".safetensors")
        if file.exists():
            found = _read(file, tensors)
            if found is not None:
                return found
            self._damaged(file)
        made = make()
        body: dict[str, Any] = {"fields": fields, "record": made.record, "machine": machine(), "ranks": None}
        if made.ranks is not None:
            with writing(tensors) as tmp:
                save_tensors({"ranks": torch.from_numpy(made.ranks)}, tmp)
            body["ranks"] = sha256_file(tensors)
        text = json.dumps({"sha256": sha256_json(body), **body}, indent=1, ensure_ascii=False, allow_nan=False)
        with writing(file) as tmp:
            tmp.write_text(text + "\n", encoding="utf-8")
        return made

    def bundle(self, name: str, fields: dict[str, Any], make: Callable[[Path], object]) -> bundle.Bundle:
        """The bundle of `fields` as it was kept, or as `make(path)` writes it now."""
        path = self.path(name, fields)
        if path.exists():
            try:
                return bundle.load(path)
            except FosterError as error:
                self._damaged(path, error.message)
        make(path)
        return bundle.load(path)

    def _damaged(self, path: Path, why: str = "its sha256 differs") -> None:
        self.console.note(f"a damaged cell is made again: {path} ({why})")


def _read(file: Path, tensors: Path) -> Cell | None:
    """The cell in these files; None where one is not as it was written."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(body, dict) or body.pop("sha256", None) != sha256_json(body):
        return None
    if body["ranks"] is None:
        return Cell(body["record"])
    if not tensors.is_file() or sha256_file(tensors) != body["ranks"]:
        return None
    return Cell(body["record"], load_file(tensors)["ranks"].numpy())


def as_cell(row: Row) -> Cell:
    """A row of one seed, ranks (1, C), as it is kept."""
    record = {"coverage": row.coverage[0], "train_seconds": row.train_seconds[0], "peak_mb": row.peak_mb[0]}
    return Cell({**record, "chosen": row.chosen[0], "valid": row.valid[0] if row.valid else None}, row.ranks[0])


def as_row(cell: Cell) -> Row:
    """A cell as the row of one seed, ranks (1, C). One written before `valid` was kept has none."""
    assert cell.ranks is not None
    r = {"valid": None, **cell.record}
    return Row(cell.ranks[None], [r["coverage"]], [r["train_seconds"]], [r["peak_mb"]], [r["chosen"]], [r["valid"]])
