"""From a dataset to a bundle: teacher, V, starting point, outer loop, final settings.

In: a `Dataset` and the four settings dataclasses. Out: a bundle folder, written beside and renamed. While it runs, its
state is kept in `<bundle>.run` (`keep.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foster_cli import bundle
from foster_cli.checkpoint import Store
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig, choice, positive
from foster_cli.console import SILENT, Console
from foster_cli.data.columns import PrepareSettings
from foster_cli.data.schema import Dataset
from foster_cli.distill.keep import Kept, Request, deciding, digest, keeping, kept_start, start_tree
from foster_cli.distill.loop import Check, Distilled, Problem, distill, fresh_check, make_subset
from foster_cli.distill.synthetic import (
    Start,
    Synthetic,
    diverse_contexts,
    from_tensor,
    probe_items,
    probe_tensor,
    random_start,
    real_tensor,
    rollout_tensor,
    window_items,
    with_own_goals,
)
from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES
from foster_cli.models.encoder import check_encoder
from foster_cli.models.recommender import ITEMS, Recommender
from foster_cli.ops.precision import PRECISIONS, matmul_precision
from foster_cli.ops.reading import Reading, make_reading
from foster_cli.runtime import machine, peak_memory_mb, reset_peak, sha256_json, stream_seed
from foster_cli.train.memory import note_memory
from foster_cli.train.micro import Micro
from foster_cli.train.setting import Setting, full_teacher, make_setting

STARTS = ("probe", "guided", "rollout", "real", "random")
#: Makes D~ better, from a start, by validation: Algorithm 2 (`loop.distill`), or a compared method's.
Loop = Callable[[Problem, Synthetic, Check, Console], Distilled]
#: Told the seconds that something took in an earlier process.
Spent = Callable[[float], None]
#: Stands in for the validation of D~ by some fresh models, with its reading and their number: remembers what it found,
#: and says how long that took, which counts as this run's time.
Memory = Callable[[Check, Reading, int, Spent], Check]
#: Starts that ask the teacher about items: their goals are its answers, not the next items.
ASKING = {"probe", "guided"}


def check_model(model: ModelConfig) -> None:
    """FosterError for a value of the recommender's settings out of range."""
    choice("--precision", model.precision, PRECISIONS)
    choice("--backbone", model.backbone, tuple(BACKBONES))
    choice("--items", model.items, ITEMS)
    if model.train_layers not in ("all", "none") and not (model.train_layers.isdecimal() and int(model.train_layers)):
        raise FosterError(
            f"--train-layers {model.train_layers}: not a choice", "use none, all, or a number of top layers"
        )
    if model.items == "id" and model.train_layers != "none":
        raise FosterError(
            f"--train-layers {model.train_layers}: --items id has no text encoder", "use --train-layers none"
        )
    if model.items == "id" and model.precision != "fp32":
        raise FosterError(f"--precision {model.precision}: --items id has no text encoder", "use --precision fp32")
    check_encoder(model)
    positive("heads", model.heads)
    positive("layers", model.layers)
    if model.width is not None:
        positive("--width", model.width)
    positive("--max-tokens", model.max_tokens, 3)  # room for [CLS], [SEP] and one word
    if not 0 <= model.dropout < 1:
        raise FosterError(f"dropout {model.dropout}: out of range", "use 0 or more, below 1")


def check_settings(model: ModelConfig, train: TrainConfig, config: DistillConfig, student: StudentConfig) -> None:
    """FosterError for a value out of range, before anything slow begins."""
    for name in config.init.split(","):
        choice("--init", name, STARTS)
    positive("--draws", config.draws)
    choice("--targets", config.targets, ("own", "next"))
    asking = ASKING & set(config.init.split(","))
    if asking and config.targets == "next":
        raise FosterError(f"--init {min(asking)}: needs goals of its own", "use --targets own, or --init rollout")
    choice("--subset", config.subset, ("fly", "kmeans"))
    choice("--barrier", config.barrier, ("gradient", "loss"))
    choice("--reset", config.reset, ("anchor", "random", "never"))
    choice("--dh-form", config.dh_form, ("rank", "mean", "raw"))
    choice("--outer-loss", config.outer_loss, ("bce", "softmax"))
    choice("--loss", train.loss, ("softmax", "bce"))
    check_model(model)
    for name, value in (("--budget", config.budget), ("--inner-steps", config.inner_steps),
                        ("--reset-every", config.reset_every), ("--check-every", config.check_every),
                        ("--check-seeds", config.check_seeds), ("--epochs", train.epochs),
                        ("--patience", train.patience), ("train average", train.average),
                        ("student average", student.average), ("student patience", student.patience)):  # fmt: skip
        positive(name, value)
    for name, value in (("batch", train.batch),
                        ("negatives", train.negatives), ("student check_every", student.check_every),
                        ("real_batch", config.real_batch)):  # fmt: skip
        positive(name, value)
    positive("dh_items", config.dh_items, 2)
    positive("--length", config.length, 2)
    positive("--steps", config.steps, 0)
    positive("--items-per-step", 2 if config.items_per_step is None else config.items_per_step, 2)
    positive("--student-items", 2 if student.items_per_step is None else student.items_per_step, 2)
    for name, number in (("--eta", config.eta), ("--alpha", config.alpha), ("--dh-weight", config.dh_weight),
                         ("--inner-lr", config.inner_lr), ("--model-lr", config.model_lr),
                         ("--synthetic-lr", config.synthetic_lr), ("--lr", train.lr), ("--student-lr", student.lr),
                         ("--student-steps", student.steps), ("--gain", config.gain), ("warmup", train.warmup),
                         ("train weight_decay", train.weight_decay), ("train encoder_lr", train.encoder_lr),
                         ("student weight_decay", student.weight_decay), ("student encoder_lr", student.encoder_lr),
                         ("synthetic_weight_decay", config.synthetic_weight_decay)):  # fmt: skip
        positive(name, number, 0)
    for name, rank, most in (
        ("--rank-user", config.rank_user, config.budget),
        ("--rank-time", config.rank_time, config.length * (2 if config.targets == "own" else 1)),
    ):
        if rank is not None and not 1 <= rank <= most:
            raise FosterError(f"{name} {rank}: out of range", f"use 1 to {most}")


def check_budget(setting: Setting, config: DistillConfig) -> None:
    """FosterError for more synthetic sequences than there are training windows."""
    check_windows(len(setting.windows), config)


def check_windows(count: int, config: DistillConfig) -> None:
    """`check_budget` for `count` training windows."""
    if config.budget > count:
        raise FosterError(
            f"--budget {config.budget}: there are only {count} training windows", f"use --budget {count} or fewer"
        )


def starting_points(
    setting: Setting, teacher: Recommender, V: Tensor, config: DistillConfig, seed: int
) -> Iterator[Start]:
    """D~ before the first outer step: every kind in `config.init`, on each draw of what it starts from."""
    M, L, windows, own = config.budget, config.length, setting.windows, config.targets == "own"
    length = L + 1 if own else L  # a position more, whose goal is of its own
    kinds = config.init.split(",")
    if "random" in kinds:
        rng = torch.Generator().manual_seed(stream_seed(seed, "init"))
        rows = 2 * L if own else L
        start = random_start(M, rows, V.shape[1], config.rank_user, config.rank_time, rng)
        yield Start(start.to(V.device), 0.0, [])
    kinds = [kind for kind in kinds if kind != "random"]
    for draw in range(config.draws if kinds else 0):
        rng_contexts = np.random.default_rng(stream_seed(seed, "contexts", draw))
        contexts: list[int] = []
        if set(kinds) - {"probe"}:
            contexts = diverse_contexts(teacher, V, windows, M, rng_contexts)
        for kind in kinds:
            if kind == "probe":
                items = probe_items(windows, len(V), M, L, np.random.default_rng(stream_seed(seed, "probe", draw)))
                Q = probe_tensor(teacher, V, items, config.gain)
            elif kind == "guided":
                Q = probe_tensor(teacher, V, window_items(windows, contexts, L), config.gain)
            elif kind == "rollout":
                Q = rollout_tensor(teacher, V, windows, contexts, length, config.gain)
            else:
                Q = real_tensor(V, windows, contexts, length, config.gain)
            if own and kind not in ASKING:
                Q = with_own_goals(Q)
            synthetic, error = from_tensor(Q, config.rank_user, config.rank_time)
            yield Start(synthetic.to(V.device), error, [] if kind == "probe" else contexts, f"{kind} {draw + 1}")


def best_start(
    starts: Iterator[Start], check_of: Callable[[Reading, int], Check], config: DistillConfig, V: Tensor,
    console: Console, store: Store | None = None,
) -> tuple[Start, Reading]:  # fmt: skip
    """The start on which one fresh model does best on validation (the same seed for all), and how it is read.

    What each of them came to is kept in `store`, and read from there.
    """
    best: tuple[Start, Reading] | None = None
    value = -1.0
    kinds = config.init.split(",")
    several = sum(1 if kind == "random" else config.draws for kind in kinds) > 1
    for number, start in enumerate(starts):
        Q = start.synthetic().detach()
        reading = make_reading(config.targets == "own", config.mix, Q, V)
        if not several:
            return start, reading
        kept = None if store is None else store.read(f"start-{number}")
        if kept is not None and kept["Q"] == digest(Q):
            found = kept["found"]
        else:
            found = check_of(reading, 1)(Q)
            if store is not None:
                store.write({f"start-{number}": {"name": start.name, "Q": digest(Q), "found": found}})
        console.event(event="start", name=start.name, **found)
        console.note(f"start {start.name}: D~ trains a fresh model to validation R@10 {found['R@10']:.4f}")
        if best is None or found["R@10"] > value:
            best, value = (start, reading), found["R@10"]
    assert best is not None
    return best


def identity(
    method: str, setting: Setting, paths: list[str], prepare: PrepareSettings, train: TrainConfig,
    config: DistillConfig, student: StudentConfig, V: Tensor, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What a manifest says of method, data, encoder and settings: all but metrics and machine."""
    data, model = setting.data, setting.model
    return {
        "method": method,
        "data": {
            "name": data.name,
            "path": paths,
            "prepare": dataclasses.asdict(prepare),
            "hash": data.hash,
            "statistics": data.statistics,
            "settings": data.settings,
        },
        "encoder": setting.encoder_identity(),
        "item_factor": {"shape": list(V.shape), "sha256_of_ids": sha256_json(data.catalogue.ids)},
        "model": dataclasses.asdict(model),
        "train": dataclasses.asdict(train),
        "distill": dataclasses.asdict(config),
        "student": dataclasses.asdict(student),
        "seed": seed,
    }


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
    method: str = "foster",
    loop: Loop = distill,
    memory: Memory = lambda check, reading, count, spent: check,
    resume: bool | None = None,
    seeded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Distil `data` into the bundle `out`; returns its manifest. `method`: the name it goes by.

    `resume`: whether it goes on with what an interrupted run left (`keep.keeping`; None: where that is the same run).
    `seeded`: trees to go on from, of a run with fewer steps.
    """
    check_settings(model, train, config, student)
    began = time.perf_counter()
    with matmul_precision(model.precision, device):
        setting = make_setting(data, model, config.length, device, console, use_cache)
        check_budget(setting, config)
        note_memory(setting, train, config.real_batch, 2 * config.budget, console)
        request = Request(paths, prepare, model, train, config, student, seed, str(device), method, use_cache)
        fields = deciding(request, data.hash, None if setting.source is None else setting.source.hash, device)
        with keeping(out, request, fields, resume, console, seeded) as kept:
            return _run(setting, request, out, console, loop, memory, kept, began)


def _run(
    setting: Setting,
    request: Request,
    out: Path,
    console: Console,
    loop: Loop,
    memory: Memory,
    kept: Kept,
    began: float,
) -> dict[str, Any]:
    """Teacher, start, outer loop, bundle: each goes on where `kept` has it."""
    train, config, student, seed = request.train, request.config, request.student, request.seed
    data, device, use_cache = setting.data, setting.device, request.use_cache
    teacher = full_teacher(setting, train, seed, console, use_cache, keep=kept.folder)
    full_valid = max(row["R@10"] for row in teacher.history)
    console.note(f"full data: validation R@10 {full_valid:.4f} (untrained {teacher.history[0]['R@10']:.4f})")
    console.event(event="teacher", **{"R@10": full_valid, "untrained": teacher.history[0]["R@10"]})
    reset_peak()
    before, store = time.perf_counter() - began, kept.distilling()
    V = teacher.model.embed_all()
    subset = make_subset(config, V, seed)
    students_subset = make_subset(config, V, seed, student)

    def check_of(reading: Reading, count: int) -> Check:
        quiet = Console(quiet=True)
        own = fresh_check(setting.fresh, V, students_subset, setting.valid, student, seed, count, quiet, reading)
        return memory(own, reading, count, store.spent)

    chosen = kept_start(store, V)
    if chosen is None:
        starts = starting_points(setting, teacher.model, V, config, seed)
        chosen = best_start(starts, check_of, config, V, console, store)
        store.write({"start": start_tree(*chosen, V)})
    start, reading = chosen
    micro = Micro(note=console.note)
    problem = Problem(teacher, setting.fresh, V, setting.windows, subset, config, train, seed, reading, store, micro)
    if start.error:
        console.note(f"the ranks leave out {start.error:.1%} of the squared length of Q")
    result = loop(problem, start.synthetic, check_of(reading, config.check_seeds), console)
    seconds = store.elapsed
    state = None
    if result.last is not None and request.method == "foster":
        state = {"outer": result.last, "start": {**start_tree(start, reading, V), "factors": None}}
    steps = [row["seconds"] for row in result.log]
    best = max(row["R@10"] for row in result.checks)
    manifest: dict[str, Any] = {
        **identity(request.method, setting, request.paths, request.prepare, train, config, student, V, seed),
        "metrics": {
            "best_step": result.best_step, "valid_R@10": best, "valid_R@10_step_0": result.checks[0]["R@10"],
            "full_valid_R@10": full_valid, "untrained_valid_R@10": teacher.history[0]["R@10"],
            "start": start.name, "rank_error": start.error, "contexts": start.contexts, "stopped": result.stopped,
            "seconds_distill": seconds, "seconds_total": before + seconds,
            "seconds_per_outer_step": float(np.median(steps)) if steps else None,
            "peak_mb": peak_memory_mb(device), "teacher_seconds": teacher.seconds,
        },
        "machine": machine(),
    }  # fmt: skip
    bundle.save(
        out,
        manifest,
        result.factors,
        V,
        data.catalogue.ids,
        data.catalogue.titles,
        result.log,
        result.checks,
        reading.items,
        state,
        kept.folder,
    )
    kept.finish()
    return manifest
