"""Recent popularity against a loop over interactions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from counting import cases_of, data_of, random_data

from foster_cli.data.windows import evaluation_cases
from foster_cli.neighbours import recent
from foster_cli.neighbours.recent import HALF_LIVES, Recent


@pytest.mark.parametrize("half_life", HALF_LIVES)
@pytest.mark.parametrize("ties", [False, True])
def test_counts_agree_with_a_loop(half_life: float, ties: bool) -> None:
    data = random_data(7)
    rows = data.interactions
    if ties:
        rows.time[:] = rows.time // 5
    train = [
        (t, i) for t, i, s in zip(rows.time.tolist(), rows.item.tolist(), rows.split.tolist(), strict=True) if not s
    ]
    expected = [0.0] * len(data.catalogue)
    for t, i in train:
        age = sum(other > t for other, _ in train) / len(train)
        expected[i] += 0.5 ** (age / half_life)
    model = recent.fit(data, Recent(half_life))
    cases = cases_of([[0], [1, 2, 3]], [0, 1], None)
    scores = model.scores(cases, np.arange(2))
    np.testing.assert_allclose(scores, [expected, expected], rtol=1e-6)
    assert np.array_equal(scores[0], scores[1])  # whatever the history
    soft = np.full((1, 4, len(expected)), 1 / len(expected), dtype=np.float32)
    np.testing.assert_allclose(model.soft_scores(soft), [expected], rtol=1e-5)


def test_only_the_order_of_times_counts() -> None:
    data, stretched = random_data(7), random_data(7)
    stretched.interactions.time[:] = 10**12 + 17 * data.interactions.time**2
    cases = evaluation_cases(data, "valid", 5)
    assert np.array_equal(recent.fit(data, Recent(0.1)).ranks(cases), recent.fit(stretched, Recent(0.1)).ranks(cases))


def test_what_is_new_is_chosen_where_it_helps() -> None:
    early, late = [[0, 1, 2, 3, 4]] * 30, [[20, 21, 22, 23, 24]] * 5
    data = data_of(early + late, 25, held=2)
    data.interactions.split[data.interactions.user < 30] = 0
    chosen = recent.choose(data, evaluation_cases(data, "valid", 5))
    assert chosen.settings.half_life < math.inf and chosen.text.startswith("half-life 0.")
    constant = recent.choose(random_data(), evaluation_cases(random_data(), "valid", 5))
    assert constant.text.split(":")[0] in {"plain popularity", *(f"half-life {h:g}" for h in HALF_LIVES)}


def test_a_half_life_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="half_life"):
        recent.fit(random_data(), Recent(0.0))
