"""`make cuda-check`: compile every kernel for every target, without a GPU; print what each takes; fail on spills.

    python csrc/cuda/check.py [--nvcc nvcc] [--architectures 80,86,89,90a,100] [--jobs 2]

Registers and spills are ptxas' own words. Shared memory is what a launch asks for (`tests/ops/emulate/sizes.cpp`);
where a device gives more, the chunks of X stay there too.
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
NAMES = re.compile(r"6streamI(NS0_4bf16E|f|d)N\S*?(KlRows|EmbedQ|EmbedE|Embed|KlE|Kl|Rank)I\S*?E?(Lb[01]E)?EELi(\d+)E")
TYPES = {"f": "float", "d": "double", "NS0_4bf16E": "bf16"}


def name_of(symbol: str) -> tuple[str, str, int]:
    """op, type and columns of a kernel's mangled name."""
    found = NAMES.search(symbol)
    assert found, symbol
    part = {"Lb1E": ".Q", "Lb0E": ".H", None: ""}[found[3]]
    return found[2] + part, TYPES[found[1]], int(found[4])


def compiled(nvcc: str, source: Path, architecture: str, folder: Path) -> list[tuple[str, str, int, str, int, int]]:
    """(op, type, columns, architecture, registers, spilled bytes) of each kernel in a file."""
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
    """Bytes of shared memory that each kernel's launch asks for."""
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
    given = parser.parse_args()
    if shutil.which(given.nvcc) is None:
        raise SystemExit(f"there is no {given.nvcc}: install the CUDA toolkit, or name it with --nvcc")
    architectures = given.architectures.split(",")
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(given.jobs) as pool:
        folder = Path(name)
        shared = pool.submit(shared_memory, folder)
        sources = sorted(HERE.glob("*.cu"), key=lambda p: -p.stat().st_size)
        jobs = [pool.submit(compiled, given.nvcc, s, a, folder) for s in sources for a in architectures]
        rows = [row for job in jobs for row in job.result()]
        sizes = shared.result()
    kernels = sorted({row[:3] for row in rows})
    assert set(kernels) == set(sizes), set(kernels) ^ set(sizes)
    head = "  ".join(f"sm_{a:>4}" for a in architectures)
    print(f"{'op':9} {'type':7} {'columns':>7}  {'shared':>7}  registers: {head}   (spilled bytes)")
    for kernel in kernels:
        mine = {row[3]: row for row in rows if row[:3] == kernel}
        cells = "  ".join(f"{mine[a][4]:7}" for a in architectures)
        spilled = sum(mine[a][5] for a in architectures)
        print(f"{kernel[0]:9} {kernel[1]:7} {kernel[2]:7}  {sizes[kernel]:7}             {cells}   {spilled or ''}")
    worst = [row for row in rows if row[5] > 0]
    print(f"{len(kernels)} kernels for {len(architectures)} targets, {len(worst)} with spills")
    sys.exit(bool(worst))


if __name__ == "__main__":
    main()
