"""`foster` and `python -m foster_cli`: runs the app; turns faults into one line and an exit code.

Exit codes: 0 done, 2 bad input, 130 interrupted, 1 a fault of foster itself.
"""

from __future__ import annotations

import os
import sys

from foster_cli.errors import FosterError


def main() -> None:
    """Entry point of the `foster` command."""
    debug = "--debug" in sys.argv[1:2]

    def fail(text: str, code: int) -> None:
        from foster_cli.console import clean

        sys.stderr.write(clean(text, limit=2000) + "\n")
        sys.stderr.flush()
        raise SystemExit(code)

    try:
        from foster_cli.app import app  # in here: Ctrl-C may come while it is imported

        app()
    except FosterError as error:
        if debug:
            raise
        fail(f"foster: {error}", 2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # Typer turns Ctrl-C into this code
            raise
        fail("foster: interrupted; nothing half-written is left, and what was finished is kept", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            raise
        from foster_cli.runtime import out_of_memory

        if out_of_memory(error):
            fail("foster: out of memory; use a smaller --width, --student-items or --items-per-step, fewer "
                 "--train-layers, or a machine with more", 2)  # fmt: skip
        fail(f"foster: internal fault ({type(error).__name__}: {error}); `foster --debug …` shows where", 1)


if __name__ == "__main__":
    main()
