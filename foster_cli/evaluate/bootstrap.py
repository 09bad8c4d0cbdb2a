"""The bootstrap of the confidence intervals: users are resampled, because the cases of one user are not independent.

In: a value for each case (C,). Out: its mean in each resample (B,). Also: how often each seed is drawn, and the
interval of the resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foster_cli.runtime import stream_seed

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

#: Number of bootstrap counts that are drawn, or multiplied, at once.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Bootstrap:
    """Resampling weights: `weights` (B, users) counts each user's draws; `user` (C,) in 0…users-1.

    Counts are stored as bytes. More than 255 does not occur: it would take as many draws of one user in a resample,
    where the mean is one draw per user.
    """

    weights: npt.NDArray[np.uint8]
    user: Int

    @classmethod
    def of(cls, user: Int, draws: int, rng: np.random.Generator) -> Bootstrap:
        """B = `draws` resamples of the cases' users, with replacement."""
        _, index = np.unique(user, return_inverse=True)
        users = int(index.max()) + 1
        weights, even = np.empty((draws, users), np.uint8), np.full(users, 1.0 / users)
        for rows in _blocks(draws, users):
            weights[rows] = rng.multinomial(users, even, size=rows.stop - rows.start)
        return cls(weights, index)

    def means(self, value: Float, weight: Float | None = None) -> Float:
        """Mean of `value` (C,) in each resample, (B,); with `weight` (C,) the weighted mean, a ratio of two sums over
        the resample. NaN in a resample whose weights are all 0."""
        weight, users = np.ones(len(value)) if weight is None else weight, self.weights.shape[1]
        total = np.bincount(self.user, weights=weight * value, minlength=users)
        count = np.bincount(self.user, weights=weight, minlength=users)
        out = np.empty(len(self.weights))
        with np.errstate(invalid="ignore"):  # 0 / 0
            for rows in _blocks(*self.weights.shape):
                drawn = self.weights[rows].astype(np.float64)
                out[rows] = (drawn @ total) / (drawn @ count)
        return out


def seed_draws(count: int, draws: int, sets: int = 1) -> Float:
    """The share of each of `count` seeds in each resample, (B, count). Rows with equally many seeds get the same draws,
    because models of one seed start with the same weights, whatever their training data.

    The seeds of `sets` synthetic sets, equally many of each, one set after the other: sets are drawn first, and then
    the seeds of each drawn set.
    """
    rng, each = np.random.default_rng(stream_seed(0, "bootstrap seeds", count)), count // sets
    if sets == 1:
        return rng.multinomial(count, np.full(count, 1.0 / count), size=draws) / count
    drawn = rng.multinomial(sets, np.full(sets, 1.0 / sets), size=draws)
    found = rng.multinomial(drawn * each, np.full(each, 1.0 / each))  # (B, sets, each)
    return found.reshape(draws, count) / count


def percentiles(drawn: Float) -> dict[str, float]:
    """The 95 % interval of the resamples (B,) that have a value: without a cold case they have none."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _blocks(draws: int, users: int) -> list[slice]:
    """The draws in blocks of about `BLOCK` counts."""
    size = max(1, BLOCK // users)
    return [slice(a, min(a + size, draws)) for a in range(0, draws, size)]
