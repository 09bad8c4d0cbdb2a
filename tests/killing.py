"""Ends a computation at its n-th operation on the disk, as a kill or a loss of power would: nothing follows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """No `except` in foster names it."""


@contextmanager
def killed_at(patch: pytest.MonkeyPatch, number: int, error: BaseException | None = None) -> Iterator[list[str]]:
    """From the `number`-th operation on (from 0) each one raises `Killed`, or the first one `error`. Gives the
    operations so far."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(done) == number or (error is None and len(done) > number):
                done.append("killed")
                raise error or Killed
            done.append(name)
            return original(*args, **kwargs)

        return call

    with patch.context() as m:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "unlink"), (shutil, "rmtree")):
            m.setattr(owner, name, counted(name, getattr(owner, name)))
        yield done
