"""Variants, pairs and axes of `foster ablate`, without training anything."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace

import numpy as np
import pytest

from foster_cli.baselines import bilevel
from foster_cli.errors import FosterError
from foster_cli.evaluate import ablation
from foster_cli.evaluate.ablation_rows import Picked, parse_layers, parse_rows
from foster_cli.evaluate.plan import Variant, bilevel_variant
from foster_cli.evaluate.rows import Row
from foster_cli.settings import DistillConfig, ModelConfig, Settings

CONFIG = DistillConfig()


def _picked(rows: str, layers: str = "none") -> list[Picked]:
    return parse_rows(rows, parse_layers("--layers", layers))


def test_rows_as_variants() -> None:
    picked = _picked("bilevel@last,foster@last,kmeans@all")
    settings = Settings(model=ModelConfig(width=8))
    models = ablation.models(picked, settings.model)
    assert {ending: (m.train_layers, m.width) for m, ending in models.items()} == {
        "@last": ("1", 8),
        "@all": ("all", 8),
    }
    found = {v.name: v for v in ablation.variants(picked, settings, (6, 4))}
    assert list(found) == ["bilevel@last", "foster@last", "kmeans@all", "random@last", "random@all"]
    assert all(v.cell == name and models[v.settings.model] == name[name.index("@") :] for name, v in found.items())
    assert found["kmeans@all"].settings.distill == replace(CONFIG, outer="bome", subset="kmeans")
    assert found["foster@last"].settings.distill == CONFIG
    assert found["bilevel@last"].settings.distill.outer == "bome"
    assert found["bilevel@last"].extra == {"bilevel": {"steps": 6, "window": 4}}
    assert found["random@all"].real and not found["foster@last"].real
    one = _picked("no_dh", "last")
    models = ablation.models(one, ModelConfig())
    assert list(models.values()) == [""]
    made = ablation.variants(one, Settings(), (5, 5))
    assert [(v.name, models[v.settings.model]) for v in made] == [("no_dh", ""), ("random", "")]


def test_no_inner_step_is_no_row() -> None:
    with pytest.raises(FosterError, match="--bilevel-steps 0: out of range; use a number of 1"):
        ablation.variants(_picked("bilevel"), Settings(), (0, 0))


def test_a_row_that_changes_nothing_is_refused() -> None:
    with pytest.raises(FosterError, match="--rows one_draw"):
        ablation.variants(_picked("foster,one_draw"), Settings(distill=replace(CONFIG, draws=1)), (5, 5))
    with pytest.raises(FosterError, match="--rows no_dh"):  # it is the row bome
        ablation.variants(_picked("foster,bome,no_dh"), Settings(distill=replace(CONFIG, dh_weight=0.0)), (5, 5))
    for name in ("bome", "no_dh"):
        (made, _) = ablation.variants(_picked(name), Settings(), (5, 5))
        assert made.settings.distill.outer == "bome"
    with pytest.raises(FosterError, match="--rows bome"):
        ablation.variants(_picked("foster,bome"), Settings(distill=replace(CONFIG, outer="bome")), (5, 5))
    for window in (0, 6):
        with pytest.raises(FosterError, match=f"--bilevel-window {window}"):
            ablation.variants(_picked("bilevel"), Settings(), (5, window))


def _bilevel(config: DistillConfig, steps: int, window: int) -> Variant:
    return bilevel_variant("bilevel", Settings(distill=config), steps, window)


def test_what_the_bilevel_gradient_does_not_read_decides_no_cell() -> None:
    other = replace(CONFIG, eta=0.9, barrier="loss", model_lr=1.0, inner_steps=2)
    a, b = (_bilevel(config, 5, 5) for config in (CONFIG, other))
    assert a.settings == b.settings
    assert _bilevel(replace(CONFIG, inner_lr=1.0), 5, 5).settings.distill != a.settings.distill


def test_the_bilevel_loop_gets_its_steps_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, object]] = []
    named = inspect.signature(bilevel.distill_bilevel).bind
    monkeypatch.setattr(bilevel, "distill_bilevel", lambda *args: heard.append(named(*args).arguments))
    loop = _bilevel(CONFIG, 9, 4).loop
    assert loop is not None
    loop("problem", "synthetic", "check", "console")  # type: ignore[arg-type]
    given = {name: name for name in ("problem", "synthetic", "check", "console")}
    assert heard == [{**given, "steps": 9, "window": 4}]


def test_pairs_of_an_ablation() -> None:
    assert ablation.pairs(["foster", "no_dh", "random"]) == (
        ("no_dh", "foster"), ("foster", "full"), ("no_dh", "full"), ("random", "full"), ("foster", "random"),
    )  # fmt: skip
    names = ["bilevel@last", "foster@last", "kmeans@all", "no_dh@none", "foster@all", "random@last"]
    assert ablation.pairs(names)[:4] == (
        ("bilevel@last", "foster@last"), ("kmeans@all", "foster@all"), ("no_dh@none", "foster@last"),
        ("foster@all", "foster@last"),
    )  # fmt: skip
    assert ("no_dh@none", "full@none") in ablation.pairs(names)
    assert ablation.pairs(["no_dh", "random"]) == (("no_dh", "full"), ("random", "full"))
    table3 = ["bilevel@last", "bome@last", "kmeans@all", "no_mix@all", "bome@all"]
    assert ablation.pairs(table3)[:3] == (
        ("bilevel@last", "bome@last"), ("kmeans@all", "bome@all"), ("bome@all", "bome@last")
    )  # fmt: skip
    assert ablation.base("bome@all", [*table3, "foster@none"]) == "foster@none"
    assert ablation.base("kmeans@all", ["foster@all", "bome@last"]) == "bome@last"


def test_a_row_is_compared_with_the_one_of_the_nearest_settings() -> None:
    """Of the rows foster and bome, whichever differs from it in fewer fields."""
    made = {v.name: v for v in ablation.variants(_picked("all"), Settings(), (5, 5))}
    values = {name: dataclasses.asdict(v.settings.distill) for name, v in made.items()}
    for name in made.keys() - {"foster", "random"}:
        differing = {
            other: sum(values[name][field] != values[other][field] for field in values[name])
            for other in ("foster", "bome") if other != name
        }  # fmt: skip
        nearest = min(differing, key=lambda other: differing[other])
        assert ablation.base(name, list(made)) == nearest and list(differing.values()).count(differing[nearest]) == 1
    assert ablation.base("foster", list(made)) is None and ablation.base("random", list(made)) is None


def test_axes() -> None:
    kinds = {p.kind.name: p.kind for p in _picked("all")}
    found = {
        name: tuple(ablation.axes(kind, "all", replace(CONFIG, **kind.change)).values()) for name, kind in kinds.items()
    }
    assert found["foster"] == ("followed", "OTF", "all", None, "student")
    assert found["bome"] == ("first-order", "OTF", "all", "with", "anchor")
    assert found["bilevel"] == ("bi-level", "OTF", "all", "with", "anchor")
    assert found["kmeans"][1] == "KM" and found["no_dh"][3] == "without" and found["reset_never"][4] == "never"
    assert found["start_only"] == (None, "OTF", "all", None, None)


def test_validation_is_a_mean_over_seeds() -> None:
    def row(valid: list[float | None]) -> Row:
        return Row(np.ones((len(valid), 1)), [], [], [], [], valid)

    assert ablation.valid(row([0.1, 0.3])) == pytest.approx(0.2)
    assert ablation.valid(row([0.1, None])) is None and ablation.valid(row([])) is None
