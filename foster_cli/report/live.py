"""The live view of `foster distill --live`: progress, losses, and validation next to full and random data.

In: console events (`teacher`, `random`, `start`, `check`, `step`) and progress. Out: a rich renderable. The view only
listens, so it does not change the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foster_cli.console import clean
from foster_cli.data.schema import Dataset
from foster_cli.evaluate.rows import few_model, random_windows
from foster_cli.ops.precision import matmul_precision
from foster_cli.session import Session
from foster_cli.settings import Settings
from foster_cli.train.best import value_of
from foster_cli.train.task import make_task

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 36
#: The columns of a step that are drawn, and their labels.
LOSSES = (
    ("inner_before", "inner loss"), ("q", "q"), ("lambda", "lambda"), ("outer_real", "outer loss"),
    ("entropy", "entropy"),
)  # fmt: skip


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """`values` as block characters. More than `width` values are averaged over equal stretches."""
    if len(values) > width:
        cuts = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    if not values:
        return ""
    low, high = min(values), max(values)
    if high <= low:
        return BLOCKS[3] * len(values)
    return "".join(BLOCKS[min(7, int(8 * (v - low) / (high - low)))] for v in values)


def clock(seconds: float) -> str:
    """`seconds` as 1:02:03 or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def random_reference(settings: Settings, data: Dataset, session: Session) -> float:
    """Validation R@10 of one model trained on M random real windows, like the row `random` of `foster eval`."""
    budget = settings.distill.budget
    with matmul_precision(settings.model.precision, session.device):
        task = make_task(data, settings.model, settings.distill.length, session, settings.ranking)
        windows = random_windows(task.windows, min(budget, len(task.windows)), settings.seed)
        found = few_model(task, settings.train, windows, settings.seed, f"{budget} random real sequences")
    assert found.valid is not None
    return found.valid


@contextmanager
def watching(live: bool, settings: Settings, data: Dataset, session: Session) -> Iterator[None]:
    """Show the live view during a run if `live` is set and the console is a terminal. Elsewhere `live` gives a note.

    First trains one model on random real sequences as a reference.
    """
    console, config = session.console, settings.distill
    if not live or not console.interactive:
        if live:
            console.note("--live draws on a terminal only (and not with --json): plain lines here")
        yield
        return
    title = f"{data.name}: {settings.method}, budget {config.budget}"
    with console.live(LiveView(title, config.steps, config.check_every)):
        console.event(event="random", **{"R@10": random_reference(settings, data, session)})
        yield


class LiveView:
    """The state of one run of K = `steps` steps, with a validation every `check_every` steps. `now` returns seconds."""

    def __init__(self, title: str, steps: int, check_every: int, now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.steps, self.check_every, self.now = clean(title, 80), steps, check_every, now
        self.values: dict[str, float] = {}
        self.checks: list[dict[str, float]] = []
        self.starts: list[dict[str, float]] = []
        self.log: list[dict[str, float]] = []
        self.label, self.done, self.total, self.extra = "preparing", 0, 0, ""
        self.began = self.last = self.stage_began = now()
        self.step_seconds: list[float] = []
        self.check_seconds: list[float] = []

    def begin(self, label: str, total: int) -> Callable[[int, str], None]:
        """Begin a stage of `total` units. Returns the function that reports its progress."""
        self.label, self.done, self.total, self.extra = clean(label, 60), 0, total, ""
        self.stage_began = self.now()

        def at(done: int, extra: str) -> None:
            self.done, self.extra = done, clean(extra, 60)

        return at

    def hear(self, fields: dict[str, Any]) -> None:
        """Update the state with an event."""
        now, kind = self.now(), fields.get("event")
        if kind == "teacher":
            self.values |= {"full data": fields["R@10"], "untrained": fields["untrained"]}
            self.begin("fresh models on the starting points", 0)
        elif kind == "random":
            self.values["random real"] = fields["R@10"]
        elif kind == "start":
            self.starts.append(fields)
        elif kind == "check":
            self.checks.append(fields)
            if len(self.checks) > 1:  # the time since the step before it
                self.check_seconds.append(now - self.last)
        elif kind == "step":
            self.log.append(fields)
            self.step_seconds.append(now - self.last)
        self.last = now

    def seconds_left(self) -> float | None:
        """Seconds for the remaining outer steps and validations at the pace so far; None before the first step."""
        if not self.step_seconds:
            return None
        done = int(self.log[-1]["step"])
        recent = self.step_seconds[-50:]
        left = (self.steps - done) * sum(recent) / len(recent)
        if self.check_seconds:
            checked = int(self.checks[-1]["step"])
            due = 0 if checked >= self.steps else -(-self.steps // self.check_every) - checked // self.check_every
            left += due * sum(self.check_seconds) / len(self.check_seconds)
        return left

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._stage()]
        if self.values or self.checks or self.starts:
            parts += [Text(), self._validation()]
        if self.log:
            parts += [Text(), self._losses()]
        return Panel(Group(*parts), title=Text(self.title), title_align="left", width=86)

    def _stage(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        left = self.seconds_left()
        times = f"{clock(self.now() - self.began)} passed"
        if left is not None:
            times += f", about {clock(left)} left"
        elif 0 < self.done < self.total:
            rest = (self.now() - self.stage_began) / self.done * (self.total - self.done)
            times += f", at most {clock(rest)} left of this stage"
        bar = ProgressBar(total=max(1, self.total), completed=self.done, width=24)
        grid.add_row(Text(self.label), bar, Text(f"{self.done}/{self.total}" if self.total else ""))
        return Group(grid, Text(self.extra, style="dim"), Text(times, style="dim"))

    def _validation(self) -> RenderableType:
        """Bars on one scale: the synthetic set now and at its best, full data, random real sequences, no training."""
        rows: list[tuple[str, float]] = []
        if self.checks:
            last, best = self.checks[-1], max(self.checks, key=value_of)
            named = (("synthetic", last), ("best", best))
            rows = [(f"{name}, step {found['step']:.0f}", found["R@10"]) for name, found in named]
        elif self.starts:
            rows = [(f"best of {len(self.starts)} starts", max(self.starts, key=value_of)["R@10"])]
        rows += [(name, self.values[name]) for name in ("full data", "random real", "untrained") if name in self.values]
        top = max([value for _, value in rows] + [1e-9])
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("validation R@10", style="bold"))
        for name, value in rows:
            bar = ProgressBar(total=top, completed=value, width=WIDTH, complete_style="cyan", finished_style="cyan")
            table.add_row(Text(name), Text(f"{value:.4f}"), bar)
        return table

    def _losses(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text(f"outer step {int(self.log[-1]['step'])} of {self.steps}", style="bold"))
        for key, name in LOSSES:
            if key in self.log[-1]:
                values = [row[key] for row in self.log]
                table.add_row(Text(name), Text(f"{values[-1]:.4f}"), Text(sparkline(values), style="cyan"))
        return table
