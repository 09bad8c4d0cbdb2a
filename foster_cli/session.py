"""The environment of a run, apart from its settings: console, device, and whether the cache is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foster_cli.console import SILENT, Console

if TYPE_CHECKING:
    import torch


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True)
class Session:
    """`use_cache`: whether teachers and encoded texts are read from the cache folder and written to it."""

    console: Console = SILENT
    device: torch.device = field(default_factory=_cpu)
    use_cache: bool = True
