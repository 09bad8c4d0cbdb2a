"""Watches calls by the names of their arguments, however the caller passes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from foster_cli.errors import FosterError


def spy(patch: pytest.MonkeyPatch, owner: Any, name: str, saw: Callable[[dict[str, Any]], object]) -> None:
    """From now on `owner.name` first tells `saw` its arguments by name, defaults included, then does its work.

    What `saw` raises ends the call: so a test interrupts it.
    """
    real = getattr(owner, name)
    signature = inspect.signature(real)

    def watched(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        saw(dict(given.arguments))
        return real(*args, **kwargs)

    patch.setattr(owner, name, watched)


def stopped(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[dict[str, Any]]:
    """The arguments, by name, of each call of `owner.name` from now on, which ends there: `enough; stop here`."""
    calls: list[dict[str, Any]] = []

    def stop(given: dict[str, Any]) -> None:
        calls.append(given)
        raise FosterError("enough", "stop here")

    spy(patch, owner, name, stop)
    return calls


def never(*_: object, **__: object) -> Any:
    """Stands in the place of what must not be called."""
    pytest.fail("this was not to be called")
