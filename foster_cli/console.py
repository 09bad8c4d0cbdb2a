"""The only printer. Results go to stdout; progress, notes and errors go to stderr.

It draws rich bars and tables on a terminal, and prints plain lines elsewhere. With `--json`, stdout carries only JSON,
one object per line for events, for programs to read. Text from data (such as titles) is untrusted: `clean` removes
control and bidirectional characters, and `escape` keeps rich from reading the text as markup.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def clean(text: object, limit: int = 200) -> str:
    """`text` made safe to print: control, format (bidi) and line-breaking characters become a space."""
    out = "".join(" " if unicodedata.category(c) in _UNSAFE else c for c in str(text))
    out = " ".join(out.split())
    return out if len(out) <= limit else out[: limit - 1] + "…"


def _groups(lines: Sequence[Sequence[str]], room: int) -> list[list[int]]:
    """The columns of tables of at most `room` characters each, frames included. Each table begins with column 0."""
    first, *widths = [max(cell_len(line[i]) for line in lines) + 3 for i in range(len(lines[0]))]
    groups, used = [[0]], 1 + first
    for i, width in enumerate(widths, 1):
        if len(groups[-1]) > 1 and used + width > room:
            groups.append([0])
            used = 1 + first
        groups[-1].append(i)
        used += width
    return groups


class View(Protocol):
    """What `Console.live` draws. It receives every event, and replaces the progress bars."""

    def __rich__(self) -> RenderableType: ...

    def hear(self, fields: dict[str, Any], /) -> None: ...

    def begin(self, label: str, total: int, /) -> Callable[[int, str], None]: ...


class Console:
    """Prints for one command. `json_mode` makes stdout machine-readable; `quiet` drops notes."""

    def __init__(self, json_mode: bool = False, quiet: bool = False) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._listeners: list[Callable[[dict[str, Any]], None]] = []
        self._view: View | None = None

    @property
    def interactive(self) -> bool:
        """Whether a person watches: stderr is a terminal, and `--json` is not given."""
        return self._err.is_terminal and not self.json_mode

    def note(self, text: str) -> None:
        """Print a line of progress or explanation to stderr."""
        if not self.quiet:
            self._err.print(escape(text))

    def result(self, text: str) -> None:
        """Print a line of the command's answer to stdout (nothing with `--json`)."""
        if not self.json_mode:
            self._out.print(escape(text))

    def event(self, **fields: Any) -> None:
        """Print one JSON object on a line of stdout, but only with `--json`. Listeners always receive `fields`."""
        for listener in self._listeners:
            listener(fields)
        if self.json_mode:
            sys.stdout.write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
            sys.stdout.flush()

    @contextmanager
    def listening(self, listener: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Inside the block, call `listener` with the fields of every event."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def live(self, view: View) -> Iterator[None]:
        """Inside the block, draw `view` below the notes if a person watches; otherwise change nothing."""
        if not self.interactive or self.quiet:
            yield
            return
        self._view = view
        try:
            with self.listening(view.hear), Live(view, console=self._err, refresh_per_second=4):
                yield
        finally:
            self._view = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table to stdout: drawn on a terminal, aligned plain text elsewhere; nothing with `--json`.

        If the terminal is too narrow, the columns are split into several tables that each repeat the first column.
        """
        if self.json_mode:
            return
        title = clean(title, limit=2000)
        cells = [list(columns), *[[clean(c) for c in row] for row in rows]]
        if self._out.is_terminal:
            for k, group in enumerate(_groups(cells, self._out.width)):
                table = Table(title=escape(title) if k == 0 else None, title_justify="left")
                for i in group:
                    table.add_column(escape(columns[i]), justify="left" if i == 0 else "right", overflow="fold")
                for line in cells[1:]:
                    table.add_row(*[escape(line[i]) for i in group])
                self._out.print(table, soft_wrap=False)
            return
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [title] if title else []
        for row in cells:
            first, rest = (
                row[0].ljust(widths[0]),
                [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)],
            )
            lines.append("  ".join([first, *rest]).rstrip())
        self._out.print(escape("\n".join(lines)))

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Ticker]:
        """A progress bar on a terminal (or the live view), a plain line every ten seconds elsewhere."""
        if self._view is not None:
            yield Ticker(self._view.begin(label, total))
        elif self.interactive and not self.quiet:
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[extra]}"),
                console=self._err,
                transient=True,
            )
            with bar:
                task = bar.add_task(escape(label), total=total, extra="")
                yield Ticker(lambda n, extra: bar.update(task, completed=n, extra=escape(extra)))
        else:
            yield Ticker(_PlainLines(self, label, total))

    @contextmanager
    def working(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that shows what is being done: beside a spinner on a terminal, as a plain line every ten
        seconds elsewhere."""
        if self.interactive and not self.quiet and self._view is None:
            with self._err.status("") as status:
                yield lambda text: status.update(escape(text))
        else:
            yield _Rarely(self.note)


class _Rarely:
    """Hands on one text every ten seconds."""

    def __init__(self, say: Callable[[str], None], every: float = 10.0) -> None:
        self.say, self.every, self.last = say, every, time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            self.say(text)


class Ticker:
    """What `Console.progress` yields: `ticker.at(done, "loss 1.23")`."""

    def __init__(self, update: Any) -> None:
        self._update = update

    def at(self, done: int, extra: str = "") -> None:
        """Show that `done` units are finished; `extra` is a short status, such as the loss."""
        self._update(done, extra)


class _PlainLines:
    def __init__(self, console: Console, label: str, total: int, every: float = 10.0) -> None:
        self.label, self.total, self.say = label, total, _Rarely(console.note, every)

    def __call__(self, done: int, extra: str) -> None:
        self.say(f"{self.label}: {done}/{self.total} {extra}".rstrip())


@dataclass(frozen=True)
class Stage:
    """A named part of a run. Its notes and its progress are printed to `console` under `label`."""

    console: Console
    label: str

    def note(self, text: str) -> None:
        """Print `label: text` to stderr."""
        self.console.note(f"{self.label}: {text}")

    def progress(self, total: int) -> AbstractContextManager[Ticker]:
        """See `Console.progress`."""
        return self.console.progress(self.label, total)


#: A console without notes: the default for library use.
SILENT = Console(quiet=True)
TRAINING = Stage(SILENT, "training")
