"""From a dataset to a bundle: teacher, V, starting point, outer loop, final settings.

In: a `Dataset` and the four settings dataclasses. Out: a bundle folder, written beside and renamed.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli import bundle
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, choice, positive
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.distill.loop import Problem, distill, fresh_check, make_subset
from foster_cli.distill.synthetic import (
    Start,
    diverse_contexts,
    from_tensor,
    random_start,
    real_tensor,
    rollout_tensor,
)
from foster_cli.errors import FosterError
from foster_cli.models.recommender import Recommender
from foster_cli.runtime import machine, peak_memory_mb, reset_peak, sha256_json, stream_seed
from foster_cli.train.setting import Setting, full_teacher, make_setting


def check_settings(model: ModelConfig, train: TrainConfig, config: DistillConfig, student: StudentConfig) -> None:
    """FosterError for a value out of range, before anything slow begins."""
    choice("--init", config.init, ("rollout", "real", "random"))
    choice("--subset", config.subset, ("fly", "kmeans"))
    choice("--barrier", config.barrier, ("gradient", "loss"))
    choice("--reset", config.reset, ("anchor", "random", "never"))
    choice("--dh-form", config.dh_form, ("rank", "mean", "raw"))
    choice("--outer-loss", config.outer_loss, ("bce", "softmax"))
    choice("--loss", train.loss, ("softmax", "bce"))
    if model.train_layers not in ("all", "none") and not (model.train_layers.isdecimal() and int(model.train_layers)):
        raise FosterError(
            f"--train-layers {model.train_layers}: not a choice", "use none, all, or a number of top layers"
        )
    for name, value in (("--budget", config.budget), ("--inner-steps", config.inner_steps),
                        ("--reset-every", config.reset_every), ("--check-every", config.check_every),
                        ("--check-seeds", config.check_seeds), ("--epochs", train.epochs),
                        ("--patience", train.patience)):  # fmt: skip
        positive(name, value)
    for name, value in (("heads", model.heads), ("layers", model.layers), ("batch", train.batch),
                        ("negatives", train.negatives), ("student check_every", student.check_every),
                        ("real_batch", config.real_batch)):  # fmt: skip
        positive(name, value)
    if model.width is not None:
        positive("--width", model.width)
    positive("--max-tokens", model.max_tokens, 3)  # room for [CLS], [SEP] and one word
    positive("dh_items", config.dh_items, 2)
    if not 0 <= model.dropout < 1:
        raise FosterError(f"dropout {model.dropout}: out of range", "use 0 or more, below 1")
    positive("--length", config.length, 2)
    positive("--steps", config.steps, 0)
    positive("--items-per-step", 2 if config.items_per_step is None else config.items_per_step, 2)
    for name, number in (("--eta", config.eta), ("--alpha", config.alpha), ("--dh-weight", config.dh_weight),
                         ("--inner-lr", config.inner_lr), ("--model-lr", config.model_lr),
                         ("--synthetic-lr", config.synthetic_lr), ("--lr", train.lr), ("--student-lr", student.lr),
                         ("--student-steps", student.steps), ("--gain", config.gain)):  # fmt: skip
        positive(name, number, 0)
    for name, rank, most in (
        ("--rank-user", config.rank_user, config.budget),
        ("--rank-time", config.rank_time, config.length),
    ):
        if rank is not None and not 1 <= rank <= most:
            raise FosterError(f"{name} {rank}: out of range", f"use 1 to {most}")


def check_budget(setting: Setting, config: DistillConfig) -> None:
    """FosterError for more synthetic sequences than there are training windows."""
    if config.budget > len(setting.windows):
        raise FosterError(
            f"--budget {config.budget}: there are only {len(setting.windows)} training windows",
            f"use --budget {len(setting.windows)} or fewer",
        )


def starting_point(setting: Setting, teacher: Recommender, V: Tensor, config: DistillConfig, seed: int) -> Start:
    """D~ before the first outer step: `random`, `real` or `rollout`."""
    M, L = config.budget, config.length
    if config.init == "random":
        rng = torch.Generator().manual_seed(stream_seed(seed, "init"))
        start = random_start(M, L, V.shape[1], config.rank_user, config.rank_time, rng)
        return Start(start.to(V.device), 0.0, [])
    contexts = diverse_contexts(teacher, V, setting.windows, M, np.random.default_rng(stream_seed(seed, "contexts")))
    if config.init == "rollout":
        Q = rollout_tensor(teacher, V, setting.windows, contexts, L, config.gain)
    else:
        Q = real_tensor(V, setting.windows, contexts, L, config.gain)
    synthetic, error = from_tensor(Q, config.rank_user, config.rank_time)
    return Start(synthetic.to(V.device), error, contexts)


def run(
    data: Dataset,
    paths: list[str],
    prepare: PrepareSettings,
    model: ModelConfig,
    train: TrainConfig,
    config: DistillConfig,
    student: StudentConfig,
    seed: int,
    device: torch.device,
    out: Path,
    console: Console = SILENT,
    use_cache: bool = True,
) -> dict[str, Any]:
    """Distil `data` into the bundle `out`; returns its manifest."""
    check_settings(model, train, config, student)
    began = time.perf_counter()
    setting = make_setting(data, model, config.length, device, console, use_cache)
    check_budget(setting, config)
    teacher = full_teacher(setting, train, seed, console, use_cache)
    full_valid = max(row["R@10"] for row in teacher.history)
    console.note(f"full data: validation R@10 {full_valid:.4f} (untrained {teacher.history[0]['R@10']:.4f})")
    reset_peak()
    V = teacher.model.embed_all()
    start = starting_point(setting, teacher.model, V, config, seed)
    if start.error:
        console.note(f"the ranks leave out {start.error:.1%} of the squared length of Q")
    subset = make_subset(config, V, seed)
    problem = Problem(teacher, setting.fresh, V, setting.windows, subset, config, train, seed)
    check = fresh_check(setting.fresh, V, subset, setting.valid, student, seed, config.check_seeds, Console(quiet=True))
    result = distill(problem, start.synthetic, check, console)
    steps = [row["seconds"] for row in result.log]
    best = max(row["R@10"] for row in result.checks)
    manifest: dict[str, Any] = {
        "method": "foster",
        "data": {
            "name": data.name,
            "path": paths,
            "prepare": dataclasses.asdict(prepare),
            "hash": data.hash,
            "statistics": data.statistics,
            "settings": data.settings,
        },
        "encoder": {**setting.source.identity(), "train_layers": model.train_layers},
        "item_factor": {"shape": list(V.shape), "sha256_of_ids": sha256_json(data.catalogue.ids)},
        "model": dataclasses.asdict(model),
        "train": dataclasses.asdict(train),
        "distill": dataclasses.asdict(config),
        "student": dataclasses.asdict(student),
        "seed": seed,
        "metrics": {
            "best_step": result.best_step, "valid_R@10": best, "valid_R@10_step_0": result.checks[0]["R@10"],
            "full_valid_R@10": full_valid, "untrained_valid_R@10": teacher.history[0]["R@10"],
            "rank_error": start.error, "contexts": start.contexts, "stopped": result.stopped,
            "seconds_total": time.perf_counter() - began,
            "seconds_per_outer_step": float(np.median(steps)) if steps else None,
            "peak_mb": peak_memory_mb(device), "teacher_seconds": teacher.seconds,
        },
        "machine": machine(),
    }  # fmt: skip
    bundle.save(out, manifest, result.factors, V, data.catalogue.ids, data.catalogue.titles, result.log, result.checks)
    return manifest
