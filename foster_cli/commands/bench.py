"""`foster bench`: two measurements, each a command of its own."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure what distilling and training take here.", no_args_is_help=True, rich_markup_mode=None)
