"""`foster` and `python -m foster_cli`: run the app; turn errors into one line and an exit code.

Exit codes: 0 success, 2 bad input, 130 interrupted, 1 an internal error of foster.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from foster_cli.errors import FosterError

#: Seconds after Ctrl-C in which further ones are ignored, so that they do not interrupt the cleanup.
IMPATIENCE = 1.0


def main() -> None:
    """Run `foster ARGS…`."""
    debug = "--debug" in sys.argv[1:2]

    def fail(text: str, code: int) -> None:
        from foster_cli.console import clean

        sys.stderr.write(clean(text, limit=2000) + "\n")
        sys.stderr.flush()
        raise SystemExit(code)

    try:
        from foster_cli.app import app  # imported here, so that Ctrl-C during the import is handled too

        code = app(standalone_mode=False)
        if code == 130:  # Typer turns Ctrl-C into this code
            raise KeyboardInterrupt
        if code:
            raise SystemExit(code)
    except FosterError as error:
        if debug:
            raise
        fail(f"foster: {error}", 2)
    except KeyboardInterrupt:
        fail("foster: interrupted; nothing half-written is left, and what was finished is kept", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except Exception as error:
        if hasattr(error, "format_message"):  # an unknown command or option, or a bad value
            _usage(error, fail)
        if debug:
            raise
        from foster_cli.runtime import out_of_memory

        if type(error).__name__ == "Abort":  # Ctrl-D at a question
            fail("foster: no answer, nothing was done; `--yes` answers beforehand", 2)
        if out_of_memory(error):
            fail("foster: out of memory; use a smaller --width, --student-items or --items-per-step, fewer "
                 "--train-layers, or a machine with more", 2)  # fmt: skip
        fail(f"foster: internal fault ({type(error).__name__}: {error}); `foster --debug …` shows where", 1)


def _usage(error: Any, fail: Any) -> None:
    """Print Typer's message in one line or, if no command was named, the help; exit with code 2."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        raise SystemExit(2)
    command = "foster"
    if error.ctx is not None:
        command += error.ctx.command_path.removeprefix(error.ctx.find_root().command_path)
    said = error.format_message().rstrip(".")
    fail(f"foster: {said}{'' if said.endswith('?') else ';'} see {command} --help", 2)


class _Patience:
    """A handler of SIGINT that raises KeyboardInterrupt, and ignores further signals within `IMPATIENCE` seconds."""

    def __init__(self) -> None:
        self.last = -IMPATIENCE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.last >= IMPATIENCE:
            self.last = now
            raise KeyboardInterrupt


def run() -> None:
    """Entry point of the process `foster`: set the handler of SIGINT, then call `main`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # unless the shell ignores SIGINT
        signal.signal(signal.SIGINT, _Patience())
    try:
        main()
    except SystemExit as stop:
        if stop.code == 130:  # at exit Python restores the default handler, a kill, unless SIGINT is ignored
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


if __name__ == "__main__":
    run()
