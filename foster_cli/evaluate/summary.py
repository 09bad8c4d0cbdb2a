"""The figures of a table: means, intervals and paired differences of its rows.

In: rows, (seeds, C) ranks each. Out: the JSON of the table. Intervals resample users and seeds together, so that they
cover both kinds of noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from foster_cli.evaluate.bootstrap import Bootstrap, percentiles, seed_draws
from foster_cli.evaluate.row import HeldOut, Row
from foster_cli.ranking.metrics import Metric, all_metrics
from foster_cli.runtime import stream_seed

Float = npt.NDArray[np.float64]
PAIRS = (
    ("synthetic", "full"), ("synthetic", "random"), ("synthetic", "untrained"), ("synthetic", "equal_compute"),
    ("synthetic", "item_factor"), ("synthetic", "item_knn"), ("synthetic", "without_factor"),
    ("synthetic_text", "text"),
    ("full", "untrained"), ("full", "knn_tfidf"), ("full", "text"),
)  # fmt: skip
#: The mean of a metric over seeds and cases, its interval and its seeds; None if no case has a weight.
Entry = dict[str, Any] | None


def _measured(metric: Metric, boot: Bootstrap, shares: Float) -> tuple[Entry, Float | None]:
    """The entry of `metric` (seeds, C), and its means in the resamples (B,)."""
    if metric.weight is not None and not metric.weight.any():
        return None, None
    drawn = (shares.T * np.stack([boot.means(value, metric.weight) for value in metric.value])).sum(0)
    per_seed = metric.means()
    return {"mean": float(per_seed.mean()), **percentiles(drawn), "seeds": per_seed.tolist()}, drawn


def summarise(
    found: dict[str, Row], test: HeldOut, ks: tuple[int, ...], seeds: list[int], draws: int = 2000,
    pairs: tuple[tuple[str, str], ...] = PAIRS, sets: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """`rows` and `paired` of the JSON: means, 95 % intervals, per-seed values, paired bootstrap differences.

    Rows may have any name. `pairs` (a, b) are compared as a minus b; a pair with a missing row is left out. A metric
    over cold targets is None if there is no such case. `sets`: the synthetic sets that the rows with more than one seed
    are of (`seed_draws`).
    """
    rng = np.random.default_rng(stream_seed(0, "bootstrap"))
    boot = Bootstrap.of(test.cases.user, draws, rng)
    target, total = test.counts[test.cases.target], int(test.counts.sum())
    table: dict[str, Any] = {}
    resampled: dict[str, dict[str, Float | None]] = {}
    for name, row in found.items():
        shares = seed_draws(len(row.ranks), draws, sets if len(row.ranks) > 1 else 1)
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
        return {"diff": table[a][metric]["mean"] - table[b][metric]["mean"], **percentiles(drawn - other)}

    paired = {
        f"{a}-{b}": {metric: difference(a, b, metric) for metric in resampled[a]}
        for a, b in pairs
        if a in table and b in table
    }
    return {"rows": table, "paired": paired, **test.describe(), "seeds": seeds, "bootstrap_draws": draws}
