"""Validation of D~ by fresh models."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sequences import next_number_cases
from tiny_problem import D, L, N, drawn

from foster_cli.data.windows import Cases
from foster_cli.distill import validation
from foster_cli.distill.validation import FreshCheck
from foster_cli.ranking.full import answers
from foster_cli.ranking.sample import SAMPLE
from foster_cli.settings import StudentConfig
from foster_cli.synthetic.reading import PAPER
from foster_cli.synthetic.subset import uniform_subset
from foster_cli.train.best import Fit


def test_fresh_check_uses_the_same_seeds_every_time(small_model: Callable[..., Any]) -> None:
    seeds: list[int] = []

    def fresh(seed: int) -> Any:
        seeds.append(seed)
        return small_model(N, D, L, seed=seed % 1000, double=False)

    V = small_model(N, D, L, seed=5, double=False).embed_all()
    student = StudentConfig(steps=4, check_every=2)
    subset = uniform_subset(N, 6, torch.device("cpu"))
    task: Any = SimpleNamespace(fresh=fresh, valid=next_number_cases(40, N, L, 1))
    check = FreshCheck(task, V, subset, PAPER, student, 3, 2)
    Q = drawn(double=False)
    first, second = check(Q, 0), check(Q, 5)
    assert first == second and set(first) == {"R@10", "N@10", "sd", "student_steps"}
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]


def _checked(
    monkeypatch: pytest.MonkeyPatch, histories: list[list[float]], cases: Cases, kl: list[list[float]] | None = None
) -> tuple[dict[str, float], list[Cases]]:
    """What a check says of models with these R@10 after 0, 50, 100 … steps (N@10: half of it), and what they ranked.
    `kl`: theirs from a teacher; None: there is no teacher."""
    seen: list[Cases] = []

    def fit(phi: Any, D: Any, valid: Cases, config: StudentConfig, seed: int, stage: Any, measure: Any) -> Fit:
        seen.append(valid)
        number = len(seen) - 1
        rows = [{"at": 50.0 * i, "R@10": x, "N@10": x / 2} for i, x in enumerate(histories[number])]
        if kl is not None:
            rows = [{**row, "KL": x} for row, x in zip(rows, kl[number], strict=True)]
        assert (measure is None) == (kl is None) and (config.patience > config.steps) == (kl is not None)
        return Fit(history=rows)

    monkeypatch.setattr(validation, "fit_synthetic", fit)
    task: Any = SimpleNamespace(fresh=lambda seed: None, valid=cases)
    subset = uniform_subset(N, None, torch.device("cpu"))
    said = None if kl is None else torch.zeros(len(cases), D)
    told = lambda seconds: None  # noqa: E731
    check = FreshCheck(task, torch.zeros(N, D), subset, PAPER, StudentConfig(), 0, len(histories), told, said)
    return check(drawn(double=False), 0), seen


@pytest.mark.parametrize(
    ("histories", "steps", "values"),
    [
        ([[0.1, 0.2, 0.3], [0.2, 0.4, 0.1]], 50, [0.2, 0.4]),  # neither model's own best number
        ([[0.1, 0.3, 0.9], [0.1, 0.2]], 50, [0.3, 0.2]),  # the second model was never validated after 100 steps
        ([[0.1, 0.3, 0.3], [0.1, 0.3, 0.3]], 50, [0.3, 0.3]),  # of two that are as good, the fewer steps
        ([[0.4, 0.3]], 0, [0.4]),
    ],
)
def test_the_number_of_steps_is_best_for_the_mean_of_all_models(
    monkeypatch: pytest.MonkeyPatch, histories: list[list[float]], steps: int, values: list[float]
) -> None:
    found, _ = _checked(monkeypatch, histories, next_number_cases(40, N, L, 1))
    assert found == pytest.approx(
        {"R@10": np.mean(values), "N@10": np.mean(values) / 2, "sd": np.std(values), "student_steps": steps}
    )


def test_the_models_that_answer_most_like_the_teacher_are_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their mean KL, whatever their R@10; they train to the end, because KL may rise before it falls."""
    kl = [[0.9, 1.2, 0.3], [0.9, 1.1, 0.5]]
    found, _ = _checked(monkeypatch, [[0.4, 0.5, 0.1], [0.4, 0.5, 0.2]], next_number_cases(40, N, L, 1), kl)
    assert found == pytest.approx({"KL": 0.4, "R@10": 0.15, "N@10": 0.075, "sd": 0.05, "student_steps": 100})


def test_the_divergence_is_that_of_all_items(small_model: Callable[..., Any]) -> None:
    """In double precision, one case at a time."""
    model, other = small_model(N, D, L, seed=1, double=False), small_model(N, D, L, seed=2, double=False)
    cases = next_number_cases(7, N, L, 1)
    (H, E), (Q, V) = answers(model, cases), answers(other, cases)
    found = validation.divergence(Q, V, H, E)
    total = 0.0
    for history, size in zip(cases.history, cases.lengths, strict=True):
        x = torch.from_numpy(history[None, :size])
        P, R = (
            (m.eval()(m.embed_all()[x])[0, -1].double() @ m.embed_all().double().T).softmax(-1) for m in (other, model)
        )
        total += float((P * (P.log() - R.log())).sum().detach())
    assert found == pytest.approx(total / len(cases), rel=1e-4) and found > 1e-3
    assert validation.divergence(Q, V, Q, V) == pytest.approx(0.0, abs=1e-6)


def test_all_models_are_ranked_on_the_same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = next_number_cases(SAMPLE + 900, N, L, 1)
    cases.user[:] = np.arange(len(cases))  # to tell them apart
    drawn_twice = [_checked(monkeypatch, [[0.1], [0.2]], cases)[1] for _ in range(2)]
    first, *others = [some for seen in drawn_twice for some in seen]
    assert len(others) == 3 and len(set(first.user.tolist())) == len(first) == SAMPLE
    assert all(np.array_equal(first.user, other.user) for other in others)
    assert first.user.max() > SAMPLE  # not simply the first ones
    few = next_number_cases(40, N, L, 1)
    assert _checked(monkeypatch, [[0.1]], few)[1] == [few]
