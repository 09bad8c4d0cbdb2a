"""The one exception that users see. It says what is wrong, where, and what to type instead.

`FosterError` is raised for any bad input. `foster_cli.__main__.main` prints it as one line and exits with code 2;
code that uses foster as a library catches it like any exception.
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
    """The memory is too small for the request."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name in `known` that is most similar to the mistyped `name` (at least `cutoff`); None if there is none."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)
