"""`make cuda-check`: compile every kernel for every target, print its resources, and fail on register spills.

    python csrc/cuda/check.py [--nvcc nvcc] [--architectures 80,86,89,90a,100] [--jobs 2]

No GPU is needed. Registers and spills are as ptxas reports them. Shared memory is the least that a launch asks for
(`tests/ops/emulate/sizes.cpp`); a launch asks for more if the device has enough for X to stay there.
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

HERE = Path(__file__).parent
EMULATE = HERE.parents[1] / "tests" / "ops" / "emulate"
OPS = "EmbedForward|EmbedBackwardQ|EmbedBackwardE|KlForward|KlBackwardRows|KlBackwardE|Rank"
NAMES = re.compile(rf"13stream_kernelI(NS0_4bf16E|f|d)N\S*?({OPS})I\S*?E?(Lb[01]E)?EELi(\d+)E")
TYPES = {"f": "float", "d": "double", "NS0_4bf16E": "bf16"}


def name_of(symbol: str) -> tuple[str, str, int]:
    """(op, type, columns) from the mangled name of a kernel."""
    match = NAMES.search(symbol)
    assert match, symbol
    input_name = {"Lb1E": ".Q", "Lb0E": ".H", None: ""}[match[3]]
    return match[2] + input_name, TYPES[match[1]], int(match[4])


def compiled(nvcc: str, source: Path, architecture: str, folder: Path) -> list[tuple[str, str, int, str, int, int]]:
    """(op, type, columns, architecture, registers, spilled bytes) of each kernel in `source`."""
    out = folder / f"{source.stem}-{architecture}.cubin"
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", str(source)]
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    rows = []
    for part in done.stderr.split("Compiling entry function")[1:]:
        op, kind, columns = name_of(part.split("'")[1])
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert spills and registers, part
        rows.append((op, kind, columns, architecture, int(registers[1]), int(spills[1]) + int(spills[2])))
    return rows


def shared_memory(folder: Path) -> dict[tuple[str, str, int], int]:
    """The bytes of shared memory that a launch of each kernel asks for."""
    compiler = os.environ.get("CXX", "c++").split()
    program = str(folder / "sizes")
    flags = ["-std=c++20", "-O1", "-w", "-DFOSTER_EMULATE", f"-I{EMULATE}", f"-I{HERE}"]
    sources = [EMULATE / "sizes.cpp", EMULATE / "emulate.cpp", HERE / "plan.cpp"]
    subprocess.run([*compiler, *flags, *map(str, sources), "-o", program], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")
    rows = [line.split() for line in lines if line]
    return {(op, kind, int(columns)): int(size) for op, kind, columns, size, _ in rows}


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
        folder = Path(name)
        shared = pool.submit(shared_memory, folder)
        sources = sorted(HERE.glob("*.cu"), key=lambda p: -p.stat().st_size)
        jobs = [pool.submit(compiled, args.nvcc, s, a, folder) for s in sources for a in architectures]
        rows = [row for job in jobs for row in job.result()]
        sizes = shared.result()
    kernels = sorted({row[:3] for row in rows})
    assert set(kernels) == set(sizes), set(kernels) ^ set(sizes)
    header = "  ".join(f"sm_{a:>4}" for a in architectures)
    print(f"{'op':16} {'type':7} {'columns':>7}  {'shared':>7}  registers: {header}   (spilled bytes)")
    for kernel in kernels:
        by_arch = {row[3]: row for row in rows if row[:3] == kernel}
        cells = "  ".join(f"{by_arch[a][4]:7}" for a in architectures)
        spilled = sum(by_arch[a][5] for a in architectures)
        print(f"{kernel[0]:16} {kernel[1]:7} {kernel[2]:7}  {sizes[kernel]:7}             {cells}   {spilled or ''}")
    spilling = [row for row in rows if row[5] > 0]
    print(f"{len(kernels)} kernels for {len(architectures)} targets, {len(spilling)} with spills")
    sys.exit(bool(spilling))


if __name__ == "__main__":
    main()
