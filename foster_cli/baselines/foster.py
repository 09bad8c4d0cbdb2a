"""FOSTER as one of the compared methods: Algorithm 2, which reads every setting unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from foster_cli.distill.loop import distill
from foster_cli.settings import DistillConfig, Settings

LOOP = distill
READS = tuple(f.name for f in dataclasses.fields(DistillConfig))


def adapt(settings: Settings, typed: Collection[str]) -> Settings:
    """Return `settings` unchanged."""
    return settings
