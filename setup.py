"""Packaging is described in pyproject.toml; this file adds the extension, where it can be built.

Without torch or a C++ compiler the package installs all the same, and says what it lost. `FOSTER_EXT=0` leaves the
extension out. `foster build-ext` builds it later, from the sources that are installed with the package.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))

from foster_cli.errors import FosterError
from foster_cli.extension import cuda_left_out, setup_arguments


class BuildPy(build_py):
    """Takes the C++ sources along."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("csrc", Path(self.build_lib, "foster_cli", "csrc"), dirs_exist_ok=True)


def arguments() -> dict[str, Any]:
    """The extension, or a line that says why there is none."""
    commands: dict[str, Any] = {"build_py": BuildPy}
    if os.environ.get("FOSTER_EXT") == "0":
        return {"cmdclass": commands}
    try:
        found = setup_arguments()
    except FosterError as error:
        say(f"installing without its C++ ops, plain PyTorch will do their work: {error.message}: {error.hint}")
        return {"cmdclass": commands}
    if (reason := cuda_left_out()) is not None:
        say(f"its C++ ops are built for the CPU alone: {reason}")
    for module in found["ext_modules"]:
        module.optional = True  # a failed build loses the extension, not the package
    return {**found, "cmdclass": {**found["cmdclass"], **commands}}


def say(text: str) -> None:
    """To whoever installs."""
    sys.stderr.write(f"foster: {text}\n")


setup(**arguments())
