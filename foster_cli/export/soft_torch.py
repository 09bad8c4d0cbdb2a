"""Writes a folder for training on a bundle's soft targets without foster: a loader and its tensors.

foster_loader.py         reads the folder; needs only torch and safetensors (`export/foster_loader.py`)
tensors.safetensors      Q (M, rows, d), V (n, d); U, T, G; reads (r,), if positions have separate targets
items.json               item_ids and titles, n each, in the order of V
settings.json            how to train: learning_rate, steps, items_per_step; how Q is read: own, mix
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from foster_cli.errors import FosterError
from foster_cli.export.text import encodable

if TYPE_CHECKING:
    from foster_cli.export.job import Job

LOADER = Path(__file__).parent / "foster_loader.py"


def write(job: Job, folder: Path) -> None:
    """Write the four files. Raises FosterError for a coreset, which holds no soft targets."""
    from foster_cli.files import save_tensors

    bundle = job.bundle
    if bundle.windows is not None:
        raise FosterError("--format torch: the bundle holds real sequences, no soft targets", "use --format csv or hf")
    reading = bundle.reading
    tensors = {"Q": bundle.Q, "V": bundle.V, **bundle.factors}
    if reading.items is not None:
        tensors["reads"] = reading.items
    save_tensors(tensors, folder / "tensors.safetensors")
    named = {"item_ids": [encodable(i) for i in bundle.item_ids], "titles": [encodable(t) for t in bundle.titles]}
    (folder / "items.json").write_text(json.dumps(named), encoding="utf-8")
    recipe = bundle.recipe
    settings = {
        "format": 2, "learning_rate": bundle.learning_rate, "steps": recipe.steps,
        "items_per_step": recipe.items_per_step or len(bundle.item_ids), "own": reading.own, "mix": reading.mix,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    (folder / LOADER.name).write_bytes(LOADER.read_bytes())
