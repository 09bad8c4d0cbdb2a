"""Whether a teacher is worth distilling: better on validation, beyond noise, than an untrained model and item kNN.

In: a trained recommender and its task. Out: a line of text that says what it is not better than, or None.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from foster_cli.models.recommender import Recommender
from foster_cli.neighbours import item_knn
from foster_cli.ranking.full import score_model
from foster_cli.ranking.metrics import recall
from foster_cli.train.best import Best, Fit
from foster_cli.train.task import Task, has_texts

Float = npt.NDArray[np.float64]
#: Standard errors that a difference must exceed: 95 % of the noise, on one side.
BEYOND = 1.645


def beyond_noise(first: Float, second: Float, users: npt.NDArray[np.int64]) -> bool:
    """Whether the mean of `first` (C,) exceeds that of `second` by more than `BEYOND` standard errors.

    The cases of one user are not independent, so the error is that of sums over users.
    """
    difference = first - second
    mean = float(difference.mean())
    by_user = np.bincount(users, difference - mean)
    return mean > BEYOND * math.sqrt(float(np.square(by_user).sum())) / len(difference)


def verdict(task: Task, teacher: Recommender, seed: int) -> str | None:
    """A line that names the rows which the teacher does not beat in validation R@10, with what to try."""
    valid = task.valid
    own, untrained = recall(score_model(teacher, valid), 10), task.fresh(seed)
    Best(untrained, valid, Fit()).begin()  # chooses its offset
    others = {
        "an untrained model": recall(score_model(untrained, valid), 10),
        "item kNN": recall(item_knn.fit(task.data).ranks(valid), 10),
    }
    behind = [f"{name} ({hits.mean():.4f})" for name, hits in others.items() if not beyond_noise(own, hits, valid.user)]
    if not behind:
        return None
    items = "--items both, " if task.model.items != "both" and has_texts(task.data) else ""
    return (
        f"the teacher (validation R@10 {own.mean():.4f}) is not better than {' and '.join(behind)} beyond noise, and "
        f"what is distilled from it will hardly be; try {items}another --lr, more --epochs, or use that instead"
    )
