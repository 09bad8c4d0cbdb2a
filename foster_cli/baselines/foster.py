"""FOSTER as one of the compared methods: outer steps that follow students, or Algorithm 2 (`--outer`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import replace

from foster_cli.distill.follow import distill
from foster_cli.errors import FosterError
from foster_cli.settings import BOME_ONLY, DistillConfig, Settings

LOOP = distill
READS = tuple(f.name for f in dataclasses.fields(DistillConfig))


def adapt(settings: Settings, typed: Collection[str]) -> Settings:
    """`settings`; targets that are the next position cannot move alone, so `--targets next` means Algorithm 2.

    Raises FosterError where students are followed, but Algorithm 2 has settings.
    """
    config, plain = settings.distill, DistillConfig()
    if config.outer != "follow":
        return settings
    if config.targets == "next":
        if "outer" in typed:
            raise FosterError("--outer follow: needs targets of its own", "use --targets own, or --outer bome")
        return replace(settings, distill=replace(config, outer="bome"))
    for field in dataclasses.fields(DistillConfig):
        if field.name in BOME_ONLY and getattr(config, field.name) != getattr(plain, field.name):
            name = field.metadata["flag"] or f"distill.{field.name}"
            raise FosterError(f"{name}: means nothing with --outer follow", "leave it out, or add --outer bome")
    return settings
