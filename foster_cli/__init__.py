"""foster: shrink a sequential-recommendation dataset to a few synthetic sequences (FOSTER)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foster_cli.version import __version__

if TYPE_CHECKING:
    from foster_cli.bundle import Bundle, load

__all__ = ["Bundle", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import `foster_cli.load` and `foster_cli.Bundle` lazily, because they need torch."""
    if name in ("load", "Bundle"):
        from foster_cli import bundle

        return getattr(bundle, name)
    raise AttributeError(f"module 'foster_cli' has no attribute {name!r}")
