"""Packaging is described in pyproject.toml; this file adds the extension, where it can be built.

Without torch or a C++ compiler the package installs all the same, and says what it lost. `FOSTER_EXT=0` leaves the
extension out.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import setup


def extension() -> dict[str, Any]:
    """`ext_modules` and `cmdclass` for `setup`, or nothing and a line that says why."""
    if os.environ.get("FOSTER_EXT") == "0":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return without("torch is not there at build time (pip install --no-build-isolation, after torch)")
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return without(f"there is no C++ compiler ({compiler})")
    sources = [str(p) for p in (Path("csrc/ops.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp")))]
    flags = ["-O3", "-std=c++20", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
    link: list[str] = []
    if os.environ.get("FOSTER_SANITIZE") == "1":  # make sanitize
        link = ["-fsanitize=address,undefined"]
        checks = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DFOSTER_NO_CLONES"]
        flags = [*flags, *link, *checks]
    module = CppExtension("foster_cli._C", sources, extra_compile_args={"cxx": flags}, extra_link_args=link)
    module.depends = [str(p) for p in sorted(Path("csrc").rglob("*.h"))]
    module.optional = True  # a failed build loses the extension, not the package

    class Build(BuildExtension):
        """Writes beside the extension what it was built against: another torch must not load it."""

        def run(self) -> None:
            super().run()
            folder = Path("foster_cli") if self.inplace else Path(self.build_lib, "foster_cli")
            record = {"torch": torch.__version__, "compiler": compiler}
            if list(folder.glob("_C.*")):
                (folder / "_C.json").write_text(json.dumps(record) + "\n")

    return {"ext_modules": [module], "cmdclass": {"build_ext": Build}}


def without(reason: str) -> dict[str, Any]:
    """Say that the plain PyTorch ops will be used, and why."""
    sys.stderr.write(f"foster: installing without its C++ ops, plain PyTorch will do their work: {reason}\n")
    return {}


setup(**extension())
