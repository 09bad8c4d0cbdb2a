"""The input of a format: a bundle and the options of `foster export`. Views of the bundle are computed lazily.

A format reads those that it needs: `job.view` (top items), `job.hard` (one item per position), `job.template`
(prompts), `job.data` (the real dataset).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foster_cli.errors import FosterError

if TYPE_CHECKING:
    from foster_cli.bundle import Bundle
    from foster_cli.data.schema import Dataset
    from foster_cli.export.hard import HardSet
    from foster_cli.export.view import SyntheticView


@dataclass(frozen=True)
class Job:
    """One export. `name` is the name of the file or folder to write; `find_data` loads the real dataset."""

    bundle: Bundle
    name: str = "synthetic"
    top: int = 10
    decode: str = "argmax"
    copies: int = 1
    seed: int = 0
    template: Path | None = None
    find_data: Callable[[], Dataset] | None = None

    @cached_property
    def view(self) -> SyntheticView:
        """The `top` most probable items of every position."""
        from foster_cli.export.view import make_view

        return make_view(self.bundle, self.top)

    @cached_property
    def hard(self) -> HardSet:
        """One item per position."""
        from foster_cli.export.hard import make_hard

        return make_hard(self.bundle, self.decode, self.copies, self.seed)

    @cached_property
    def data(self) -> Dataset:
        """The real data that the bundle was made from. Raises FosterError without `find_data`."""
        if self.find_data is None:
            raise FosterError("this format needs the real data", "name it: --data FILE")
        return self.find_data()

    @cached_property
    def size(self) -> tuple[int, int]:
        """The number of sequences in the bundle, and of positions in the longest one."""
        from foster_cli.export.view import blocks

        if self.bundle.windows is not None:
            return len(self.bundle.windows), int(self.bundle.windows.lengths.max())
        lengths = [len(read) for read, _ in blocks(self.bundle)]
        return len(lengths), max(lengths)

    def check_measurable(self) -> None:
        """Load what measuring needs before anything is written. Raises FosterError for a coreset or missing data."""
        if self.bundle.windows is not None:
            raise FosterError("--measure: the bundle holds real sequences, nothing was hardened", "leave it out")
        _ = self.data

    def record(self, format: str, hard: bool) -> dict[str, Any]:
        """The content of the `foster-export.json` of a folder."""
        manifest = self.bundle.manifest
        out: dict[str, Any] = {"foster_export": 1, "format": format, "method": manifest.get("method")}
        out["data"] = {key: manifest.get("data", {}).get(key) for key in ("name", "hash")}
        if hard and not self.hard.real:
            read, predicted = self.hard.mass()
            out |= {"decode": self.decode, "copies": self.copies, "seed": self.seed}
            out["mean_probability"] = {"read": read, "predicted": predicted}
        return out
