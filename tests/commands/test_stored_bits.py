"""The bits in which `foster distill` stores a set, and what is recorded of how to train on it.

To run it alone: `pytest tests/commands/test_stored_bits.py`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from calling import Foster, distilled, ok, one_line, read_json
from safetensors.numpy import load_file

from foster_cli.baselines import td3
from foster_cli.bundle import load
from foster_cli.distill import pipeline
from foster_cli.synthetic import quantise
from foster_cli.train.best import WAYS

SMALL = ("--items", "id", "--width", "8")


def _arrays(bundle: str, name: str) -> dict[str, Any]:
    return dict(load_file(Path(bundle, f"{name}.safetensors")))


def test_exact_stores_what_was_made_and_the_default_what_is_near(foster: Foster, data: Path) -> None:
    """The teacher is the same one, so the codes stand for the exact factor up to half a step."""
    exact = distilled(foster, data, *SMALL, "--exact", out="exact")
    V = _arrays("exact", "item_factor")["V"]
    made = _arrays("exact", "factors")
    assert V.dtype == np.float32 and all(made[name].dtype == np.float32 for name in "UTG")
    loaded = load("exact")
    assert np.array_equal(loaded.V.numpy(), V) and np.array_equal(loaded.factors["G"].numpy(), made["G"])

    near = distilled(foster, data, *SMALL, out="near")
    codes, halves = _arrays("near", "item_factor"), _arrays("near", "factors")
    assert {name: x.dtype for name, x in codes.items()} == {"codes": np.uint8, "low": np.float32, "step": np.float32}
    assert all(halves[name].dtype == np.float16 for name in "UTG") and halves["reads"].dtype == np.int64
    found = load("near").V.numpy()
    assert np.array_equal(found, codes["low"] + codes["codes"].astype(np.float32) * codes["step"])
    difference = np.abs(found - V)
    assert difference.max() > 0 and (difference <= np.ptp(V, axis=0) / 255 / 2 * 1.001 + 1e-7).all()
    assert (exact["distill"]["exact"], near["distill"]["exact"]) == (True, False)
    sizes = [sum(Path(name, file).stat().st_size for file in ("item_factor.safetensors", "factors.safetensors"))
             for name in ("exact", "near")]  # fmt: skip
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("method", ["rollout", "td3"])
def test_exact_holds_for_every_method_that_makes_distributions(
    foster: Foster, data: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Numbers of 32 bits; without it, codes that stand for the same teacher's factor. --keep-state stays refused: only
    FOSTER's own loop can be continued."""
    monkeypatch.setattr(td3, "TD3Config", partial(td3.TD3Config, inner_steps=4, window=2, real_batch=16))
    steps = ("--steps", "1") if method == "td3" else ("--draws", "1")
    words = ("distill", data, "--method", method, "--budget", "3", "--length", "6", "--epochs", "1", *steps, *SMALL,
             "--student-steps", "10", "--check-seeds", "1")  # fmt: skip
    for out, more in (("exact", ("--exact",)), ("near", ())):
        ok(foster(*words, *more, "--out", out))
        assert read_json(Path(out, "bundle.json"))["distill"]["exact"] is (out == "exact")
    V = _arrays("exact", "item_factor")["V"]
    assert {x.dtype for x in (V, *_arrays("exact", "factors").values())} == {np.dtype(np.float32)}
    assert set(_arrays("near", "item_factor")) == {"codes", "low", "step"}
    assert {x.dtype for x in _arrays("near", "factors").values()} == {np.dtype(np.float16)}
    assert (np.abs(load("near").V.numpy() - V) <= np.ptp(V, axis=0) / 255 / 2 * 1.001 + 1e-7).all()
    one_line(foster(*words, "--keep-state"), "--keep-state", f"--method {method}")


@pytest.mark.parametrize(("loses", "bits"), [((8,), 16), ((8, 16), 32)])
def test_bits_that_validation_does_not_allow_are_not_used(
    foster: Foster, data: Path, monkeypatch: pytest.MonkeyPatch, loses: tuple[int, ...], bits: int
) -> None:
    """The set is made with the factor that its bundle restores, whatever was stored."""
    seen: list[torch.Tensor] = []
    exact: list[torch.Tensor] = []
    original = pipeline.Problem

    def quality(H: torch.Tensor, V: torch.Tensor, cases: Any) -> dict[str, float]:
        exact[:] = exact or [V]  # the unrounded factor is measured first
        rounded = [x for x in loses if torch.equal(V, quantise.restored(quantise.stored(exact[0], x)))]
        return {"R@10": 0.5 if rounded else 1.0}

    def problem(*args: Any) -> Any:
        seen.append(args[2])
        return original(*args)

    monkeypatch.setattr(pipeline, "quality", quality)
    monkeypatch.setattr(pipeline, "Problem", problem)
    distilled(foster, data, *SMALL)
    stored = _arrays("bundle", "item_factor")
    assert set(stored) == {"V"} and 8 * stored["V"].itemsize == bits
    assert 8 * _arrays("bundle", "factors")["G"].itemsize == bits
    assert torch.equal(load("bundle").V, seen[0]) and torch.equal(seen[0], exact[0]) == (bits == 32)


def test_how_to_train_on_it_is_recorded(foster: Foster, data: Path) -> None:
    """The steps of the best validation, which its table of validations holds too."""
    manifest = distilled(foster, data, *SMALL, "--student-steps", "100")
    metrics, checks = manifest["metrics"], pd.read_csv("bundle/checks.csv")
    best = checks[checks["step"] == metrics["best_step"]].iloc[0]
    assert metrics["student_steps"] == best["student_steps"] and metrics["valid_R@10"] == best["R@10"]
    assert isinstance(metrics["student_steps"], int) and metrics["student_steps"] in (0, 50, 100)
    assert metrics["teacher_way"] in WAYS
    recipe = load("bundle").recipe
    assert recipe.steps == metrics["student_steps"] and manifest["student"]["steps"] == 100
    assert (recipe.item_start, recipe.items_per_step) == ("V", 512)
