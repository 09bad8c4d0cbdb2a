"""Makes a bundle of real sequences: trains the teacher as for a distillation, then selects training windows.

In: a `Dataset` and `Settings` with a `real` method. Out: a bundle folder, written under a temporary name, then renamed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from foster_cli import bundle
from foster_cli.baselines import METHODS
from foster_cli.baselines.surrogate import Surrogate
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import window_users
from foster_cli.distill.checks import check_budget, check_settings
from foster_cli.distill.pipeline import identity, run
from foster_cli.distill.run_folder import IF_SAME, Beginning
from foster_cli.distill.validation import ValidationCache, no_cache
from foster_cli.ops.precision import matmul_precision
from foster_cli.runtime import machine, peak_memory_mb, reset_peak, stream_seed
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.train.anchors import full_teacher
from foster_cli.train.memory import note_memory
from foster_cli.train.task import check_texts, make_task, settled


def shrink(
    settings: Settings, data: Dataset, out: Path, session: Session, cache: ValidationCache = no_cache,
    beginning: Beginning = IF_SAME,
) -> dict[str, Any]:  # fmt: skip
    """Make the bundle `out` with the method of `settings`, synthetic or real; returns its manifest."""
    method = METHODS[settings.method]
    if method.real:
        return run_coreset(settings, data, out, session, beginning.replace)
    return run(settings, data, out, session, method.loop, cache, beginning)


def run_coreset(
    settings: Settings, data: Dataset, out: Path, session: Session, replace: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Select training windows of `data`, as many as the budget, for the bundle `out`; returns its manifest. Raises
    FosterError if something is at `out` in the end, unless `replace` is True."""
    check_settings(settings)
    began, config, seed = time.perf_counter(), settings.distill, settings.seed
    check_texts(data, settings.model, settings.distill.teacher)
    settings = settled(settings, data, session.console)
    with matmul_precision(settings.model.precision, session.device):
        task = make_task(data, settings.model, config.length, session, settings.ranking)
        check_budget(len(task.windows), config)
        note_memory(task, settings.train, 0, config.budget)
        teacher = full_teacher(task, settings.train, seed)
        reset_peak()
        users = window_users(data, config.length)
        surrogate = Surrogate(teacher, task.windows, users, task.valid, settings.train)
        rng = np.random.default_rng(stream_seed(seed, "coreset", settings.method))
        chosen_at = time.perf_counter()
        index = METHODS[settings.method].select(surrogate, config.budget, rng, session.console)
        seconds, peak = time.perf_counter() - chosen_at, peak_memory_mb(session.device)
        V = teacher.model.embed_all()
    windows = task.windows.take(index).alone()
    assert len(set(index.tolist())) == config.budget
    metrics = {
        "contexts": index.tolist(), "full_valid_R@10": teacher.best,
        "untrained_valid_R@10": teacher.untrained["R@10"], "seconds_select": seconds,
        "seconds_total": time.perf_counter() - began, "peak_mb": peak, "teacher_seconds": teacher.seconds,
    }  # fmt: skip
    manifest = {**identity(settings, task, V), "metrics": metrics, "machine": machine()}
    rows = zip(index.tolist(), users[index].tolist(), windows.lengths.tolist(), strict=True)
    log = [{"window": window, "user": user, "length": length} for window, user, length in rows]
    bundle.save_coreset(out, bundle.Contents(manifest, V, data.catalogue, log), windows, replace)
    return manifest
