"""`foster doctor`: what this machine and installation can do; exit code 1 when something is broken."""

from __future__ import annotations

from typing import Annotated

import typer


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False) -> None:
    """Check Python, torch, GPU, the C++ ops, the text encoders, folders and disk.

    `ok` works, `note` works with less, `broken` stops a run with default settings; then the exit code is 1. Uses no
    network.

    Example: foster doctor
    """
    import dataclasses

    from foster_cli.console import Console
    from foster_cli.diagnose import diagnose

    console = Console(json_mode=json)
    found = diagnose()
    width = max(len(f.name) for f in found)
    for finding in found:
        console.event(**dataclasses.asdict(finding))
        console.result(f"{finding.state:6}  {finding.name.ljust(width)}  {finding.text}")
    if any(f.state == "broken" for f in found):
        raise typer.Exit(1)
