"""The results table: rows, intervals, paired tests. Every row is ranked on the same test cases, over all items.

In: a `Setting` (data, fresh models) and a bundle's Q and V, or its real windows. Out: the JSON that `foster eval`
prints. A row's ranks are (seeds, C); intervals resample users and seeds together, so they carry both kinds of noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foster_cli.config import StudentConfig, TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import SPLITS
from foster_cli.data.windows import Cases, Windows, evaluation_cases, seen_items
from foster_cli.distill.inner import Subset, fit_synthetic
from foster_cli.errors import FosterError
from foster_cli.evaluate.metrics import Bootstrap, per_case
from foster_cli.evaluate.ranking import Seen, covered, last_outputs, ranks
from foster_cli.models.recommender import Recommender
from foster_cli.ops.reading import Reading
from foster_cli.runtime import peak_memory_mb, reset_peak, stream_seed
from foster_cli.train.fit import fit_real, validate
from foster_cli.train.setting import Setting, full_teacher

Float = npt.NDArray[np.float64]
#: Most validations of a model on a few real sequences, 20 steps apart.
FEW_CHECKS = 15
ROWS = ("synthetic", "full", "random", "untrained", "popularity", "text_similarity")
PAIRS = (("synthetic", "full"), ("synthetic", "random"), ("synthetic", "untrained"), ("full", "untrained"))


class Trained(NamedTuple):
    """A model as its training left it, with what it took. `valid`: its validation R@10, where it has one."""

    model: Recommender
    seconds: float
    peak_mb: float
    chosen: Any
    valid: float | None = None


@dataclass
class Row:
    """One line of the table. `ranks` (seeds, C), 1 is best; `coverage` per seed, share of the catalogue; `valid` per
    seed, validation R@10 where it is known."""

    ranks: Float
    coverage: list[float]
    train_seconds: list[float]
    peak_mb: list[float]
    chosen: list[Any]
    valid: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Test:
    """Held-out cases and what each user has seen (only with `--mask-seen`)."""

    cases: Cases
    seen: Seen | None
    k: int


#: Gives a row of one seed, by its name: as an interrupted evaluation kept it, or made now.
Keep = Callable[[str, int, Callable[[], Row]], Row]


def make_now(name: str, seed: int, make: Callable[[], Row]) -> Row:
    """The `Keep` that keeps nothing."""
    return make()


def ranked(H: Tensor, E: Tensor, test: Test) -> tuple[Float, float]:
    """Ranks (C,) and catalogue coverage of the top k."""
    return ranks(H, E, test.cases.target, test.seen), covered(H, E, test.k, test.seen) / len(E)


def model_row(test: Test, seed: int, train: Callable[[int], Trained]) -> Row:
    """The row of one trained model, `train(seed)`."""
    t = train(seed)
    E = t.model.embed_all()
    rank, share = ranked(last_outputs(t.model, E, test.cases), E, test)
    return Row(rank[None], [share], [t.seconds], [t.peak_mb], [t.chosen], [t.valid])


def joined(rows: list[Row]) -> Row:
    """Rows of some seeds each as one, ranks (all seeds, C)."""
    names = ("coverage", "train_seconds", "peak_mb", "chosen", "valid")
    columns = ([x for row in rows for x in getattr(row, name)] for name in names)
    return Row(np.concatenate([row.ranks for row in rows]), *columns)


def popularity_row(setting: Setting, test: Test) -> Row:
    """Items ranked by their number of training interactions."""
    train = setting.data.interactions.split == SPLITS.index("train")
    count = np.bincount(setting.data.interactions.item[train], minlength=len(setting.data.catalogue))
    E = torch.from_numpy(count.astype(np.float32))[:, None].to(setting.device)
    H = torch.ones(max(len(test.cases), len(setting.valid)), 1, device=setting.device)
    valid = float((ranks(H[: len(setting.valid)], E, setting.valid.target) <= 10).mean())
    rank, share = ranked(H[: len(test.cases)], E, test)
    return Row(rank[None], [share], [0.0], [peak_memory_mb(setting.device)], [None], [valid])


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


def text_row(setting: Setting, test: Test, console: Console = SILENT, use_cache: bool = True) -> Row:
    """Nearest texts to the last items by cosine; how many last items are averaged is chosen on validation."""
    E = torch.nn.functional.normalize(setting.text_vectors(console, use_cache), dim=-1)
    valid = setting.valid
    score = {
        last: float((ranks(profiles(E, valid, last), E, valid.target) <= 10).mean()) for last in (1, 2, 3, 5, 10, 20)
    }
    last = max(score, key=lambda key: score[key])
    rank, share = ranked(profiles(E, test.cases, last), E, test)
    return Row(rank[None], [share], [0.0], [peak_memory_mb(setting.device)], [f"last {last}"], [score[last]])


def random_windows(windows: Windows, budget: int, seed: int) -> Windows:
    """`budget` of the windows, uniformly."""
    rng = np.random.default_rng(stream_seed(seed, "random"))
    return windows.take(np.sort(rng.choice(len(windows), budget, replace=False)))


def few_model(
    setting: Setting, config: TrainConfig, windows: Windows, seed: int, console: Console, label: str
) -> Trained:
    """A model trained on a few real windows, all of them at every step: the better of both losses on validation."""
    reset_peak()
    best: tuple[float, Recommender, str] | None = None
    began = time.perf_counter()
    for loss in ("softmax", "bce"):
        model = setting.fresh(seed)
        few = replace(config, loss=loss, batch=len(windows), epochs=FEW_CHECKS)
        fit = fit_real(model, windows, setting.valid, few, seed, console, f"{label}, {loss}")
        if best is None or fit.best_value > best[0]:
            best = (fit.best_value, model, f"{loss}, {fit.best} steps")
    assert best is not None
    seconds = (time.perf_counter() - began) / 2
    return Trained(best[1], seconds, peak_memory_mb(setting.device), best[2], best[0])


def synthetic_model(
    setting: Setting, Q: Tensor, V: Tensor, subset: Subset, reading: Reading, student: StudentConfig, seed: int,
    console: Console, label: str,
) -> Trained:  # fmt: skip
    """A fresh model trained on the synthetic set Q, as `reading` reads it over V (n, d)."""
    reset_peak()
    model = setting.fresh(seed)
    fit = fit_synthetic(model, Q, V, subset, setting.valid, student, seed, console, label, reading)
    return Trained(model, fit.seconds, peak_memory_mb(setting.device), f"step {fit.best}", fit.best_value)


def full_model(setting: Setting, train: TrainConfig, seed: int, console: Console, use_cache: bool) -> Trained:
    """A model trained on all real windows, or read from the cache."""
    teacher = full_teacher(setting, train, seed, console, use_cache, f"full data, seed {seed}")
    best = max(row["R@10"] for row in teacher.history)
    return Trained(teacher.model, teacher.seconds, teacher.peak_mb, f"{len(teacher.anchors) - 1} epochs", best)


def untrained_model(setting: Setting, seed: int) -> Trained:
    """A fresh model."""
    model = setting.fresh(seed)
    valid = validate(model, setting.valid)["R@10"]
    return Trained(model, 0.0, peak_memory_mb(setting.device), None, valid)


def rows(
    setting: Setting, test: Test, Q: Tensor | Windows, V: Tensor, subset: Subset, reading: Reading,
    student: StudentConfig, train: TrainConfig, budget: int, names: tuple[str, ...], seeds: list[int],
    console: Console = SILENT, use_cache: bool = True, kept: Keep = make_now,
) -> dict[str, Row]:  # fmt: skip
    """The asked-for rows, in the table's order. `Q`: the synthetic set, or the real windows of a coreset, on which
    the row `synthetic` then trains as the row `random` does on its own (V, subset and reading play no part).

    A recommender of ids needs no text encoder: where all rows are asked for and there is none, `text_similarity` is
    left out with a note. Raises FosterError where it was asked for by name. `kept` stands in for the making of one
    seed of a row of models.
    """

    def random(seed: int) -> Trained:
        windows = random_windows(setting.windows, budget, seed)
        return few_model(setting, train, windows, seed, console, f"random {budget}")

    def synthetic(seed: int) -> Trained:
        label = f"synthetic, seed {seed}"
        if isinstance(Q, Windows):
            return few_model(setting, train, Q, seed, console, label)
        return synthetic_model(setting, Q, V, subset, reading, student, seed, console, label)

    def full(seed: int) -> Trained:
        return full_model(setting, train, seed, console, use_cache)

    def trained(name: str, train: Callable[[int], Trained]) -> Row:
        return joined([kept(name, seed, partial(model_row, test, seed, train)) for seed in seeds])

    makers: dict[str, Callable[[], Row]] = {
        "synthetic": lambda: trained("synthetic", synthetic),
        "full": lambda: trained("full", full),
        "random": lambda: trained("random", random),
        "untrained": lambda: trained("untrained", lambda seed: untrained_model(setting, seed)),
        "popularity": lambda: popularity_row(setting, test),
        "text_similarity": lambda: text_row(setting, test, console, use_cache),
    }
    out = {}
    for name in [n for n in ROWS if n in names]:
        console.note(f"row {name}")
        try:
            out[name] = makers[name]()
        except FosterError as error:
            if name != "text_similarity" or setting.source is not None or set(names) != set(ROWS):
                raise
            console.note(f"row {name} is left out: {error.message}")
    return out


def _seed_draws(count: int, draws: int) -> Float:
    """How often each of `count` seeds is drawn in each resample, as shares, (B, count): the same for all rows that have
    as many, as models of one seed begin with the same weights, whatever they are trained on."""
    rng = np.random.default_rng(stream_seed(0, "bootstrap seeds", count))
    return rng.multinomial(count, np.full(count, 1.0 / count), size=draws) / count


def summarise(
    found: dict[str, Row], test: Test, ks: tuple[int, ...], seeds: list[int], draws: int = 2000,
    pairs: tuple[tuple[str, str], ...] = PAIRS,
) -> dict[str, Any]:  # fmt: skip
    """`rows` and `paired` of the JSON: means, 95 % intervals, per-seed values, paired bootstrap differences.

    Rows go by any name. `pairs` (a, b) are compared as a minus b; one that misses a row is left out.
    """
    rng = np.random.default_rng(stream_seed(0, "bootstrap"))
    boot = Bootstrap.of(test.cases.user, draws, rng)
    table: dict[str, Any] = {}
    resampled: dict[str, dict[str, Float]] = {}
    for name, row in found.items():
        shares = _seed_draws(len(row.ranks), draws)
        entry: dict[str, Any] = {}
        resampled[name] = {}
        for metric, value in per_case(row.ranks, ks).items():
            means = np.stack([boot.means(v) for v in value])  # (seeds, B)
            drawn = (shares.T * means).sum(0)
            low, high = np.percentile(drawn, [2.5, 97.5])
            per_seed = value.mean(1)
            entry[metric] = {
                "mean": float(per_seed.mean()),
                "low": float(low),
                "high": float(high),
                "seeds": per_seed.tolist(),
            }
            resampled[name][metric] = drawn
        entry["coverage"] = float(np.mean(row.coverage))
        entry["train_seconds"] = float(np.mean(row.train_seconds))
        entry["peak_mb"] = float(np.max(row.peak_mb))
        entry["chosen"] = row.chosen
        table[name] = entry
    paired: dict[str, Any] = {}
    for a, b in pairs:
        if a in table and b in table:
            paired[f"{a}-{b}"] = {}
            for metric in resampled[a]:
                low, high = np.percentile(resampled[a][metric] - resampled[b][metric], [2.5, 97.5])
                diff = table[a][metric]["mean"] - table[b][metric]["mean"]
                paired[f"{a}-{b}"][metric] = {"diff": diff, "low": float(low), "high": float(high)}
    return {
        "rows": table,
        "paired": paired,
        "cases": len(test.cases),
        "seeds": seeds,
        "bootstrap_draws": draws,
    }


def make_test(setting: Setting, mask_seen: bool, k: int, split: str = "test") -> Test:
    """The cases of `split`; those of the test are read once, after everything is chosen."""
    cases = evaluation_cases(setting.data, split, setting.length)
    return Test(cases, seen_items(setting.data, cases) if mask_seen else None, k)


def check_rows(names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` if all are rows of the table, and there is one, else FosterError."""
    if not names:
        raise FosterError("--rows: names no row", f"use some of {','.join(ROWS)}")
    for name in names:
        if name not in ROWS:
            raise FosterError(f"--rows {name}: no such row", f"use some of {','.join(ROWS)}")
    return names
