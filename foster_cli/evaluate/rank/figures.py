"""The figures of a ranking of configurations: metrics with intervals, who may be the best, how far two rankings agree.

In: ranks of the same cases by the models of each configuration. Out: the JSON's `rows`, best first, and `full`. The
bootstrap draws users and seeds together, and each draw is a ranking.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

from foster_cli.evaluate.bootstrap import Bootstrap, percentiles, seed_draws
from foster_cli.evaluate.economics import ratio
from foster_cli.ranking.metrics import per_case
from foster_cli.runtime import stream_seed

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
METRICS = ("R@10", "N@10")
DRAWS = 2000


class Scored(NamedTuple):
    """Models of one configuration: `ranks` (seeds, C), the seconds of each training, how many did not stay finite."""

    ranks: Float
    seconds: list[float]
    not_finite: int


class Measured(NamedTuple):
    """A configuration, its sections in the file, its models trained on the set, and the one of all the data."""

    name: str
    sections: dict[str, dict[str, Any]]
    own: Scored
    full: Scored | None


class Resampled(NamedTuple):
    """A metric of K configurations: `seeds` (K, seeds), and the means over seeds and cases in each resample (K, B)."""

    seeds: Float
    drawn: Float

    @property
    def means(self) -> Float:
        """(K,)."""
        return self.seeds.mean(1)

    def entry(self, k: int) -> dict[str, Any]:
        """The mean of configuration `k` with its 95 % interval, and its seeds."""
        return {"mean": float(self.means[k]), **percentiles(self.drawn[k]), "seeds": self.seeds[k].tolist()}


def resampled(scores: list[Scored], boot: Bootstrap) -> dict[str, Resampled]:
    """Each of `METRICS`. All configurations have the same resampled users and seeds in each draw."""
    shares = seed_draws(len(scores[0].ranks), len(boot.weights))
    values = [per_case(score.ranks, (10,)) for score in scores]
    out = {}
    for metric in METRICS:
        drawn = [sum(shares[:, s] * boot.means(row) for s, row in enumerate(value[metric])) for value in values]
        out[metric] = Resampled(np.stack([value[metric].mean(1) for value in values]), np.stack(drawn))
    return out


def chances(drawn: Float) -> Float:
    """(K,): the share of the resamples (K, B) in which each configuration is the best; equal ones share a resample."""
    first = drawn == drawn.max(0)
    return (first / first.sum(0)).mean(1)


def tau(a: Float, b: Float) -> float:
    """Kendall's tau (b, for ties) of two rankings by values (K,); NaN if all values of one are equal."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(kendalltau(a, b).statistic)


def agreement(own: Resampled, full: Resampled) -> dict[str, float] | None:
    """Tau of the rankings on the set and on all the data, with its interval; None if one ranks nothing."""
    value = tau(own.means, full.means)
    drawn = np.array([tau(a, b) for a, b in zip(own.drawn.T, full.drawn.T, strict=True)])
    return None if np.isnan(value) else {"value": value, **percentiles(drawn)}


def places(values: Float) -> list[int]:
    """The rank of each value, 1 for the largest; equal ones have the same."""
    found: list[int] = rankdata(-values, "min").astype(int).tolist()
    return found


def order(of: dict[str, Resampled]) -> list[int]:
    """The configurations by R@10, then by N@10, then as they came."""
    return np.lexsort((-of["N@10"].means, -of["R@10"].means)).tolist()


def figures(found: list[Measured], user: Int, draws: int = DRAWS) -> dict[str, Any]:
    """`rows`, best first, and `full`: how far the ranking is that of all the data, None if there is none. `user` (C,):
    whose cases."""
    boot = Bootstrap.of(user, draws, np.random.default_rng(stream_seed(0, "bootstrap")))
    own, complete = resampled([m.own for m in found], boot), [m.full for m in found if m.full is not None]
    full = resampled(complete, boot) if complete else None
    best, sorted_ = chances(own["R@10"].drawn), order(own)
    place = places(own["R@10"].means)
    place_full = None if full is None else places(full["R@10"].means)
    rows: dict[str, Any] = {}
    for k in sorted_:
        m = found[k]
        rows[m.name] = {"rank": place[k], "best": float(best[k]), **_entries(own, k, m.own), "settings": m.sections}
        if full is not None and m.full is not None and place_full is not None:
            rows[m.name]["full"] = {"rank": place_full[k], **_entries(full, k, m.full)}
    versus = None if full is None else _versus(found, own["R@10"], full["R@10"], sorted_[0])
    return {"rows": rows, "full": versus, "bootstrap_draws": draws}


def _entries(of: dict[str, Resampled], k: int, scored: Scored) -> dict[str, Any]:
    """The metrics of configuration `k` and the mean seconds of a training."""
    metrics = {metric: value.entry(k) for metric, value in of.items()}
    return {**metrics, "train_seconds": float(np.mean(scored.seconds)), "not_finite": scored.not_finite}


def _versus(found: list[Measured], own: Resampled, full: Resampled, chosen: int) -> dict[str, Any]:
    """How the rankings compare. `loss`: the R@10 on all the data of the best there, minus that of the one `chosen` on
    the set; `seconds`: of all trainings, and how many times fewer they are on the set."""
    best = int(full.means.argmax())
    lost = {"diff": float(full.means[best] - full.means[chosen]), **percentiles(full.drawn[best] - full.drawn[chosen])}
    spent, all_data = (sum(sum(s.seconds) for s in scores if s is not None)
                       for scores in ([m.own for m in found], [m.full for m in found]))  # fmt: skip
    seconds = {"set": spent, "full": all_data, "ratio": ratio(all_data, spent)}
    return {
        "tau": agreement(own, full), "chosen": found[chosen].name, "best": found[best].name, "loss": lost,
        "seconds": seconds,
    }  # fmt: skip
