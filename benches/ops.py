"""The hot path's ops, C++ against plain PyTorch, forward and backward: time as a ratio, extra memory, share of the
machine's own matrix-product rate.

    python benches/ops.py --rows 400 --items 512,4096,17332,45833 --out benches/results/ops.json

One process; the two are timed in turns, medians of `--repeats`. A ratio below 1 means that the C++ op is faster. As in
distillation, V is frozen; `inner` is an inner step's share (gradients to H and E), `outer` an outer step's (to Q too).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from foster_cli.ops import native, reference
from foster_cli.runtime import machine, peak_memory_mb, reset_peak

CPU = torch.device("cpu")


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def extra_mb(rows: int, items: int, width: int, name: str, which: int) -> float:
    """MiB above the inputs that one forward and backward takes, in a process of its own (Linux, glibc).

    The gradients themselves are part of it; to E alone they take items x width x 4 bytes.
    """
    command = [sys.executable, __file__, "--alone", name, "--which", str(which)]
    command += ["--rows", str(rows), "--items", str(items), "--width", str(width)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def alone(rows: int, items: int, width: int, name: str, which: int) -> None:
    """Print the resident peak of one run above what was resident before it. A small run first loads the code."""
    cases(rows, 64, width)[name][which]()
    run = cases(rows, items, width)[name][which]
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not be used again unseen
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    reset_peak()
    run()
    print(peak_memory_mb(CPU) - pages * os.sysconf("SC_PAGESIZE") / 2**20)


def cases(rows: int, items: int, width: int) -> dict[str, tuple[Callable[[], object], Callable[[], object], int]]:
    """Name -> (native, plain, multiply-adds of the products that plain PyTorch does)."""
    rng = torch.Generator().manual_seed(0)
    Q, H = (torch.randn(rows, width, generator=rng) / width**0.25 for _ in range(2))
    V, E = (torch.randn(items, width, generator=rng) / width**0.25 for _ in range(2))
    target = torch.randint(items, (rows,), generator=rng)
    G = torch.randn(rows, width, generator=rng)
    one = rows * items * width

    def trained(*tensors: Tensor) -> list[Tensor]:
        return [x.detach().clone().requires_grad_() for x in tensors]

    def embed(op: Callable[..., Tensor], outer: bool) -> Callable[[], object]:
        q, e = trained(Q, E)
        return lambda: torch.autograd.grad(op(q if outer else Q, V, e), [q, e] if outer else [e], G)

    def kl(op: Callable[..., Tensor], outer: bool) -> Callable[[], object]:
        q, h, e = trained(Q, H, E)
        return lambda: torch.autograd.grad(op(q if outer else Q, V, h, e).mean(), [q, h, e] if outer else [h, e])

    def native_embed(q: Tensor, v: Tensor, e: Tensor) -> Tensor:
        return torch.ops.foster.soft_embed(q, v, e)[0]

    def native_kl(q: Tensor, v: Tensor, h: Tensor, e: Tensor) -> Tensor:
        return torch.ops.foster.soft_kl(q, v, h, e)[0]

    def topk() -> object:
        scores = H @ E.T
        own = scores.gather(1, target[:, None])
        return scores.topk(min(20, items), dim=1), own

    return {
        "soft_embed inner": (embed(native_embed, False), embed(reference.soft_embed, False), 3 * one),
        "soft_embed outer": (embed(native_embed, True), embed(reference.soft_embed, True), 5 * one),
        "soft_kl inner": (kl(native_kl, False), kl(reference.soft_kl, False), 4 * one),
        "soft_kl outer": (kl(native_kl, True), kl(reference.soft_kl, True), 5 * one),
        "rank_counts": (lambda: torch.ops.foster.rank_counts(H, E, target), topk, one),
    }


def matmul_rate(rows: int, items: int, width: int) -> float:
    """Multiply-adds per second of torch's own product at this size."""
    a, b = torch.randn(rows, width), torch.randn(items, width)
    found = []
    for _ in range(5):
        began = time.perf_counter()
        a @ b.T
        found.append(time.perf_counter() - began)
    return rows * items * width / median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="400,4000")
    parser.add_argument("--items", default="512,4096,17332,45833")
    parser.add_argument("--width", default="384")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--which", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    reason = native.load()
    if reason is not None:
        raise SystemExit(f"no C++ ops to time: {reason}")
    if given.alone:
        alone(int(given.rows), int(given.items), int(given.width), given.alone, given.which)
        return
    out = []
    for rows in map(int, given.rows.split(",")):
        for items in map(int, given.items.split(",")):
            for width in map(int, given.width.split(",")):
                rate = matmul_rate(rows, items, width)
                for name, (own, plain, adds) in cases(rows, items, width).items():
                    own(), plain()
                    timed = [(seconds(own), seconds(plain)) for _ in range(given.repeats)]
                    a, b = (median(t[i] for t in timed) for i in (0, 1))
                    memory = [extra_mb(rows, items, width, name, i) for i in (0, 1)]
                    row = {
                        "op": name, "rows": rows, "items": items, "width": width,
                        "native_ms": a * 1e3, "plain_ms": b * 1e3, "ratio": median(t[0] / t[1] for t in timed),
                        "native_mb": memory[0], "plain_mb": memory[1],
                        "plain_share_of_matmul": adds / b / rate,
                    }  # fmt: skip
                    out.append(row)
                    print(
                        f"{name:17} rows {rows:5} items {items:6} width {width}: {a * 1e3:8.1f} ms against "
                        f"{b * 1e3:8.1f} ({row['ratio']:.2f}), {memory[0]:6.1f} MiB against {memory[1]:6.1f}",
                        flush=True,
                    )
    if given.out:
        given.out.write_text(json.dumps({"machine": machine(), "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
