"""The one exception users see: what is wrong, where, and what to type instead.

`FosterError` is raised wherever input is at fault. `foster_cli.__main__.main` prints it as one line and
exits with code 2; code that uses foster as a library catches it as any exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FosterError(Exception):
    """Bad input. `message` says what is wrong and where, `hint` what to type instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NotFinite(FosterError):
    """A loss or parameter became NaN or Inf."""


class OutOfMemory(FosterError):
    """Memory is too small for what was asked for."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `name`, mistyped, comes near to (similarity from `cutoff`); None where there is none."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)
