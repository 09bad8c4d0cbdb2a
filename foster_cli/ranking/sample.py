"""A fixed sample of held-out cases, for choices that are made often. In: cases (C). Out: at most `SAMPLE` of them."""

from __future__ import annotations

import numpy as np

from foster_cli.data.windows import Cases
from foster_cli.runtime import stream_seed

#: The most cases that a choice reads.
SAMPLE = 4096
#: The stream of the sample that validates trainings and sets: all of them rank the same cases.
VALIDATION = "validation sample"


def sample(cases: Cases, *stream: str, most: int = SAMPLE) -> Cases:
    """`most` of the cases in their order, drawn uniformly, always the same for a `stream`; all if there are fewer."""
    if len(cases) <= most:
        return cases
    rng = np.random.default_rng(stream_seed(0, *stream))
    return cases.take(np.sort(rng.choice(len(cases), most, replace=False)))
