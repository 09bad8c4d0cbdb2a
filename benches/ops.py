"""The ops of the extension against plain PyTorch and torch.compile, forward and backward: the ratio of the times, the
additional memory, and the rate as a share of the rate of torch's own matrix product.

    python benches/ops.py --out benches/results/ops.json
    python benches/ops.py --device cuda --dtypes float32,bfloat16 --out benches/results/ops-cuda.json

The implementations are timed in turns in one process; results are medians of `--repeats`. A ratio below 1 means that
the extension is faster. As in distillation, V has no gradient; `inner` computes the gradients of an inner step (to H
and E), `outer` those of an outer step (to Q too). `rank_counts` is compared with matmul and topk, and with matmul and
two comparisons.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from foster_cli.ops import native, reference
from foster_cli.runtime import machine, peak_memory_mb, reset_peak

Run = Callable[[], object]


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Run, device: torch.device) -> float:
    """The wall time of one run."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def cases(
    rows: int, items: int, width: int, dtype: torch.dtype, device: torch.device, compiled: bool
) -> dict[str, tuple[dict[str, Run], int]]:
    """For each op: its runs by implementation, and the multiply-adds of the matrix products in plain PyTorch."""
    rng = torch.Generator().manual_seed(0)

    def random_rows(n: int) -> Tensor:
        return (torch.randn(n, width, generator=rng) / width**0.25).to(device, dtype)

    Q, H, G, V, E = (random_rows(n) for n in (rows, rows, rows, items, items))
    target = torch.randint(items, (rows,), generator=rng).to(device)
    product = rows * items * width

    def leaves(*tensors: Tensor) -> list[Tensor]:
        return [x.detach().clone().requires_grad_() for x in tensors]

    def embed(op: Callable[..., Tensor], outer: bool) -> Run:
        q, e = leaves(Q, E)
        return lambda: torch.autograd.grad(op(q if outer else Q, V, e), [q, e] if outer else [e], G)

    def kl(op: Callable[..., Tensor], outer: bool) -> Run:
        q, h, e = leaves(Q, H, E)
        return lambda: torch.autograd.grad(op(q if outer else Q, V, h, e).mean(), [q, h, e] if outer else [h, e])

    def ours_embed(q: Tensor, v: Tensor, e: Tensor) -> Tensor:
        return torch.ops.foster.soft_embed(q, v, e, True)[0]

    def ours_kl(q: Tensor, v: Tensor, h: Tensor, e: Tensor) -> Tensor:
        return torch.ops.foster.soft_kl(q, v, h, e, True)[0]

    def runs(make: Callable[..., Run], ours: Any, plain: Any, outer: bool) -> dict[str, Run]:
        by_name = {"ours": make(ours, outer), "plain": make(plain, outer)}
        if compiled:
            torch._dynamo.reset()
            by_name["compiled"] = make(torch.compile(plain, dynamic=False), outer)
        return by_name

    def topk() -> object:
        scores = H @ E.T
        return scores.gather(1, target[:, None]), scores.topk(min(20, items), dim=1)

    def compare() -> object:
        scores = H @ E.T
        score = scores.gather(1, target[:, None])
        return torch.count_nonzero(scores > score, dim=1), torch.count_nonzero(scores == score, dim=1)

    rank = {"ours": lambda: torch.ops.foster.rank_counts(H, E, target), "matmul+topk": topk, "matmul+compare": compare}
    return {
        "soft_embed inner": (runs(embed, ours_embed, reference.soft_embed, False), 3 * product),
        "soft_embed outer": (runs(embed, ours_embed, reference.soft_embed, True), 5 * product),
        "soft_kl inner": (runs(kl, ours_kl, reference.soft_kl, False), 4 * product),
        "soft_kl outer": (runs(kl, ours_kl, reference.soft_kl, True), 5 * product),
        "rank_counts": (rank, product),
    }


def matmul_rate(rows: int, items: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """The multiply-adds per second of torch's own matrix product at this size."""
    a, b = torch.randn(rows, width).to(device, dtype), torch.randn(items, width).to(device, dtype)
    a @ b.T
    return rows * items * width / median(seconds(lambda: a @ b.T, device) for _ in range(5))


def extra_mb(name: str, way: str, rows: int, items: int, width: int, dtype: str, device: torch.device) -> float:
    """The MiB that one forward and backward takes besides its inputs, measured in a new process (Linux, glibc).

    They include the gradients, of which the one to E takes items x width x 4 bytes.
    """
    command = [sys.executable, __file__, "--alone", name, "--way", way, "--device", device.type, "--dtypes", dtype]
    command += ["--rows", str(rows), "--items", str(items), "--widths", str(width)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def alone(name: str, way: str, rows: int, items: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Print the peak memory of a second run minus the memory before it; the first run loads or compiles the code."""
    small = items if way == "compiled" else min(items, 64)
    cases(rows, small, width, dtype, device, way == "compiled")[name][0][way]()
    run = cases(rows, items, width, dtype, device, way == "compiled")[name][0][way]
    if way == "compiled":
        run()
    gc.collect()
    if device.type == "cuda":
        wait(device)
        held = torch.cuda.memory_allocated() / 2**20
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the run reuses freed memory, which would not be counted
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * os.sysconf("SC_PAGESIZE") / 2**20
    reset_peak()
    run()
    wait(device)
    print(peak_memory_mb(device) - held)


def measure(args: argparse.Namespace, rows: int, items: int, width: int, dtype: str) -> list[dict[str, Any]]:
    """One row of results for each op at one size."""
    device, kind = torch.device(args.device), getattr(torch, dtype)
    rate = matmul_rate(rows, items, width, kind, device)
    compiled = items in numbers(args.compile) and rows <= args.compile_rows
    out = []
    for name, (ways, adds) in cases(rows, items, width, kind, device, compiled).items():
        for run in ways.values():
            run()
        timed = [{way: seconds(run, device) for way, run in ways.items()} for _ in range(args.repeats)]
        row: dict[str, Any] = {"op": name, "rows": rows, "items": items, "width": width, "dtype": dtype}
        for way in ways:
            row[f"{way} ms"] = median(t[way] for t in timed) * 1e3
            if not args.small:
                row[f"{way} MiB"] = extra_mb(name, way, rows, items, width, dtype, device)
            if way != "ours":
                row[f"ours / {way}"] = median(t["ours"] / t[way] for t in timed)
        row["ours share of matmul"] = adds / (row["ours ms"] / 1e3) / rate
        out.append(row)
        others = ", ".join(f"{row[f'ours / {w}']:.2f} of {w}" for w in ways if w != "ours")
        print(f"{name:17} {dtype} {rows:5} x {items:6} x {width}: {row['ours ms']:9.2f} ms, {others}", flush=True)
    return out


def numbers(text: str) -> list[int]:
    """`1,2` -> [1, 2]."""
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="400,4000")
    parser.add_argument("--items", default="512,4096,17332,45833")
    parser.add_argument("--widths", default="312,384")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", default="512,4096,17332,45833", help="the numbers of items at which torch.compile is run"
    )
    parser.add_argument("--compile-rows", type=int, default=400, help="the most rows at which torch.compile is run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="one small size, without memory, for compute-sanitizer")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    reason = native.load() or native.missing_for(device)
    if reason is not None:
        raise SystemExit(f"no compiled ops to time: {reason}")
    if args.small:
        args.rows, args.items, args.widths, args.compile, args.repeats = "70", "300", "65,384", "", 1
        args.dtypes = "float32,bfloat16,float64"
    if args.alone:
        sizes = (int(args.rows), int(args.items), int(args.widths))
        alone(args.alone, args.way, *sizes, getattr(torch, args.dtypes), device)
        return
    out = []
    for dtype in args.dtypes.split(","):
        for rows in numbers(args.rows):
            for items in numbers(args.items):
                for width in numbers(args.widths):
                    out += measure(args, rows, items, width, dtype)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "repeats": args.repeats, "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
