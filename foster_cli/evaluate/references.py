"""The rows beside a synthetic set: what all the data give, what a user would run instead, and what costs nothing.

In: `Sources` (a task, held-out cases, how real data are trained on). Out: a `Row`, by its name in `REFERENCES`. The few
settings of a row are chosen on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.console import Console, Stage
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases
from foster_cli.errors import FosterError
from foster_cli.evaluate.row import HeldOut, Row, Trained, model_row, ranked
from foster_cli.neighbours.registry import CHOOSE, Choose
from foster_cli.ranking.full import last_outputs, ranks
from foster_cli.runtime import peak_memory_mb, reset_peak
from foster_cli.settings import ModelConfig, TrainConfig
from foster_cli.train.anchors import full_teacher
from foster_cli.train.best import Best, Fit
from foster_cli.train.fit import fit_real
from foster_cli.train.mixture import mixture_of
from foster_cli.train.task import Task, has_texts

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """What the rows are made from. `seed`, `teacher`: of the distillation (`DistillConfig.teacher`); `seconds`: the
    processor time of the training on the synthetic set, for `equal_compute`."""

    task: Task
    test: HeldOut
    train: TrainConfig
    seed: int = 0
    teacher: str = "own"
    seconds: float = 0.0

    def known_by(self, items: str) -> Sources:
        """The same for a recommender that knows items by `items` (`ModelConfig.items`)."""
        return replace(self, task=self.task.known_by(items))


def full_model(task: Task, train: TrainConfig, seed: int) -> Trained:
    """A model trained on all real windows, or read from the cache."""
    teacher = full_teacher(task, train, seed, f"full data, items by {task.model.items}, seed {seed}")
    chosen = f"{len(teacher.anchors) - 1} epochs"
    return Trained(teacher.model, teacher.seconds, teacher.peak_mb, chosen, teacher.best)


def untrained_model(task: Task, seed: int) -> Trained:
    """A fresh model, with the offset of new items that validation chooses, as for every trained one."""
    model, fit = task.fresh(seed), Fit()
    Best(model, task.valid, fit).begin()
    return Trained(model, 0.0, peak_memory_mb(task.device), None, fit.untrained["R@10"])


def popularity_row(task: Task, test: HeldOut) -> Row:
    """Items ranked by their number of training interactions."""
    E = torch.from_numpy(test.counts.astype(np.float32))[:, None].to(task.device)
    H = torch.ones(max(len(test.cases), len(task.valid)), 1, device=task.device)
    valid = float((ranks(H[: len(task.valid)], E, task.valid.target, task.valid.seen) <= 10).mean())
    rank, share = ranked(H[: len(test.cases)], E, test)
    return Row(rank[None], [share], [0.0], [peak_memory_mb(task.device)], [None], [valid])


def profiles(E: Tensor, cases: Cases, last: int) -> Tensor:
    """(C, w): the mean text vector of each history's last `last` items."""
    out = torch.empty(len(cases), E.shape[1], device=E.device, dtype=E.dtype)
    for part in np.array_split(np.arange(len(cases)), max(1, len(cases) // 2048)):
        column = np.arange(cases.history.shape[1])[None, :]
        size = cases.lengths[part][:, None]
        keep = (column < size) & (column >= size - last)
        weight = torch.from_numpy(keep / keep.sum(1, keepdims=True)).to(E)
        items = torch.from_numpy(cases.history[part]).to(E.device).clamp_min(0)
        out[torch.from_numpy(part).to(E.device)] = (E[items] * weight[..., None]).sum(1)
    return out


def text_row(task: Task, test: HeldOut) -> Row:
    """Nearest texts to the last items by cosine; the number of last items to average is chosen on validation."""
    E = torch.nn.functional.normalize(task.text_vectors(), dim=-1)
    valid = task.valid
    score = {
        last: float((ranks(profiles(E, valid, last), E, valid.target, valid.seen) <= 10).mean())
        for last in (1, 2, 3, 5, 10, 20)
    }
    last = max(score, key=lambda key: score[key])
    rank, share = ranked(profiles(E, test.cases, last), E, test)
    return Row(rank[None], [share], [0.0], [peak_memory_mb(task.device)], [f"last {last}"], [score[last]])


def equal_model(of: Sources, seed: int) -> Trained:
    """A fresh model trained on all the data for as much processor time as the synthetic row took."""
    reset_peak()
    task = of.task
    model, stage = task.fresh(seed), Stage(task.session.console, f"equal compute, seed {seed}")
    fit = fit_real(model, task.windows, task.valid, of.train, seed, stage, seconds=of.seconds)
    peak, chosen = peak_memory_mb(task.device), f"{len(fit.history) - 1} epochs"
    return Trained(model, fit.seconds, peak, chosen, fit.valid["R@10"], fit.processor)


def factor_row(of: Sources, seed: int) -> Row:
    """The teacher's item embeddings, read and scored by an untrained backbone: what the item factor knows by itself."""
    task, test = of.task, of.test
    V = full_model(task, of.train, of.seed).model.embed_all()
    model = task.fresh(seed)
    hits = ranks(last_outputs(model, V, task.valid), V, task.valid.target, task.valid.seen) <= 10
    rank, share = ranked(last_outputs(model, V, test.cases), V, test)
    return Row(rank[None], [share], [0.0], [peak_memory_mb(task.device)], [None], [float(hits.mean())], [0.0])


def teacher_row(of: Sources) -> Row:
    """What was distilled: the recommender of the bundle's seed, or the mixture of `--teacher`."""
    task = of.task
    if of.teacher == "own":
        return _trained(of, of.seed, lambda s: full_model(task, of.train, s))
    began = time.perf_counter()
    found = mixture_of(of.teacher, task, of.train, of.seed)
    seconds, view = time.perf_counter() - began, found.view
    rank, share = ranked(view.last(of.test.cases), view.V, of.test)
    peak, text = peak_memory_mb(task.device), found.text().split("; ")[0]
    return Row(rank[None], [share], [seconds], [peak], [text], [found.valid["R@10"]], [0.0])


def counting_row(of: Sources, choose: Choose) -> Row:
    """A model that counts, with its settings chosen on validation."""
    began, before = time.perf_counter(), time.process_time()
    chosen = choose(of.task.data, of.task.valid)
    seconds, spent = time.perf_counter() - began, time.process_time() - before
    found = chosen.model.ranked(of.test.cases, of.test.k)
    share, text = float(found.top.mean()), chosen.text.split(": validation")[0]
    return Row(found.rank[None], [share], [seconds], [peak_memory_mb(of.task.device)], [text], [chosen.recall], [spent])


def _counted(name: str, of: Sources, seed: int) -> Row:
    return counting_row(of, CHOOSE[name])


def _trained(of: Sources, seed: int, train: Callable[[int], Trained]) -> Row:
    return model_row(of.test, seed, train)


def _kind(items: str, of: Sources, seed: int) -> Row:
    other = of.known_by(items)
    return _trained(other, seed, lambda s: full_model(other.task, other.train, s))


#: Makes a row, or a seed of a row in `SEEDED`.
REFERENCES: dict[str, Callable[[Sources, int], Row]] = {
    "full": lambda of, seed: _trained(of, seed, lambda s: full_model(of.task, of.train, s)),
    "text": partial(_kind, "text"),
    "id": partial(_kind, "id"),
    "teacher": lambda of, seed: teacher_row(of),
    "equal_compute": lambda of, seed: _trained(of, seed, lambda s: equal_model(of, s)),
    "untrained": lambda of, seed: _trained(of, seed, lambda s: untrained_model(of.task, s)),
    "item_factor": factor_row,
    **{name: partial(_counted, name) for name in ("item_knn", "knn_tfidf", "tfidf", "ease", "recent_popularity")},
    "popularity": lambda of, seed: popularity_row(of.task, of.test),
    "text_similarity": lambda of, seed: text_row(of.task, of.test),
}
#: The rows that depend on a seed.
SEEDED = ("full", "text", "id", "equal_compute", "untrained", "item_factor")
#: Rows that are made only if they are named, or all are asked for.
ON_REQUEST = ("id",)


def asked_rows(text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The rows of `known` that `--rows` asks for, in their order: A,B or all; None: all but those in `ON_REQUEST`.

    Raises FosterError if it names none, or one that is not in `known`.
    """
    if text is None:
        return tuple(name for name in known if name not in ON_REQUEST)
    names = [part.strip() for part in text.split(",") if part.strip()]
    if names == ["all"]:
        return known
    if not names:
        raise FosterError("--rows: names no row", f"use all, or some of {','.join(known)}")
    for name in names:
        if name not in known:
            raise FosterError(f"--rows {name}: no such row", f"use all, or some of {','.join(known)}")
    return tuple(name for name in known if name in names)


#: The rows that read texts, whatever the recommender reads.
TEXT_ROWS = ("synthetic_text", "text", "knn_tfidf", "tfidf", "text_similarity")
#: Why data without texts have no such row.
NO_TEXT = "no text at all"


def without_text_rows(names: tuple[str, ...], data: Dataset, console: Console) -> tuple[str, ...]:
    """`names` without the rows that need texts, if the data have none, and a note of them. A row that is named alone
    stays: it is refused by its name."""
    gone = [] if len(names) == 1 or has_texts(data) else [name for name in names if name in TEXT_ROWS]
    if gone and len(gone) == len(names):
        raise FosterError(f"--rows {','.join(names)}: {NO_TEXT}", "name other rows")
    if gone:
        console.note(f"rows {', '.join(gone)} are left out: {NO_TEXT}")
    return tuple(name for name in names if name not in gone)


def refusal(name: str, reason: str, known: Iterable[str]) -> FosterError:
    """The error for a row of `known` that is named alone and left out for `reason`."""
    return FosterError(f"--rows {name}: {reason}", f"name other rows, some of {','.join(known)}")


def left_out(name: str, model: ModelConfig, error: FosterError | None = None) -> str | None:
    """Why a row is left out unless it is named alone: it is another row, or `error` shows that these data have none."""
    same = {"text": "full", "synthetic_text": "synthetic"}
    if name in same and model.items != "both":
        return f"with --items text it is the row {same[name]}" if model.items == "text" else "without texts"
    if name == "id" and model.items == "id":
        return "with --items id it is the row full"
    if error is not None and name in ("text_similarity", "knn_tfidf", "tfidf", "ease"):
        return error.message
    return None
