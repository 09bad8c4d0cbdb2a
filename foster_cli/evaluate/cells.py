"""A store on disk for the finished parts of a comparison, called cells, so that each is computed only once.

In: a name, the fields that a cell depends on (hashed into its file name), a function to make it. Out: a `Cell`.

    <name>-<key>.json           fields, measurements, machine, sha256 of these and of the ranks; written last
    <name>-<key>.safetensors    ranks (C,) float64, if the cell has any
    <name>-<key>/               a bundle

Files are written atomically, so an interruption leaves only whole cells. A cell with a wrong sha256 is made again.
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

from foster_cli import bundle
from foster_cli.cache import read_or_make
from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import protocol_of
from foster_cli.evaluate.row import Row
from foster_cli.files import save_tensors, sha256_file, sha256_json, writing
from foster_cli.models.source import find_encoder
from foster_cli.runtime import machine
from foster_cli.settings import LATER, Settings, without
from foster_cli.version import __version__

Float = npt.NDArray[np.float64]
#: To be incremented when a cell with the same fields would have other content.
FORMAT = 4


def base_fields(settings: Settings, data: Dataset, device: torch.device) -> dict[str, Any]:
    """The fields of every cell of one teacher: data, encoder, model, real-data training, ranking, kind of device,
    versions."""
    model = settings.model
    shape = without(dataclasses.asdict(model), LATER)
    encoder = None
    if model.items != "id":  # identified by its hash, wherever it is
        encoder = find_encoder(shape.pop("encoder"), model.pooling).hash
    return {
        "foster": __version__, "torch": torch.__version__, "device": device.type, "data": data.hash,
        "encoder": encoder, "model": shape, "train": dataclasses.asdict(settings.train),
        "length": settings.distill.length, "ranking": dataclasses.asdict(protocol_of(data, settings.ranking)),
    }  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """The measurements, JSON-able, and ranks (C,) if the C test cases were ranked."""

    record: dict[str, Any]
    ranks: Float | None = None


@dataclass(frozen=True)
class Cells:
    """The cells in `folder`. Damaged ones are reported on `console`."""

    folder: Path
    console: Console

    def path(self, name: str, fields: dict[str, Any]) -> Path:
        """The path of the cell without a suffix."""
        return self.folder / f"{name}-{sha256_json([FORMAT, fields])[:20]}"

    def cell(self, name: str, fields: dict[str, Any], make: Callable[[], Cell]) -> Cell:
        """Read the stored cell of `fields`, or make and store it. Raises FosterError if it cannot be written."""
        stem = self.path(name, fields)
        file, tensors = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".safetensors")

        def write() -> Cell:
            made = make()
            body: dict[str, Any] = {"fields": fields, "record": made.record, "machine": machine(), "ranks": None}
            if made.ranks is not None:
                with writing(tensors) as tmp:
                    save_tensors({"ranks": torch.from_numpy(made.ranks)}, tmp)
                body["ranks"] = sha256_file(tensors)
            with writing(file) as tmp:
                text = json.dumps({"sha256": sha256_json(body), **body}, indent=1, ensure_ascii=False, allow_nan=False)
                tmp.write_text(text + "\n", encoding="utf-8")
            return made

        return read_or_make(file, lambda: _read(file, tensors), write, self.console, "cell", lock=False)

    def bundle(self, name: str, fields: dict[str, Any], make: Callable[[Path], object]) -> bundle.Bundle:
        """Read the stored bundle of `fields`, or let `make(path)` write it."""
        path = self.path(name, fields)

        def write() -> bundle.Bundle:
            make(path)
            return bundle.load(path)

        return read_or_make(path, lambda: bundle.load(path), write, self.console, "cell", lock=False)


def _read(file: Path, tensors: Path) -> Cell:
    """Read the cell in these files. Raises ValueError if a sha256 differs."""
    body = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(body, dict) or body.pop("sha256", None) != sha256_json(body):
        raise ValueError("its sha256 differs")
    if body["ranks"] is None:
        return Cell(body["record"])
    if not tensors.is_file() or sha256_file(tensors) != body["ranks"]:
        raise ValueError("the sha256 of its ranks differs")
    return Cell(body["record"], load_file(tensors)["ranks"].numpy())


def as_cell(row: Row) -> Cell:
    """A row of one seed, ranks (1, C), as a cell."""
    record: dict[str, Any] = {
        "coverage": row.coverage[0],
        "train_seconds": row.train_seconds[0],
        "peak_mb": row.peak_mb[0],
    }
    record |= {"chosen": row.chosen[0], "valid": row.valid[0] if row.valid else None}
    return Cell(record | {"processor": row.processor[0] if row.processor else 0.0}, row.ranks[0])


def as_row(cell: Cell) -> Row:
    """A cell as the row of one seed, ranks (1, C)."""
    assert cell.ranks is not None
    names = ("coverage", "train_seconds", "peak_mb", "chosen", "valid", "processor")
    return Row(cell.ranks[None], *([cell.record[name]] for name in names))
