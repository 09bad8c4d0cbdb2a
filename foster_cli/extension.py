"""The build of the C++ and CUDA ops, shared by setup.py and `foster build-ext`.

In: the sources in `csrc/` (beside the package in a checkout, inside it in an installation), the installed torch and
compilers. Out: `foster_cli._C`, and `_C.json`, which says what it was built against. Imports nothing heavy.

Environment: FOSTER_EXT=0 installs foster without the extension. CXX, CUDA_HOME and TORCH_CUDA_ARCH_LIST work as in
torch. FORCE_CUDA=1 builds the CUDA kernels without a visible GPU, for every target in `ARCHITECTURES`.
FOSTER_SANITIZE=1 is for `make sanitize`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from foster_cli.errors import FosterError

PACKAGE = Path(__file__).parent
#: The compute capabilities to compile for, each with the first version of CUDA that supports it.
ARCHITECTURES = {80: (11, 0), 86: (11, 1), 89: (11, 8), 90: (11, 8), 100: (12, 8)}


def source_folder() -> Path:
    """The folder `csrc/`. Raises FosterError if this installation has none."""
    for folder in (PACKAGE.parent / "csrc", PACKAGE / "csrc"):
        if (folder / "ops.cpp").is_file():
            return folder
    raise FosterError("this installation holds no C++ sources", "install foster again, from its wheel or a checkout")


def _nvcc(home: str) -> tuple[int, int] | None:
    """The version of nvcc in the CUDA folder `home`; None if it cannot be found."""
    try:
        found = subprocess.run([str(Path(home, "bin", "nvcc")), "--version"], capture_output=True, text=True)
    except OSError:
        return None
    version = re.search(r"release (\d+)\.(\d+)", found.stdout)
    return (int(version[1]), int(version[2])) if version else None


def cuda_left_out() -> str | None:
    """The reason why the CUDA kernels are not built here; None if they are."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a CPU build"
    if not torch.cuda.is_available() and os.environ.get("FORCE_CUDA") != "1":
        return "there is no GPU here (FORCE_CUDA=1 builds for one elsewhere)"
    version = None if CUDA_HOME is None else _nvcc(CUDA_HOME)
    if version is None:
        return "there is no nvcc (install the CUDA toolkit, or set CUDA_HOME)"
    if version[0] != int(torch.version.cuda.split(".")[0]):
        return f"nvcc is of CUDA {version[0]}.{version[1]}, torch was built for {torch.version.cuda}"
    return None


def _targets() -> list[str]:
    """nvcc's flags for all architectures it supports; [] if torch chooses (a visible GPU, or TORCH_CUDA_ARCH_LIST)."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    version = (_nvcc(CUDA_HOME) if CUDA_HOME else None) or (0, 0)
    known = [arch for arch, since in ARCHITECTURES.items() if version >= since]
    return [f"-gencode=arch=compute_{a},code=sm_{a}" for a in known] + [
        f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"
    ]


def setup_arguments() -> dict[str, Any]:
    """`ext_modules` and `cmdclass` for setuptools. Raises FosterError with the reason if nothing can be built."""
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        raise FosterError(
            f"torch is not there at build time ({error})", "install torch, then foster with --no-build-isolation"
        ) from error
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        raise FosterError(f"there is no C++ compiler ({compiler})", "install one, or set CXX")
    folder = source_folder()
    left_out = cuda_left_out()
    sources = [*sorted(folder.glob("*.cpp")), *sorted(folder.glob("cpu/*.cpp"))]
    flags = {"cxx": ["-O3", "-std=c++20", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]}
    link: list[str] = []
    if os.environ.get("FOSTER_SANITIZE") == "1":
        link = ["-fsanitize=address,undefined"]
        checks = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DFOSTER_NO_CLONES"]
        flags["cxx"] += [*link, *checks]
    if left_out is None:
        sources += [*sorted(folder.glob("cuda/*.cu")), *sorted(folder.glob("cuda/*.cpp"))]
        flags["nvcc"] = ["-O3", "-std=c++20", *_targets()]
    kind = CppExtension if left_out is not None else CUDAExtension
    base = Path.cwd()
    names = [str(p.relative_to(base)) if p.is_relative_to(base) else str(p) for p in sources]
    module = kind("foster_cli._C", names, extra_compile_args=flags, extra_link_args=link)
    module.depends = [str(p) for ending in ("h", "cuh") for p in sorted(folder.rglob(f"*.{ending}"))]

    class Build(BuildExtension):
        """Also writes `_C.json`: what the extension was built against, because another torch must not load it."""

        def run(self) -> None:
            super().run()
            out = PACKAGE if self.inplace else Path(self.build_lib, "foster_cli")
            cuda = None if left_out is not None else torch.version.cuda
            record = {"torch": torch.__version__, "compiler": compiler, "cuda": cuda, "without_cuda": left_out}
            if list(out.glob("_C.*")):
                (out / "_C.json").write_text(json.dumps(record) + "\n")

    return {"ext_modules": [module], "cmdclass": {"build_ext": Build}}


def build() -> dict[str, Any]:
    """Build the extension against the installed torch and put it into the package; return its record.

    Raises FosterError if it cannot be built (with the compiler's first error) or written. The old extension is removed
    only when the new one is complete.
    """
    setup_arguments()  # reports what is missing before anything slow begins
    if not os.access(PACKAGE, os.W_OK):
        raise FosterError(f"{PACKAGE}: cannot write", "use an environment of your own (python -m venv)")
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "from setuptools import setup\nfrom foster_cli.extension import setup_arguments\n"
            f"setup(name='foster-ops', packages=[], script_args=['build_ext', '--build-lib', {folder!r}, "
            f"'--build-temp', {folder + '/objects'!r}], **setup_arguments())\n"
        )
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        made = sorted(Path(folder, "foster_cli").glob("_C.*"))
        if done.returncode != 0 or len(made) != 2:
            lines = (done.stdout + done.stderr).splitlines()
            wrong = next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), "no word from it")
            raise FosterError(f"the compiler failed: {wrong.strip()[:300]}", "mend that, or use FOSTER_OPS=reference")
        for old in PACKAGE.glob("_C.*"):  # remove the record first: without it nothing is loaded
            if old.suffix == ".json":
                old.unlink()
        for new in sorted(made, key=lambda p: p.suffix == ".json"):
            beside = PACKAGE / f".{new.name}.new"
            shutil.copy2(new, beside)
            beside.replace(PACKAGE / new.name)
        return json.loads((PACKAGE / "_C.json").read_text(encoding="utf-8"))
