"""From a dataset to a bundle of real sequences: teacher and budget as in `pipeline.py`, then a method's choice.

In: a `Dataset`, the settings, the name of a method that is `real`. Out: a bundle folder, written beside and renamed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foster_cli import bundle
from foster_cli.baselines import selector
from foster_cli.baselines.surrogate import Surrogate
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import window_users
from foster_cli.distill.pipeline import check_budget, check_settings, identity
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, peak_memory_mb, reset_peak, stream_seed
from foster_cli.train.memory import note_memory
from foster_cli.train.setting import full_teacher, make_setting


def run_coreset(
    method: str, data: Dataset, paths: list[str], prepare: PrepareSettings, model: ModelConfig, train: TrainConfig,
    config: DistillConfig, student: StudentConfig, seed: int, device: torch.device, out: Path,
    console: Console = SILENT, use_cache: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Choose `config.budget` training windows of `data` into the bundle `out`; returns its manifest."""
    check_settings(model, train, config, student)
    began = time.perf_counter()
    with matmul_precision(model.precision, device):
        setting = make_setting(data, model, config.length, device, console, use_cache)
        check_budget(setting, config)
        note_memory(setting, train, 0, config.budget, console)
        teacher = full_teacher(setting, train, seed, console, use_cache)
        reset_peak()
        users = window_users(data, config.length)
        surrogate = Surrogate(teacher, setting.windows, users, setting.valid, train)
        rng = np.random.default_rng(stream_seed(seed, "coreset", method))
        chosen_at = time.perf_counter()
        index = selector(method)(surrogate, config.budget, rng, console)
        seconds, peak = time.perf_counter() - chosen_at, peak_memory_mb(device)
        V = teacher.model.embed_all()
    windows = setting.windows.take(index)
    assert len(set(index.tolist())) == config.budget
    manifest = {
        **identity(method, setting, paths, prepare, train, config, student, V, seed),
        "metrics": {
            "contexts": index.tolist(), "full_valid_R@10": max(row["R@10"] for row in teacher.history),
            "untrained_valid_R@10": teacher.history[0]["R@10"], "seconds_select": seconds,
            "seconds_total": time.perf_counter() - began, "peak_mb": peak, "teacher_seconds": teacher.seconds,
        },
        "machine": machine(),
    }  # fmt: skip
    rows = zip(index.tolist(), users[index].tolist(), windows.lengths.tolist(), strict=True)
    log = [{"window": window, "user": user, "length": length} for window, user, length in rows]
    bundle.save_coreset(out, manifest, windows, V, data.catalogue.ids, data.catalogue.titles, log)
    return manifest
