"""FOSTER's starting point alone, in the paper's form: the teacher's soft rollouts, without any outer step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from foster_cli.distill.loop import bome
from foster_cli.settings import Settings

#: Algorithm 2, which with 0 steps validates the start.
LOOP = bome
READS = (
    "budget", "length", "draws", "gain", "rank_user", "rank_time", "items_per_step", "subset", "check_seeds", "exact",
)  # fmt: skip


def adapt(settings: Settings, typed: Collection[str]) -> Settings:
    """Start from a rollout, with the next position as the target, no mixing and no outer step."""
    config = replace(settings.distill, outer="bome", init="rollout", targets="next", mix=False, steps=0)
    return replace(settings, distill=config)
