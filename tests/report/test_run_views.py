"""The live view and TensorBoard: they show what the events hold, and only listen."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.report.live import LiveView, clock, sparkline
from foster_cli.report.tensorboard import recording


def _text(view: LiveView) -> str:
    out = io.StringIO()
    RichConsole(file=out, width=100).print(view)
    return out.getvalue()


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▄"), ([2.0, 2.0], "▄▄"), ([0.0, 1.0], "▁█"), ([float(i) for i in range(8)], "▁▂▃▄▅▆▇█")],
)
def test_sparkline(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn


def test_a_long_line_is_drawn_by_means() -> None:
    assert sparkline([0.0] * 500 + [1.0] * 500, 4) == "▁▁██"
    assert len(sparkline([float(i % 7) for i in range(1001)], 36)) == 36


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 61, 3723, -4)] == ["0:00", "1:00", "1:01", "1:02:03", "0:00"]


def test_the_view_shows_losses_validation_and_time_left() -> None:
    now = [100.0]
    view = LiveView("shop: foster\x1b[31m", 10, 4, lambda: now[0])
    assert "preparing" in _text(view) and view.seconds_left() is None
    view.begin("training on the full data", 8)(2, "loss 5.1")
    now[0] += 10
    shown = _text(view)
    assert "training on the full data" in shown and "2/8" in shown and "loss 5.1" in shown and "\x1b[31m" not in shown
    assert "at most 0:30 left of this stage" in shown  # 2 of 8 in 10 s
    view.hear({"event": "random", "R@10": 0.11})
    view.hear({"event": "teacher", "R@10": 0.3, "untrained": 0.1})
    view.hear({"event": "start", "name": "probe 1", "R@10": 0.21})
    view.hear({"event": "start", "name": "probe 2", "R@10": 0.19})
    shown = _text(view)
    assert "best of 2 starts" in shown and "0.2100" in shown
    view.hear({"event": "check", "step": 0, "R@10": 0.21})
    for step in range(1, 7):
        now[0] += 2.0
        row = {"inner_before": 1.0 / step, "q": 0.1, "lambda": 0.0, "outer_real": 3.0 - step / 10, "entropy": 4.0}
        view.hear({"event": "step", "step": float(step), **row})
        if step == 4:
            now[0] += 30.0
            view.hear({"event": "check", "step": 4, "R@10": 0.25})
    # four steps of 2 s, and the validations after steps 8 and 10 of 30 s
    assert view.seconds_left() == pytest.approx(4 * 2 + 2 * 30)
    shown = _text(view)
    for part in ("outer step 6 of 10", "synthetic, step 4", "best, step 4", "full data", "random real", "untrained",
                 "0.2500", "0.3000", "0.1100", "2.4000", "about 1:08 left"):  # fmt: skip
        assert part in shown, part
    for step in range(7, 11):
        now[0] += 2.0
        view.hear({"event": "step", "step": float(step), "outer_real": 2.0})
        if step == 8:
            now[0] += 30.0
            view.hear({"event": "check", "step": 8, "R@10": 0.26})
    assert view.seconds_left() == pytest.approx(30)
    view.hear({"event": "check", "step": 10, "R@10": 0.2})
    assert view.seconds_left() == 0
    assert "best, step 8" in _text(view)


def test_a_console_that_nobody_watches_draws_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console()
    view = LiveView("t", 1, 1)
    with console.live(view):
        console.event(event="check", step=0, **{"R@10": 0.5})
        with console.progress("stage", 3) as bar:
            bar.at(1)
    assert view.checks == [] and capfd.readouterr() == ("", "")


def test_a_watched_console_hands_progress_and_events_to_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "interactive", True)
    console = Console()
    view = LiveView("t", 1, 1)
    with console.live(view), console.progress("stage", 3) as bar:
        bar.at(2, "half")
        console.event(event="check", step=0, **{"R@10": 0.5})
    assert (view.label, view.done, view.total, view.extra) == ("stage", 2, 3, "half")
    assert [(found["step"], found["R@10"]) for found in view.checks] == [(0, 0.5)]
    console.event(event="check", step=1, **{"R@10": 0.6})
    assert len(view.checks) == 1  # it has stopped listening


def test_tensorboard_holds_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    console = Console()
    rows = [{"step": k + 1.0, "inner_before": 1 / (k + 1), "q": 0.25 - k, "lambda": 0.5 * k, "new": 7.0 * k}
            for k in range(3)]  # fmt: skip
    with recording(console, tmp_path / "tb"):
        console.event(event="teacher", **{"R@10": 0.5, "untrained": 0.125})
        console.event(event="start", name="probe 1", **{"R@10": 0.25})
        console.event(event="check", step=0, **{"R@10": 0.25, "sd": 0.5})
        for row in rows:
            console.event(event="step", **row)
        console.event(event="bundle", path="x", metrics={})
    console.event(event="check", step=9, **{"R@10": 0.9})  # after the end: not written
    found = EventAccumulator(str(tmp_path / "tb")).Reload()

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(e.step, e.value) for e in found.Scalars(tag)]

    assert scalars("inner/before") == [(k + 1, pytest.approx(1 / (k + 1))) for k in range(3)]
    assert scalars("constraint/q") == [(1, 0.25), (2, -0.75), (3, -1.75)]
    assert scalars("constraint/lambda") == [(1, 0.0), (2, 0.5), (3, 1.0)]
    assert scalars("step/new") == [(1, 0.0), (2, 7.0), (3, 14.0)]
    assert scalars("validation/R@10") == [(0, 0.25)] and scalars("validation/sd") == [(0, 0.5)]
    assert scalars("validation/full") == [(0, 0.5)] and scalars("validation/untrained") == [(0, 0.125)]
    assert scalars("start/R@10") == [(1, 0.25)]


def test_tensorboard_missing_or_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FosterError, match=r"--tensorboard .*file: cannot be written"), \
         recording(Console(), tmp_path / "file"):  # fmt: skip
        pass
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(FosterError, match=r"pip install 'foster-cli\[tensorboard\]'"), \
         recording(Console(), tmp_path / "tb"):  # fmt: skip
        pass
    assert not (tmp_path / "tb").exists()
    with recording(Console(), None):  # not asked for, not needed
        pass
