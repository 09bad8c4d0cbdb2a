"""`--format torch`: the loader in a process where foster cannot be imported, and the training loop of the docs.

To run it alone: `pytest tests/export/test_torch.py`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from bundles import sign
from safetensors.torch import load_file

from foster_cli.bundle import load
from foster_cli.errors import FosterError
from foster_cli.export import FORMATS
from foster_cli.export.job import Job

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
README = Path(__file__).parents[2] / "README.md"
ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "foster_cli":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
"""
BATCHES = (
    ALONE
    + """
from safetensors.torch import save_file
from foster_loader import load
out = {}
for folder in sys.argv[1:3]:
    data = load(folder)
    for steps, seed, size in ((3, 3, 7), (2, 0, 24), (None, 1, None)):
        for k, batch in enumerate(data.batches(steps, seed=seed, items_per_step=size)):
            for field, value in batch._asdict().items():
                out[f"{folder[-4:]} {seed} {k} {field}"] = value.clone()
save_file(out, sys.argv[3])
assert "foster_cli" not in sys.modules
"""
)


def exported(bundle: Path, folder: Path) -> Path:
    folder.mkdir()
    FORMATS["torch"].write(Job(load(bundle), folder.name), folder)
    return folder


def alone(code: str, *args: Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_batches_are_the_bundles_own_bit_for_bit(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folders = [exported(shop_bundle(kind), tmp_path / f"-{kind}"[-4:]) for kind in ("own", "next")]
    alone(BATCHES, *folders, tmp_path / "out", cwd=tmp_path)
    found = load_file(tmp_path / "out")
    count = 0
    for kind, folder in zip(("own", "next"), folders, strict=True):
        bundle = load(shop_bundle(kind))
        for steps, seed, size in ((3, 3, 7), (2, 0, 24), (None, 1, None)):
            for k, batch in enumerate(bundle.batches(steps, seed=seed, items_per_step=size)):
                assert len(batch.items) == (size or {"own": 16, "next": 24}[kind])
                for field in ("items", "targets", "read_items", "inputs"):
                    assert torch.equal(found[f"{folder.name} {seed} {k} {field}"], getattr(batch, field)), (
                        kind,
                        k,
                        field,
                    )
                    count += 1
    assert count == len(found) == 2 * (3 + 2 + 20) * 4


def test_the_folder_holds_the_factors_and_the_names(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = exported(shop_bundle("own"), tmp_path / "torch")
    bundle, tensors = load(shop_bundle("own")), load_file(folder / "tensors.safetensors")
    product = np.einsum("ma,tb,abd->mtd", *(tensors[name].double().numpy() for name in "UTG"))
    np.testing.assert_allclose(tensors["Q"].numpy(), product, atol=1e-5)
    assert torch.equal(tensors["V"], bundle.V) and torch.equal(tensors["reads"], bundle.reading.items)
    named = json.loads((folder / "items.json").read_text())
    assert named == {"item_ids": bundle.item_ids, "titles": bundle.titles}
    settings = json.loads((folder / "settings.json").read_text())
    how = {"learning_rate": bundle.learning_rate, "steps": 20, "items_per_step": 16}
    assert settings == {"format": 2, **how, "own": True, "mix": 2 * len(bundle.factors["U"])}
    other = json.loads((exported(shop_bundle("next"), tmp_path / "next") / "settings.json").read_text())
    assert other == {"format": 2, **how, "items_per_step": 24, "own": False, "mix": 0}


def test_the_loader_needs_torch_and_safetensors_alone(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    code = (exported(shop_bundle("next"), tmp_path / "torch") / "foster_loader.py").read_text()
    names = {
        (node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert names - set(sys.stdlib_module_names) == {"torch", "safetensors"}


def test_another_format_is_refused(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = exported(shop_bundle("next"), tmp_path / "torch")
    spec = importlib.util.spec_from_file_location("foster_loader", folder / "foster_loader.py")
    assert spec is not None and spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    assert loader.load().item_ids == load(shop_bundle("next")).item_ids
    settings = json.loads((folder / "settings.json").read_text())
    for number in (1, 3):  # 1 did not say how long to train
        (folder / "settings.json").write_text(json.dumps(settings | {"format": number}))
        with pytest.raises(ValueError, match=f"format {number}, this loader reads 2"):
            loader.load()


def test_a_coreset_has_no_soft_targets(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FosterError, match=r"real sequences.*--format csv or hf"):
        exported(shop_bundle("real"), tmp_path / "torch")


def _loop() -> str:
    """The training loop of docs/export.md."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (loop,) = [block for block in blocks if "foster_loader" in block]
    return loop


def test_a_set_that_is_best_without_training_has_no_batches_of_its_own(
    shop_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """The loops of the docs then train nothing, and a number of steps that is given holds."""
    path = copytree(shop_bundle("own"), tmp_path / "bundle")
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["metrics"]["student_steps"] = 0
    (path / "bundle.json").write_text(json.dumps(manifest))
    sign(path)
    bundle = load(path)
    assert bundle.recipe.steps == 0 and not list(bundle.batches()) and len(list(bundle.batches(2))) == 2
    exported(path, tmp_path / "games-torch")
    loop = _loop()
    assert loop.count("steps=800, ") == 1
    counted = "print(data.steps, len([*data.batches()]), len([*data.batches(2)]))"
    code = ALONE + loop.replace("steps=800, ", "") + counted
    titles, counts = alone(code, tmp_path, cwd=tmp_path).splitlines()
    assert set(ast.literal_eval(titles)) <= set(bundle.titles) and counts == "0 0 2"


def test_the_training_loop_of_the_docs(shop_bundle: Callable[..., Path], tmp_path: Path) -> None:
    loop = _loop()
    assert len(loop.splitlines()) <= 25
    assert loop in README.read_text(encoding="utf-8")
    exported(shop_bundle("own", 20.0), tmp_path / "games-torch")
    count = "    if 'first' not in globals(): first = loss.item()\n    optimizer.zero_grad()\n"
    assert loop.count("    optimizer.zero_grad()\n") == 1
    watched = loop.replace("    optimizer.zero_grad()\n", count)
    said = alone(ALONE + "torch.manual_seed(0)\n" + watched + "print(first, loss.item())", tmp_path, cwd=tmp_path)
    *_, titles, losses = said.splitlines()
    bundle = load(shop_bundle("own"))
    named = ast.literal_eval(titles)
    assert len(named) == 3 and set(named) <= set(bundle.titles)
    first, last = map(float, losses.split())
    assert last < 0.8 * first
