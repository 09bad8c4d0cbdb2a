"""What a benchmark prints and keeps: its command, the commit, the machine and its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from foster_cli.runtime import machine


def record(rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print `rows` as JSON, with what made them; also into the file `out`."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    text = json.dumps({"command": " ".join(sys.argv), "commit": commit, "machine": machine(), "rows": rows}, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")
