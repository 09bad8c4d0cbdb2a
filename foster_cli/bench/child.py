"""The process that measures one row: `python -m foster_cli.bench.child`, request on stdin, one line on stdout.

`distill.measure` answers `{"bench": "distill", …}`, `train.measure` `{"bench": "train", …}`. The row's `status` is
`done`; `out of memory`; `wrong`, with a FosterError's message and hint; or `fault`, with the name of an exception.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.runtime import out_of_memory


def answer(request: dict[str, Any], measure: Callable[[dict[str, Any], Console], dict[str, Any]]) -> dict[str, Any]:
    """The row. An exception becomes its `status`; only an interruption is raised."""
    try:
        return {"status": "done", **measure(request, Console())}
    except Exception as error:  # noqa: BLE001 - the parent raises it
        if out_of_memory(error):
            return {"status": "out of memory"}
        if isinstance(error, FosterError):
            return {"status": "wrong", "message": error.message, "hint": error.hint}
        return {"status": "fault", "message": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer the request on stdin."""
    from foster_cli.bench import distill, train

    request = json.loads(sys.stdin.read())
    measure = {"distill": distill.measure, "train": train.measure}[request["bench"]]
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # library output must not mix with the row
        row = answer(request, measure)
    out.write(json.dumps(row, allow_nan=False) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
