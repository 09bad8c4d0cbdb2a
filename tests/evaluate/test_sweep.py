"""Points, pairs, the CSV and the picture of `foster sweep`, without training anything."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.baselines import adapted
from foster_cli.errors import FosterError
from foster_cli.evaluate import plot, sweep
from foster_cli.evaluate.parameters import PARAMETERS, parse_over
from foster_cli.settings import DistillConfig, Settings

CONFIG = DistillConfig()


def test_points_with_the_same_settings_are_one_variant() -> None:
    ranges = parse_over(["budget=10,20", "tau=50,100", "S=512,all"])
    found = {v.name: v for v in sweep.variants(ranges, Settings())}
    assert list(found) == ["budget=10", "default", "reset-every=50", "items-per-step=all"]
    assert found["default"].settings == Settings()
    assert found["items-per-step=all"].settings.distill.items_per_step is None
    for name, field in (("budget=10", "budget"), ("reset-every=50", "reset_every")):
        a, b = dataclasses.asdict(found[name].settings.distill), dataclasses.asdict(CONFIG)
        assert {key for key in a if a[key] != b[key]} == {field}
    assert len({v.cell for v in found.values()}) == 1  # one folder of cells knows each of them by its settings alone
    assert sweep.pairs(["budget=10", "default"]) == (
        ("budget=10", "default"), ("budget=10", "full"), ("default", "full")
    )  # fmt: skip
    assert sweep.pairs(["budget=10"]) == (("budget=10", "full"),)


def test_what_algorithm_2_alone_reads_is_swept_with_it() -> None:
    """Its curve has no point in common with the default, unless the whole sweep is of Algorithm 2."""
    ranges = parse_over(["T=2,5", "tau=50,100"])
    for config, names in (
        (CONFIG, ["inner-steps=2", "inner-steps=5", "reset-every=50", "default"]),
        (replace(CONFIG, outer="bome"), ["inner-steps=2", "default", "reset-every=50"]),
    ):
        found = {v.name: v.settings.distill for v in sweep.variants(ranges, Settings(distill=config))}
        assert list(found) == names
        assert found["inner-steps=2"] == replace(config, outer="bome", inner_steps=2)
        assert found["reset-every=50"] == replace(config, reset_every=50) and found["default"] == config
        assert all(adapted(Settings(distill=x)).distill == x for x in found.values())
    assert found.get("inner-steps=5") is None
    assert {p.field for p in PARAMETERS.values() if p.bome} == {"dh_weight", "inner_steps", "alpha", "eta"}


@given(st.floats(0, 1e6) | st.integers(0, 10**9))
def test_a_value_is_written_so_that_it_reads_back(value: float | int) -> None:
    assert float(sweep.written(value)) == value


def _interval(mean: float) -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.02, "seeds": [mean]}


def _found(name: str = "shop", over: tuple[str, ...] = ("budget=5,20,80", "lambda=0,0.01,0.1,1")) -> dict[str, Any]:
    """What `sweep` gives, with made-up numbers."""
    ranges = parse_over(list(over))
    names = [v.name for v in sweep.variants(ranges, Settings())]
    metrics = ("R@10", "N@10", "R@20", "N@20", "PSP@10")
    rows: dict[str, Any] = {
        n: {m: _interval(0.1 + 0.01 * i + 0.001 * j) for j, m in enumerate(metrics)}
        for i, n in enumerate([*names, "full", "untrained"])
    }
    for n in names:
        rows[n] |= {"best_step": 100, "bundle": f"cells/{n}"}
    for row in rows.values():
        row["cold R@10"] = None  # no target is cold
    curves = [
        {
            "parameter": r.parameter.name, "symbol": r.parameter.symbol, "text": r.parameter.text,
            "default": sweep.written(getattr(CONFIG, r.parameter.field)),
            "points": [
                {"value": sweep.written(v), "x": 900 if v is None else v, "row": sweep.point_name(r, v, CONFIG)}
                for v in r.values
            ],
        }
        for r in ranges
    ]  # fmt: skip
    head = {"data": {"name": name}, "split": "valid", "k": [10, 20], "cases": 1234, "seeds": [0, 1]}
    return {**head, "curves": curves, "rows": rows}


@pytest.mark.parametrize("name", ["shop", "=cmd|'x'!A1", 'x",\n"y', "\x1b[31m$x$"])
def test_the_csv_reads_back(name: str) -> None:
    found = _found(name)
    lines = list(csv.DictReader(io.StringIO(sweep.to_csv(found), newline="")))
    assert [(x["parameter"], x["value"]) for x in lines] == [
        ("budget", "5"), ("budget", "20"), ("budget", "80"), ("dh-weight", "0"), ("dh-weight", "0.01"),
        ("dh-weight", "0.1"), ("dh-weight", "1"), ("", ""), ("", ""),
    ]  # fmt: skip
    for line in lines:
        for part, key in (("mean", "N@20"), ("low", "N@20_low"), ("high", "N@20_high")):
            assert float(line[key]) == found["rows"][line["row"]]["N@20"][part]
        assert line["cold R@10"] == line["cold R@10_low"] == "" != line["PSP@10"]
        assert not line["data"].startswith("=") and "\x1b" not in line["data"]
    assert lines[0]["bundle"] == "cells/budget=5" and lines[-1]["row"] == "untrained" and lines[-1]["bundle"] == ""


@pytest.mark.parametrize(
    ("xs", "kind"),
    [
        ([10, 20, 40], "log"),
        ([10, 20, 30], "linear"),
        ([0, 0.01, 1], "symlog"),
        ([0, 1, 2], "linear"),
        ([0, 1], "linear"),
    ],
)
def test_the_axis(xs: list[float], kind: str) -> None:
    assert plot.scale(xs)[0] == kind


def test_the_picture_shows_the_numbers() -> None:
    found = _found(over=("budget=5,20,80", "lambda=0,0.01,0.1,1", "S=64,all"))
    found["rows"]["budget=5"]["best_step"] = 0
    figure = plot.make_figure(found)
    panels = np.array(figure.axes).reshape(2, 3)
    for line, metric in enumerate(("R@10", "N@10")):
        for curve, panel in zip(found["curves"], panels[line], strict=True):
            (bars,) = panel.containers
            rows = [found["rows"][p["row"]][metric] for p in curve["points"]]
            x, y = bars[0].get_data()
            assert list(x) == [p["x"] for p in curve["points"]] and list(y) == [r["mean"] for r in rows]
            ends = np.array([s[:, 1] for s in bars[2][0].get_segments()])
            np.testing.assert_allclose(ends, [[r["low"], r["high"]] for r in rows])
            if line == 1:  # the upper panels share the axis
                assert [t.get_text() for t in panel.get_xticklabels()] == [p["value"] for p in curve["points"]]
            lines = {x.get_label(): x.get_ydata()[0] for x in panel.get_lines()}
            assert lines["full data"] == found["rows"]["full"][metric]["mean"]
            assert lines["untrained"] == found["rows"]["untrained"][metric]["mean"]
            white = [list(x.get_xdata()) for x in panel.get_lines() if x.get_label() == "the start is best"]
            assert white == ([[5.0]] if curve["symbol"] == "M" else [])
            marked = [x for x in panel.get_lines() if x.get_label() == "default setting"]
            default = {"M": 20, r"\lambda": 0.1}.get(curve["symbol"])
            assert [float(x.get_xdata()[0]) for x in marked] == ([] if default is None else [default])
    assert [p.get_xscale() for p in panels[1]] == ["log", "symlog", "log"]
    assert panels[1][0].get_xlabel() == "$M$, synthetic sequences" and panels[0][0].get_ylabel() == "R@10"
    title = figure.get_suptitle()
    assert "shop: 1,234 validation cases" in title and "seeds 0, 1" in title


def test_an_interval_of_nothing_but_rounding() -> None:
    """One user and one seed: every resample gives the mean, and rounding can put an end on its other side."""
    found = _found()
    for row in found["rows"].values():
        for metric in ("R@10", "N@10"):
            mean = row[metric]["mean"]
            row[metric] |= {"low": np.nextafter(mean, 1), "high": np.nextafter(mean, 0)}
    assert plot.make_figure(found).axes


@pytest.mark.parametrize("name", ["shop", r"$\frac{x$ \evil", "漢字 \x1b[31m", "a" * 500])
def test_any_name_can_be_drawn(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    found = _found(name)
    for file in ("a.png", "b.png"):
        plot.draw(found, tmp_path / file)
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data == (tmp_path / "b.png").read_bytes()
    assert not recwarn.list


def test_without_matplotlib_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FosterError, match="matplotlib") as caught:
        plot.need_matplotlib()
    assert caught.value.hint is not None and "pip install 'foster-cli[plot]'" in caught.value.hint
