"""`foster tune`: chooses the settings of a distillation on validation. It needs Optuna, an optional dependency."""

from __future__ import annotations

import importlib.util

from foster_cli.errors import FosterError


def need_optuna() -> None:
    """Raise FosterError unless Optuna is installed."""
    if importlib.util.find_spec("optuna") is None:
        raise FosterError("foster tune needs optuna, which is not installed", "type `pip install 'foster-cli[tune]'`")
