"""`foster doctor`: checks this machine and installation; exit code 1 if something is broken."""

from __future__ import annotations

import typer

from foster_cli.commands.from_settings import Json


def command(json: Json = False) -> None:
    """Check Python, torch, GPU, the C++ ops, the text encoders, folders and disk.

    `ok`: it works. `note`: it works with a limitation. `broken`: a run with default settings would fail, and the exit
    code is 1. Uses no network.

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
