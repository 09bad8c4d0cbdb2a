"""The searched space: it holds what was given, a point of it becomes settings, what is off stays off."""

from __future__ import annotations

from dataclasses import asdict, replace

import hypothesis
import pytest
from hypothesis import strategies as st

from foster_cli.baselines import adapted
from foster_cli.distill.checks import check_settings
from foster_cli.settings import DistillConfig, Settings, StudentConfig
from foster_cli.tune.space import apply, space

#: By how outer steps are taken.
NAMES = {"follow": {"student.lr", "distill.gain", "distill.model_lr", "distill.reset_every"}}
NAMES["bome"] = NAMES["follow"] | {
    "distill.synthetic_lr", "distill.inner_lr", "distill.eta", "distill.dh_weight", "distill.inner_steps",
}  # fmt: skip


@pytest.mark.parametrize("outer", NAMES)
def test_the_given_point_is_the_given_settings(outer: str) -> None:
    """Also where they have more than three digits."""
    config = DistillConfig(outer=outer, model_lr=1.23456e-4, inner_steps=3, reset_every=7)
    student = StudentConfig(lr=9.8765e-4)
    parameters = space(config, student)
    assert {p.name for p in parameters} == NAMES[outer]
    settings = Settings(distill=config, student=student)
    assert apply(parameters, {p.name: p.given for p in parameters}, settings) == settings
    for p in parameters:
        assert p.low <= p.given <= p.high and p.distribution._contains(p.given)


@pytest.mark.parametrize("outer", NAMES)
@hypothesis.given(data=st.data())
def test_any_point_is_valid_and_changes_nothing_else(data: st.DataObject, outer: str) -> None:
    given = Settings(distill=DistillConfig(outer=outer))
    parameters = space(given.distill, given.student)
    found = {
        p.name: data.draw(st.integers(int(p.low), int(p.high)) if p.kind != "float" else st.floats(p.low, p.high))
        for p in parameters
    }
    point = apply(parameters, found, given)
    check_settings(point)
    assert adapted(point) == point  # it holds nothing that its outer steps do not read
    assert replace(point, distill=given.distill, student=given.student) == given
    a, b = point.distill, point.student
    fields = {name.split(".")[1] for name in NAMES[outer] if name.startswith("distill.")}
    assert {k for k, v in asdict(a).items() if v != asdict(given.distill)[k]} <= fields
    assert {k for k, v in asdict(b).items() if v != asdict(given.student)[k]} <= {"lr"}
    assert b.lr == pytest.approx(1e-3 * 2 ** found["student.lr"], rel=5e-3)
    assert a.gain == 40.0 * 2 ** found["distill.gain"]
    if outer == "bome":
        assert a.eta == pytest.approx(found["distill.eta"], rel=5e-3) and 0.5 / 8.1 < a.eta < 0.5 * 8.1
        assert a.inner_steps == found["distill.inner_steps"] and 1 <= a.inner_steps <= 10
    assert a.model_lr == pytest.approx(found["distill.model_lr"], rel=5e-3)
    assert a.reset_every == found["distill.reset_every"] and 10 <= a.reset_every <= 200


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"dh_weight": 0.0}, {"distill.dh_weight"}),
        ({"eta": 0.0, "inner_lr": 0.0}, {"distill.eta", "distill.inner_lr"}),
        ({"reset": "never"}, {"distill.reset_every"}),
        ({"init": "random"}, {"distill.gain"}),
        ({"steps": 0}, NAMES["bome"] - {"student.lr", "distill.gain"}),
    ],
)
def test_what_nothing_reads_is_not_searched(change: dict[str, object], gone: set[str]) -> None:
    config = replace(DistillConfig(outer="bome"), **change)  # type: ignore[arg-type]
    assert {p.name for p in space(config, StudentConfig())} == NAMES["bome"] - gone


def test_what_following_steps_do_not_read_is_not_searched() -> None:
    steps: tuple[dict[str, object], set[str]] = ({"steps": 0}, {"distill.model_lr", "distill.reset_every"})
    for change, gone in (steps, ({"init": "random"}, {"distill.gain"})):
        config = replace(DistillConfig(), **change)  # type: ignore[arg-type]
        assert {p.name for p in space(config, StudentConfig())} == NAMES["follow"] - gone
