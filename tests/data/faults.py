"""What is said of bad data: one line, with a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foster_cli.errors import FosterError


def fault(call: Callable[..., Any], *args: Any) -> FosterError:
    """The error of `call(*args)`, checked for form."""
    with pytest.raises(FosterError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def said(call: Callable[..., Any], *args: Any) -> str:
    """Its one line."""
    return str(fault(call, *args))
