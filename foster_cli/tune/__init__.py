"""`foster tune`: settings of a distillation, chosen on validation. Its library, Optuna, is an extra."""

from __future__ import annotations

import importlib.util

from foster_cli.errors import FosterError


def need_optuna() -> None:
    """FosterError unless Optuna is installed."""
    if importlib.util.find_spec("optuna") is None:
        raise FosterError("foster tune needs optuna, which is not installed", "type `pip install 'foster-cli[tune]'`")
