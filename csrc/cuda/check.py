"""`make cuda-check`: compile every kernel for every target, print its registers, and fail on register spills.

    python csrc/cuda/check.py [--nvcc nvcc] [--architectures 80,86,89,90a,100] [--jobs 2]

No GPU is needed. Registers and spills are as ptxas reports them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent / "rows.cu"
NAMES = re.compile(r"\d+([a-z_]+)_kernelI(NS0_4bf16E|f|d)")
TYPES = {"f": "float", "d": "double", "NS0_4bf16E": "bf16"}


def compiled(nvcc: str, architecture: str, folder: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """{(kernel, type): (registers, spilled bytes)} for an architecture."""
    command = [nvcc, "-std=c++20", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", str(SOURCE)]
    done = subprocess.run([*command, "-o", str(folder / f"{architecture}.cubin")], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    found = {}
    for part in done.stderr.split("Compiling entry function")[1:]:
        name = NAMES.search(part.split("'")[1])
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert name and spills and registers, part
        found[name[1], TYPES[name[2]]] = int(registers[1]), int(spills[1]) + int(spills[2])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--architectures", default="80,86,89,90a,100")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if shutil.which(args.nvcc) is None:
        raise SystemExit(f"there is no {args.nvcc}: install the CUDA toolkit, or name it with --nvcc")
    architectures = args.architectures.split(",")
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda a: compiled(args.nvcc, a, Path(name)), architectures))
    print(
        f"{'kernel':24} {'type':7} registers: " + "  ".join(f"sm_{a:>4}" for a in architectures) + "   (spilled bytes)"
    )
    for kernel in sorted(found[0]):
        cells = "  ".join(f"{rows[kernel][0]:7}" for rows in found)
        spilled = sum(rows[kernel][1] for rows in found)
        print(f"{kernel[0]:24} {kernel[1]:7}            {cells}   {spilled or ''}")
    spilling = sum(spilled > 0 for rows in found for _, spilled in rows.values())
    print(f"{len(found[0])} kernels for {len(architectures)} targets, {spilling} with spills")
    sys.exit(bool(spilling))


if __name__ == "__main__":
    main()
