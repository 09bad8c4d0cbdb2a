"""The rows of a results table, their intervals and paired tests. All rows rank the same held-out cases, over all items.

In: a `Task` (data, fresh models) and a synthetic set, or real windows. Out: the JSON of the table. A row's ranks are
(seeds, C); intervals resample users and seeds together, so that they cover both kinds of noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.console import Stage
from foster_cli.data.windows import Cases, Int, Protocol, Windows, training_counts
from foster_cli.distill.algorithm1 import fit_synthetic
from foster_cli.errors import FosterError
from foster_cli.evaluate.bootstrap import Bootstrap
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import covered, last_outputs, ranks
from foster_cli.ranking.metrics import Metric, all_metrics
from foster_cli.runtime import peak_memory_mb, reset_peak, stream_seed
from foster_cli.settings import Settings, StudentConfig, TrainConfig
from foster_cli.synthetic.reading import SyntheticSet
from foster_cli.train.anchors import full_teacher
from foster_cli.train.fit import fit_real, validate
from foster_cli.train.task import Task

Float = npt.NDArray[np.float64]
#: Maximum number of validations of a model on a few real sequences, 20 steps apart.
FEW_CHECKS = 15
ROWS = ("synthetic", "full", "random", "untrained", "popularity", "text_similarity")
PAIRS = (("synthetic", "full"), ("synthetic", "random"), ("synthetic", "untrained"), ("full", "untrained"))


class Trained(NamedTuple):
    """A trained model and the costs of its training. `valid`: its validation R@10, if known."""

    model: Recommender
    seconds: float
    peak_mb: float
    chosen: Any
    valid: float | None = None


@dataclass
class Row:
    """One line of the table. `ranks` (seeds, C), 1 is best; `coverage` per seed, share of the catalogue; `valid` per
    seed, validation R@10 if known."""

    ranks: Float
    coverage: list[float]
    train_seconds: list[float]
    peak_mb: list[float]
    chosen: list[Any]
    valid: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """Held-out cases, the k of the coverage, the protocol of the cases, the training interactions (n,) of each item."""

    cases: Cases
    k: int
    protocol: Protocol
    counts: Int

    def describe(self) -> dict[str, Any]:
        """The entries of a result's JSON on the cases: how many there are, how many are cold, and by which protocol."""
        cold = int((self.counts[self.cases.target] == 0).sum())
        return {
            "cases": len(self.cases), "cold": {"cases": cold, "share": cold / len(self.cases)},
            "ranking": asdict(self.protocol),
        }  # fmt: skip


#: Gives a row of one seed, by its name: read from the store of an interrupted evaluation, or made now.
RowCache = Callable[[str, int, Callable[[], Row]], Row]


def make_now(name: str, seed: int, make: Callable[[], Row]) -> Row:
    """The `RowCache` that stores nothing."""
    return make()


def ranked(H: Tensor, E: Tensor, test: HeldOut) -> tuple[Float, float]:
    """Ranks (C,) and catalogue coverage of the top k."""
    cases = test.cases
    return ranks(H, E, cases.target, cases.seen), covered(H, E, test.k, cases.seen) / len(E)


def model_row(test: HeldOut, seed: int, train: Callable[[int], Trained]) -> Row:
    """The row of one trained model, `train(seed)`."""
    t = train(seed)
    E = t.model.embed_all()
    rank, share = ranked(last_outputs(t.model, E, test.cases), E, test)
    return Row(rank[None], [share], [t.seconds], [t.peak_mb], [t.chosen], [t.valid])


def joined(rows: list[Row]) -> Row:
    """Rows of different seeds as one row, ranks (all seeds, C)."""
    names = ("coverage", "train_seconds", "peak_mb", "chosen", "valid")
    columns = ([x for row in rows for x in getattr(row, name)] for name in names)
    return Row(np.concatenate([row.ranks for row in rows]), *columns)


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


def random_windows(windows: Windows, budget: int, seed: int) -> Windows:
    """`budget` windows drawn uniformly."""
    rng = np.random.default_rng(stream_seed(seed, "random"))
    return windows.take(np.sort(rng.choice(len(windows), budget, replace=False))).alone()


def few_model(task: Task, config: TrainConfig, windows: Windows, seed: int, label: str) -> Trained:
    """A model trained on a few real windows, all in every batch, with the loss that does better on validation."""
    reset_peak()
    best: tuple[float, Recommender, str] | None = None
    began = time.perf_counter()
    for loss in ("softmax", "bce"):
        model = task.fresh(seed)
        few = replace(config, loss=loss, batch=len(windows), epochs=FEW_CHECKS)
        fit = fit_real(model, windows, task.valid, few, seed, Stage(task.session.console, f"{label}, {loss}"))
        if best is None or fit.valid["R@10"] > best[0]:
            best = (fit.valid["R@10"], model, f"{loss}, {fit.best} steps")
    assert best is not None
    seconds = (time.perf_counter() - began) / 2
    return Trained(best[1], seconds, peak_memory_mb(task.device), best[2], best[0])


def synthetic_model(task: Task, D: SyntheticSet, student: StudentConfig, seed: int, label: str) -> Trained:
    """A fresh model trained on the synthetic set."""
    reset_peak()
    model = task.fresh(seed)
    fit = fit_synthetic(model, D, task.valid, student, seed, Stage(task.session.console, label))
    return Trained(model, fit.seconds, peak_memory_mb(task.device), f"step {fit.best}", fit.valid["R@10"])


def full_model(task: Task, train: TrainConfig, seed: int) -> Trained:
    """A model trained on all real windows, or read from the cache."""
    teacher = full_teacher(task, train, seed, f"full data, seed {seed}")
    chosen = f"{len(teacher.anchors) - 1} epochs"
    return Trained(teacher.model, teacher.seconds, teacher.peak_mb, chosen, teacher.best)


def untrained_model(task: Task, seed: int) -> Trained:
    """A fresh model."""
    model = task.fresh(seed)
    valid = validate(model, task.valid)["R@10"]
    return Trained(model, 0.0, peak_memory_mb(task.device), None, valid)


def rows(
    task: Task, test: HeldOut, source: SyntheticSet | Windows, settings: Settings, names: tuple[str, ...],
    seeds: list[int], cache: RowCache = make_now,
) -> dict[str, Row]:  # fmt: skip
    """The rows of `names`, in the table's order. `source`: the training data of the row `synthetic`, a synthetic set or
    the real windows of a coreset; on the latter it trains as the row `random` does.

    A recommender of ids needs no text encoder. Without one, `text_similarity` is left out with a note if all rows are
    requested, and raises FosterError if it is requested by name. `cache` returns one seed of a row, stored or made now.
    """
    console, budget = task.session.console, settings.distill.budget

    def random(seed: int) -> Trained:
        windows = random_windows(task.windows, budget, seed)
        return few_model(task, settings.train, windows, seed, f"random {budget}")

    def synthetic(seed: int) -> Trained:
        label = f"synthetic, seed {seed}"
        if isinstance(source, Windows):
            return few_model(task, settings.train, source, seed, label)
        return synthetic_model(task, source, settings.student, seed, label)

    def trained(name: str, train: Callable[[int], Trained]) -> Row:
        return joined([cache(name, seed, partial(model_row, test, seed, train)) for seed in seeds])

    makers: dict[str, Callable[[], Row]] = {
        "synthetic": lambda: trained("synthetic", synthetic),
        "full": lambda: trained("full", lambda seed: full_model(task, settings.train, seed)),
        "random": lambda: trained("random", random),
        "untrained": lambda: trained("untrained", lambda seed: untrained_model(task, seed)),
        "popularity": lambda: popularity_row(task, test),
        "text_similarity": lambda: text_row(task, test),
    }
    out = {}
    for name in [n for n in ROWS if n in names]:
        console.note(f"row {name}")
        try:
            out[name] = makers[name]()
        except FosterError as error:
            if name != "text_similarity" or task.source is not None or set(names) != set(ROWS):
                raise
            console.note(f"row {name} is left out: {error.message}")
    return out


def _seed_draws(count: int, draws: int) -> Float:
    """The share of each of `count` seeds in each resample, (B, count). Rows with equally many seeds get the same draws,
    because models of one seed start with the same weights, whatever their training data."""
    rng = np.random.default_rng(stream_seed(0, "bootstrap seeds", count))
    return rng.multinomial(count, np.full(count, 1.0 / count), size=draws) / count


#: The mean of a metric over seeds and cases, its interval and its seeds; None if no case has a weight.
Entry = dict[str, Any] | None


def _measured(metric: Metric, boot: Bootstrap, shares: Float) -> tuple[Entry, Float | None]:
    """The entry of `metric` (seeds, C), and its means in the resamples (B,)."""
    if metric.weight is not None and not metric.weight.any():
        return None, None
    drawn = (shares.T * np.stack([boot.means(value, metric.weight) for value in metric.value])).sum(0)
    per_seed = metric.means()
    return {"mean": float(per_seed.mean()), **_interval(drawn), "seeds": per_seed.tolist()}, drawn


def summarise(
    found: dict[str, Row], test: HeldOut, ks: tuple[int, ...], seeds: list[int], draws: int = 2000,
    pairs: tuple[tuple[str, str], ...] = PAIRS,
) -> dict[str, Any]:  # fmt: skip
    """`rows` and `paired` of the JSON: means, 95 % intervals, per-seed values, paired bootstrap differences.

    Rows may have any name. `pairs` (a, b) are compared as a minus b; a pair with a missing row is left out. A metric
    over cold targets is None if there is no such case.
    """
    rng = np.random.default_rng(stream_seed(0, "bootstrap"))
    boot = Bootstrap.of(test.cases.user, draws, rng)
    target, total = test.counts[test.cases.target], int(test.counts.sum())
    table: dict[str, Any] = {}
    resampled: dict[str, dict[str, Float | None]] = {}
    for name, row in found.items():
        shares = _seed_draws(len(row.ranks), draws)
        measured = {m: _measured(x, boot, shares) for m, x in all_metrics(row.ranks, ks, target, total).items()}
        resampled[name] = {metric: drawn for metric, (_, drawn) in measured.items()}
        table[name] = {metric: entry for metric, (entry, _) in measured.items()} | {
            "coverage": float(np.mean(row.coverage)), "train_seconds": float(np.mean(row.train_seconds)),
            "peak_mb": float(np.max(row.peak_mb)), "chosen": row.chosen,
        }  # fmt: skip

    def difference(a: str, b: str, metric: str) -> Entry:
        drawn, other = resampled[a][metric], resampled[b][metric]
        if drawn is None or other is None:
            return None
        return {"diff": table[a][metric]["mean"] - table[b][metric]["mean"], **_interval(drawn - other)}

    paired = {
        f"{a}-{b}": {metric: difference(a, b, metric) for metric in resampled[a]}
        for a, b in pairs
        if a in table and b in table
    }
    return {"rows": table, "paired": paired, **test.describe(), "seeds": seeds, "bootstrap_draws": draws}


def _interval(drawn: Float) -> dict[str, float]:
    """The 95 % percentile interval of the resamples that have a value: without a cold case they have none."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def held_out(task: Task, k: int, split: str = "test") -> HeldOut:
    """The cases of `split`; the test cases are read only once, after every choice is made."""
    return HeldOut(task.cases(split), k, task.protocol, training_counts(task.data))


def check_rows(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names`. Raises FosterError if there are none, or if one is not a row of the table."""
    if not names:
        raise FosterError("--rows: names no row", f"use some of {','.join(ROWS)}")
    for name in names:
        if name not in ROWS:
            raise FosterError(f"--rows {name}: no such row", f"use some of {','.join(ROWS)}")
    return names
