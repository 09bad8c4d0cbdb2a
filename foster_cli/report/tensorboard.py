"""`foster distill --tensorboard DIR`: a run's events as TensorBoard event files, written during the run.

In: console events. Out: scalars. `step`: inner/…, outer/…, constraint/…, synthetic/…, step/…; `check`: validation/…;
`start`: start/R@10, numbered; at step 0 `teacher`: validation/full, validation/untrained; `random`: validation/random.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foster_cli.console import Console
from foster_cli.errors import FosterError

INSTALL = "type `pip install 'foster-cli[tensorboard]'`"
#: The tags of a step's columns. Any other column is written under step/.
TAGS = {
    "inner_before": "inner/before", "inner_after": "inner/after", "q": "constraint/q", "lambda": "constraint/lambda",
    "q_sign": "constraint/q_sign", "outer_real": "outer/real", "outer_feature": "outer/feature",
    "outer_dh": "outer/dh", "entropy": "synthetic/entropy", "gradient_synthetic": "synthetic/gradient",
    "moved": "synthetic/moved", "rank_error": "synthetic/rank_error", "gradient_phi": "step/gradient_phi",
    "seconds": "step/seconds",
}  # fmt: skip


def check_tensorboard() -> None:
    """Raise FosterError with the command that installs TensorBoard, if it is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise FosterError(f"--tensorboard needs the package tensorboard ({error})", INSTALL) from error


@contextmanager
def recording(console: Console, folder: Path | None) -> Iterator[None]:
    """Write all events of `console` into `folder`; None: write nothing. Raises FosterError for a bad folder."""
    if folder is None:
        yield
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    try:
        folder.mkdir(parents=True, exist_ok=True)
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise FosterError(
            f"--tensorboard {folder}: cannot be written ({error.strerror or error})", "name another folder"
        ) from error
    try:
        with console.listening(_Recorder(writer)):
            yield
    finally:
        writer.close()


class _Recorder:
    """Writes the numbers of an event under their tags."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.starts = 0

    def __call__(self, fields: dict[str, Any]) -> None:
        kind = fields.get("event")
        if kind == "step":
            step = int(fields["step"])
            for name, value in fields.items():
                if name not in ("event", "step"):
                    self.writer.add_scalar(TAGS.get(name, f"step/{name}"), value, step)
        elif kind == "check":
            for name, value in fields.items():
                if name not in ("event", "step"):
                    self.writer.add_scalar(f"validation/{name}", value, int(fields["step"]))
            self.writer.flush()
        elif kind == "start":
            self.starts += 1
            self.writer.add_scalar("start/R@10", fields["R@10"], self.starts)
        elif kind == "teacher":
            self.writer.add_scalar("validation/full", fields["R@10"], 0)
            self.writer.add_scalar("validation/untrained", fields["untrained"], 0)
        elif kind == "random":
            self.writer.add_scalar("validation/random", fields["R@10"], 0)
