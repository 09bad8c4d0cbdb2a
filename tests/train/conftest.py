"""The tiny task in a session that uses the cache folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest


@pytest.fixture
def cached_task(task: Any) -> Any:
    """`task`, whose teachers are read from the cache folder and written there."""
    return replace(task, session=replace(task.session, use_cache=True))
