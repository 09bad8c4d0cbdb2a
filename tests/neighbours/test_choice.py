"""What a choice may read, and how many validation cases."""

from __future__ import annotations

import numpy as np
import pytest
from counting import another_test, cases_of, random_data

from foster_cli.data.windows import Protocol, evaluation_cases
from foster_cli.neighbours import choice
from foster_cli.neighbours.base import Neighbours
from foster_cli.neighbours.choice import best_of, quality, reported, some
from foster_cli.neighbours.registry import CHOOSE


@pytest.mark.parametrize("name", CHOOSE)
def test_no_choice_reads_the_test_split(name: str) -> None:
    data = random_data(5, users=60)
    other = another_test(data)
    valid = evaluation_cases(data, "valid", 20, Protocol(mask_seen=True))
    a, b = CHOOSE[name](data, valid), CHOOSE[name](other, valid)
    assert a.settings == b.settings and a.text == b.text
    test = evaluation_cases(data, "test", 20, Protocol(mask_seen=True))
    assert np.array_equal(a.model.ranks(test), b.model.ranks(test))
    assert "\n" not in a.text and f"validation R@10 {a.recall:.4f}, N@10 {a.ndcg:.4f}" in a.text


@pytest.mark.parametrize("name", CHOOSE)
def test_the_reported_figures_are_those_of_all_cases(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data(6, users=60)
    valid = evaluation_cases(data, "valid", 20)
    monkeypatch.setattr(choice, "SAMPLE", 10)
    chosen = CHOOSE[name](data, valid)
    assert (chosen.recall, chosen.ndcg) == quality(chosen.model, valid)


def test_a_sample_is_the_same_one_and_keeps_what_was_seen() -> None:
    cases = evaluation_cases(random_data(users=60), "valid", 20, Protocol(mask_seen=True))
    few = some(cases, 7)
    assert len(few) == 7 and np.array_equal(few.row, some(cases, 7).row) and (np.diff(few.row) > 0).all()
    assert some(cases, len(cases)) is cases
    W = np.random.default_rng(0).random((15, 15)).astype(np.float32)
    place = {row: i for i, row in enumerate(cases.row.tolist())}
    index = [place[row] for row in few.row.tolist()]
    assert np.array_equal(Neighbours(W).ranks(few), Neighbours(W).ranks(cases)[index])


def test_the_first_of_equal_candidates_is_best() -> None:
    same = Neighbours(np.zeros((3, 3), dtype=np.float32))
    cases = cases_of([[0]], [1], None)
    assert best_of([("a", same), ("b", same)], cases)[0] == "a"
    with pytest.raises(ValueError, match="no candidates"):
        best_of([], cases)
    assert reported("a", same, "zeros", cases).text == "zeros: validation R@10 1.0000, N@10 0.6309"
