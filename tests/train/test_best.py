"""The best state of a training: the ways that are tried, the cases that choose, and what is restored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from quick import PATHS, QUICK, Watched, new_items, part_way, same, small, trained
from sequences import next_number_cases, next_number_windows
from torch import Tensor
from weights import enlarged

from foster_cli.data.windows import Cases
from foster_cli.models.recommender import Recommender
from foster_cli.ranking.full import score_model
from foster_cli.ranking.offset import OFFSETS
from foster_cli.train import best as module
from foster_cli.train import fit as fit_module
from foster_cli.train.best import WAYS, Best, Fit, value_of
from foster_cli.train.fit import fit_real

CPU = torch.device("cpu")
CASES = next_number_cases(50, 12, 6)
#: The paths of a backbone whose only origin is its untrained state.
ALONE = [(0.5, 0.0), (0.75, 0.0), (1.0, 0.0)]


def test_the_validation_is_that_of_the_kept_state(task: Any) -> None:
    fit, model = trained(task)
    assert module.validate(model, task.valid)["R@10"] == fit.best_value == max(r["R@10"] for r in fit.history)


def test_the_kept_state_ranks_new_items_no_worse_than_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "LEAST_STEPS", 1)
    fresh, windows, valid = new_items(60)
    model, new = fresh(), valid.target >= 30
    before = (score_model(model, valid)[new] <= 10).mean()
    fit = fit_real(model, windows, valid, QUICK, 0)
    hit = score_model(model, valid) <= 10
    assert hit[new].mean() >= before
    best = next(row for row in fit.history if row["at"] == fit.best)
    assert fit.best_value == best["weighted"] == max(row["weighted"] for row in fit.history)
    assert best["weighted"] == pytest.approx(0.5 * hit[new].mean() + 0.5 * hit[~new].mean())
    assert model.offset is not None and model.offset.item() == np.float32(best["offset"])
    assert (
        model.table is not None and not model.embed_all()[30:, :-1].sub(model.head(model.text.all(CPU))[30:, :-1]).any()
    )


def _recalls(model: Recommender, valid: Cases, o: float) -> tuple[float, float]:
    """Recall at ten of new targets and of the others at the offset o, by ranking all items."""
    with torch.no_grad():
        assert model.offset is not None
        model.offset.fill_(o)
    hit, new = score_model(model, valid) <= 10, valid.target >= 30
    return float(hit[new].mean()), float(hit[~new].mean())


def test_the_last_offset_is_chosen_on_all_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sample would choose another; new targets are ranked no worse than with the offset that all cases
    choose for the untrained recommender."""
    monkeypatch.setattr(fit_module, "LEAST_STEPS", 1)
    differs = False
    for count in (12, 20, 200):
        monkeypatch.setattr(module, "SAMPLE", count)
        fresh, windows, valid = new_items(200)
        valid = replace(valid, new_share=0.3)
        model, plain = fresh(), fresh()
        fit = fit_real(model, windows, valid, QUICK, 0)
        assert model.offset is not None
        chosen = model.offset.item()
        before, after = ({o: _recalls(m, valid, o) for o in OFFSETS} for m in (plain, model))
        own = max(before, key=lambda o: 0.3 * before[o][0] + 0.7 * before[o][1])
        module.Best(plain, valid, module.Fit()).begin()
        assert plain.offset is not None and plain.offset.item() == pytest.approx(own)
        floor = before[own][0]
        allowed = {o: 0.3 * cold + 0.7 * warm for o, (cold, warm) in after.items() if cold >= floor}
        best = max(allowed, key=lambda o: allowed[o])
        assert chosen == pytest.approx(best) and fit.value == pytest.approx(allowed[best])
        differs |= next(row for row in fit.history if row["at"] == fit.best)["offset"] != best
    assert differs


def test_all_cases_choose_among_the_best_states_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own path and the offset that all cases choose for it, against full rankings; the sample's best is
    not always it, nor does it always come from the untrained state. A state that ranks new targets worse than the
    untrained one at any offset ranks them as well as it can."""
    monkeypatch.setattr(fit_module, "LEAST_STEPS", 1)
    config, others, origins = replace(QUICK, epochs=8, lr=3e-2), 0, set[float]()
    for count in (10, 20, 30, 60):
        monkeypatch.setattr(module, "SAMPLE", count)
        fresh, windows, valid = new_items(200)
        trail: dict[int, dict[str, torch.Tensor]] = {}
        model, plain = fresh(), fresh()
        watched = Watched(lambda at, m, trail=trail: trail.update({at: m.learnables()}))
        fit = fit_real(model, windows, valid, config, 0, store=watched)
        floor = max((_recalls(plain, valid, o) for o in OFFSETS), key=lambda found: found[0] + found[1])[0]
        value = {}
        by_sample = sorted(fit.history, key=lambda row: -row["weighted"])[: module.FINALISTS]
        for row in by_sample:
            plain.restore(part_way(trail[0], trail[int(row["at"])], row["way"], row["origin"]))
            recalls = [_recalls(plain, valid, o) for o in OFFSETS]
            least = min(floor, max(cold for cold, _ in recalls))
            value[int(row["at"])] = max(0.5 * cold + 0.5 * warm for cold, warm in recalls if cold >= least)
        best = max(value, key=lambda at: value[at])
        assert (fit.best, fit.value) == (best, pytest.approx(value[best]))
        own, row = model.learnables(), next(row for row in by_sample if row["at"] == best)
        for name, x in part_way(trail[0], trail[best], fit.way, row["origin"]).items():
            if name.startswith("sequence."):
                torch.testing.assert_close(own[name].double(), x.double(), rtol=1e-6, atol=1e-7)
            elif name != "offset":
                assert torch.equal(own[name], x)
        assert (fit.best_value, fit.way) == (row["weighted"], row["way"])
        others += best != by_sample[0]["at"]
        origins.add(row["origin"])
    assert others and origins == {0.0, 1.0}


@pytest.mark.parametrize("items", ["both", "text"])
def test_more_cases_than_the_sample_are_ranked_at_the_start_and_the_end(
    monkeypatch: pytest.MonkeyPatch, task: Any, items: str
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 20)
    monkeypatch.setattr(fit_module, "LEAST_STEPS", 1)
    original, asked = module.validate, list[Cases]()

    def validate(model: Any, cases: Cases, measure: Any) -> dict[str, float]:
        asked.append(cases)
        return original(model, cases)

    monkeypatch.setattr(module, "validate", validate)
    valid = next_number_cases(90, 30, 6)
    windows, model = next_number_windows(120, 30, 7), small(items)
    untrained = original(model, valid)
    fit = fit_real(model, windows, valid, QUICK, 0)
    checks = 1 + 3 * len(PATHS)  # the untrained state is validated once, then each of three epochs on all its paths
    assert [len(cases) for cases in asked] == [90, *[20] * checks, *[90] * module.FINALISTS]
    few = [cases for cases in asked if len(cases) == 20]
    assert all(np.array_equal(cases.row, few[0].row) for cases in few) and len(set(few[0].row)) == 20
    assert fit.untrained == untrained and fit.valid == original(model, valid)
    for row in fit.history:
        assert row["R@10"] * 20 == pytest.approx(round(row["R@10"] * 20))
    asked.clear()
    monkeypatch.setattr(module, "SAMPLE", 90)
    whole = fit_real(small(items), windows, valid, QUICK, 0)
    assert [len(cases) for cases in asked] == [90] * checks  # all of them each time: not ranked again
    best = next(row for row in whole.history if row["at"] == whole.best)
    assert whole.valid == {name: best[name] for name in ("R@10", "N@10")}
    assert whole.untrained == untrained


def _said(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[dict[str, Tensor]]:
    """From now on the validations say `values`; the states that are validated are put into the list."""
    said, states = iter(values), list[dict[str, Tensor]]()

    def validate(model: Any, cases: Cases, measure: Any) -> dict[str, float]:
        states.append(model.learnables())
        return {"R@10": next(said), "N@10": 0.0}

    monkeypatch.setattr(module, "validate", validate)
    return states


def _backbone(state: dict[str, Tensor]) -> np.ndarray:
    """(P,): all parameters of the backbone."""
    return torch.cat([x.flatten() for name, x in state.items() if name.startswith("sequence.")]).numpy()


def _items(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What makes the item embeddings: all but the backbone."""
    return {name: x for name, x in state.items() if not name.startswith("sequence.")}


def _silent(model: Any) -> dict[str, Tensor]:
    """The parameters of `model` with attentions that add nothing: the sums of their outputs have weights of 0."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for block in other.sequence.blocks:
            block.out.weight.zero_()
            block.out.bias.zero_()
    found: dict[str, Tensor] = other.learnables()
    return found


@pytest.mark.parametrize(
    ("backbone", "paths"),
    [("sasrec", ALONE), ("gru4rec", ALONE), ("hstu", ALONE), ("sasrec-relative", PATHS), ("ligr", PATHS)],
)
def test_a_way_is_between_an_origin_and_the_trained_backbone(
    small_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    backbone: str,
    paths: list[tuple[float, float]],
) -> None:
    """In double. Item embeddings are the trained ones on every way, and all checks go from the same origins: the
    untrained state, and on some backbones the one whose attentions add nothing."""
    model, fit = small_model(items="both", bias=True, backbone=backbone), Fit()
    states = _said(monkeypatch, [0.01 * k for k in range(1 + 2 * len(paths))])
    best, untrained = Best(model, CASES, fit, ways=(0.5, 0.75, 1.0)), model.learnables()
    starts = {0.0: _backbone(untrained)}
    if len(paths) == 5:
        starts[1.0] = _backbone(_silent(model))
        changed = starts[0.0] != starts[1.0]
        assert changed.sum() == 2 * (8 * 8 + 8)  # of two blocks, all that maps an attention's output
    best.begin()
    assert len(states) == 1 and same(states[0], untrained)  # the untrained state is validated once, as it is
    for check in (1, 2):
        own = enlarged(model, check).learnables()
        best.check(check)
        t = _backbone(own)
        assert np.abs(starts[0.0] - t).min() > 0
        for state, (way, origin) in zip(states[-len(paths) :], paths, strict=True):
            expected = {0.5: (starts[origin] + t) / 2, 0.75: starts[origin] / 4 + 3 * t / 4, 1.0: t}[way]
            np.testing.assert_allclose(_backbone(state), expected, rtol=1e-12, atol=1e-15)
            assert _items(state).keys() == {"table.weight", "head.weight", "head.bias"}
            assert same(_items(state), own) and not same(_items(state), untrained)
        assert same(states[-1], own) and same(model.learnables(), own)  # as before the check
    assert len(states) == 1 + 2 * len(paths) and [row["at"] for row in fit.history] == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "told", "origin"),
    [
        ([0.5, 0.4, 0.3], 0.5, 0.0), ([0.3, 0.5, 0.4], 0.75, 0.0), ([0.3, 0.4, 0.5], 1.0, 0.0),
        ([0.5, 0.5, 0.5], 1.0, 0.0), ([0.5, 0.4, 0.5], 1.0, 0.0), ([0.5, 0.5, 0.4], 0.75, 0.0),
        ([0.2, 0.1, 0.1], 0.5, 0.0),
        # from two origins
        ([0.5, 0.4, 0.3, 0.4, 0.3], 0.5, 0.0), ([0.4, 0.5, 0.3, 0.4, 0.3], 0.5, 1.0),
        ([0.4, 0.3, 0.5, 0.4, 0.3], 0.75, 0.0), ([0.4, 0.3, 0.4, 0.5, 0.3], 0.75, 1.0),
        ([0.4, 0.3, 0.4, 0.4, 0.5], 1.0, 0.0), ([0.5, 0.5, 0.5, 0.5, 0.5], 1.0, 0.0),
        ([0.5, 0.5, 0.4, 0.4, 0.4], 0.5, 1.0), ([0.5, 0.5, 0.5, 0.4, 0.4], 0.75, 0.0),
        ([0.4, 0.5, 0.5, 0.5, 0.4], 0.75, 1.0), ([0.1, 0.2, 0.1, 0.1, 0.1], 0.5, 1.0),
    ],
)  # fmt: skip
def test_the_best_way_is_kept_and_restored(
    small_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    values: list[float],
    told: float,
    origin: float,
) -> None:
    """Of ways that are as good as each other, the one that goes furthest, and of those as far the one from the second
    origin; the untrained state said 0.2."""
    paths = ALONE if len(values) == 3 else PATHS
    backbone = "sasrec" if len(values) == 3 else "sasrec-relative"
    model, other = (small_model(items="both", backbone=backbone, seed=seed) for seed in (0, 1))
    fit, worse = Fit(), [0.1 if path == (0.75, 0.0) else 0.0 for path in paths]
    states = _said(monkeypatch, [0.2, *values, *worse])
    best = Best(model, CASES, fit, ways=(0.5, 0.75, 1.0))
    best.begin()
    enlarged(model, 1)
    assert best.check(5, loss=1.5) == max(values)
    assert fit.history == [
        {"at": 0.0, "R@10": 0.2, "N@10": 0.0, "way": 1.0, "origin": 0.0},
        {"at": 5.0, "R@10": max(values), "N@10": 0.0, "way": told, "origin": origin, "loss": 1.5},
    ]
    better = max(values) > 0.2
    assert best.stale == (not better) and fit.way == (told if better else 1.0)
    enlarged(model, 2)
    best.check(6)
    best.finish(other.train())
    chosen = (5, max(values), told) if better else (0, 0.2, 1.0)
    assert (fit.best, fit.best_value, fit.way) == chosen
    assert [(one.at, one.value, one.way) for one in best.kept] == [chosen]
    assert fit.value == fit.best_value == fit.valid["R@10"] and fit.untrained["R@10"] == 0.2
    expected = states[1 + paths.index((told, origin)) if better else 0]
    assert same(other.learnables(), expected) and same(model.learnables(), expected)
    assert not other.training and len(states) == 1 + 2 * len(paths)
    assert len({_backbone(state).tobytes() for state in states[1 : 1 + len(paths)]}) == len(paths)


def test_all_cases_choose_among_states_of_other_ways(
    small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample's best state goes the whole way; by all cases another one is better, three quarters of its way from
    the second origin."""
    monkeypatch.setattr(module, "SAMPLE", 20)
    model, other = (small_model(backbone="sasrec-relative", seed=seed) for seed in (0, 1))
    fit, first, second = Fit(), [0.3, 0.2, 0.2, 0.3, 0.5], [0.3, 0.2, 0.3, 0.4, 0.2]
    states = _said(monkeypatch, [0.2, 0.1, *first, *second, 0.6, 0.7, 0.65])
    best = Best(model, CASES, fit, 3, (0.5, 0.75, 1.0))
    best.begin()
    for check in (1, 2):
        best.check(check)
        enlarged(model, check)
    assert (fit.best, fit.best_value, fit.way) == (1, 0.5, 1.0)
    assert [(one.at, one.value, one.way) for one in best.kept] == [(1, 0.5, 1.0), (2, 0.4, 0.75), (0, 0.1, 1.0)]
    best.finish(other)
    assert (fit.best, fit.best_value, fit.way, fit.value) == (2, 0.4, 0.75, 0.7)
    chosen = states[2 + len(first) + PATHS.index((0.75, 1.0))]
    assert same(other.learnables(), chosen) and same(states[-2], chosen)
    assert not same(states[-3], chosen) and sum(same(state, chosen) for state in states) == 2
    assert [(row["way"], row["origin"]) for row in fit.history] == [(1.0, 0.0), (1.0, 0.0), (0.75, 1.0)]
    assert "0.4000" in best.sampled() and "0.7000" in best.sampled() and len(states) == 15


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_every_way_has_an_offset_of_its_own(seed: int) -> None:
    """The way and its origin are the best by weighted recall, against full rankings; the model is left with the whole
    way's offset."""
    fresh, _, valid = new_items(200)
    valid = replace(valid, new_share=0.3)
    model, plain, fit = fresh(), fresh(), Fit()
    untrained = enlarged(model, seed).learnables()
    best = Best(model, valid, fit, ways=(0.5, 0.75, 1.0))
    best.begin()
    assert model.table is not None
    with torch.no_grad():
        model.table.weight[:30, -1] += 1.0  # what occurs in training goes up
    own = enlarged(model, 10 + seed).learnables()
    best.check(1)
    plain.restore(untrained)
    floor = max((_recalls(plain, valid, o) for o in OFFSETS), key=lambda found: 0.3 * found[0] + 0.7 * found[1])[0]
    expected = list[tuple[float, float]]()  # value and offset
    for way, origin in PATHS:
        plain.restore(part_way(untrained, own, way, origin))
        recalls = {o: _recalls(plain, valid, o) for o in OFFSETS}
        least = min(floor, max(cold for cold, _ in recalls.values()))
        allowed = {o: 0.3 * cold + 0.7 * warm for o, (cold, warm) in recalls.items() if cold >= least}
        o = max(allowed, key=lambda o: allowed[o])
        expected.append((allowed[o], float(o)))
    row, chosen = fit.history[1], max(range(len(PATHS)), key=lambda k: (expected[k][0], k))
    assert (row["weighted"], row["offset"]) == pytest.approx(expected[chosen])
    assert (row["way"], row["origin"]) == PATHS[chosen]
    left = model.learnables()
    assert left.pop("offset").item() == pytest.approx(expected[-1][1]) and same(left, own)
    assert len({offset for _, offset in expected}) > 1
    best.finish(plain)
    assert plain.offset is not None and plain.offset.item() == pytest.approx(fit.history[fit.best]["offset"])


@pytest.mark.parametrize(("ways", "paths"), [(WAYS, PATHS), ((1.0,), [(1.0, 0.0)])])
def test_a_training_tries_its_ways(
    task: Any, monkeypatch: pytest.MonkeyPatch, ways: tuple[float, ...], paths: list[tuple[float, float]]
) -> None:
    """At every validation but that of the untrained state; anchors are states of the whole way."""
    monkeypatch.setattr(fit_module, "WAYS", ways)
    trail, states, original = list[dict[str, Tensor]](), list[dict[str, Tensor]](), module.validate

    def validate(model: Any, cases: Cases, measure: Any) -> dict[str, float]:
        states.append(model.learnables())
        return original(model, cases)

    monkeypatch.setattr(module, "validate", validate)
    fit, model = trained(task, store=Watched(lambda _, m: trail.append(m.learnables())))
    assert len(trail) == len(fit.history) == 4 and len(states) == 1 + 3 * len(paths)
    expected = [(0, 1.0, 0.0), *[(at, *path) for at in (1, 2, 3) for path in paths]]
    for state, (at, way, origin) in zip(states, expected, strict=True):
        for name, x in part_way(trail[0], trail[at], way, origin).items():
            torch.testing.assert_close(state[name].double(), x.double(), rtol=1e-6, atol=1e-7)
    row = next(row for row in fit.history if row["at"] == fit.best)
    assert fit.way == row["way"] and {(row["way"], row["origin"]) for row in fit.history} <= set(paths)
    kept = part_way(trail[0], trail[fit.history.index(row)], fit.way, row["origin"])
    for name, x in model.learnables().items():
        torch.testing.assert_close(x.double(), kept[name].double(), rtol=1e-6, atol=1e-7)


def test_a_lower_kl_is_better_whatever_the_recall() -> None:
    """Without one it is R@10, with new targets weighted where they are."""
    near, far = {"KL": 0.1, "R@10": 0.1}, {"KL": 0.2, "R@10": 0.3, "weighted": 0.4}
    assert value_of(near) > value_of(far)
    assert value_of({"R@10": 0.3, "weighted": 0.1}) < value_of({"R@10": 0.2})
