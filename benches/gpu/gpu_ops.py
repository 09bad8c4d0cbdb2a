"""The ops on a GPU, in one process: are they right, may a CUDA graph hold them, what do they take beside plain PyTorch.

    python gpu_ops.py small                          each op once on small odd shapes: for compute-sanitizer and ncu
    python gpu_ops.py check --out checks.json        streams, graphs, alignment, determinism, accuracy
    python gpu_ops.py time --out ops.json [--budget 90]

`time`: for each op the device's time alone (a CUDA graph of one forward and backward, replayed) and the time a user
waits (launched from Python), and the peak of memory; ours, plain, and at some sizes torch.compile of plain. The most
telling sizes come first; it stops after `--budget` seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from foster_cli.ops import native, reference

Run = Callable[[], Any]
TYPES = {"fp32": (torch.float32, "highest"), "tf32": (torch.float32, "high"), "bf16": (torch.bfloat16, "highest")}
#: rows, items, width, arithmetic: the steps' own size, the catalogue's, evaluation's, the paper's width.
SIZES = [
    (400, 512, 384, "fp32"), (400, 512, 384, "bf16"), (800, 2048, 384, "fp32"), (400, 17332, 384, "fp32"),
    (400, 17332, 384, "tf32"), (400, 17332, 384, "bf16"), (4000, 45833, 384, "fp32"), (4000, 45833, 384, "bf16"),
    (4000, 45833, 384, "tf32"), (4000, 4096, 384, "fp32"), (4000, 4096, 384, "bf16"), (400, 45833, 312, "fp32"),
    (400, 45833, 312, "bf16"), (400, 4096, 384, "fp32"), (4000, 17332, 312, "bf16"), (4000, 512, 384, "bf16"),
]  # fmt: skip
COMPILED = {(400, 512, 384, "fp32"), (400, 17332, 384, "bf16"), (4000, 45833, 384, "bf16")}


def matrices(rows: int, items: int, width: int, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """Q, V, H, E, G: scores of deviation 1."""
    rng = torch.Generator().manual_seed(seed)
    sizes = (rows, items, rows, items, rows)
    return [(torch.randn(n, width, generator=rng) / width**0.25).to(device, dtype) for n in sizes]


def runs(op: str, way: str, made: list[Tensor]) -> Run:
    """One forward and backward, as an inner (gradients to E, H) or outer step (to Q too) asks for them."""
    Q, V, H, E, G = made
    name, _, outer = op.partition(" ")
    target = torch.arange(len(H), device=H.device) % len(E)
    if name == "softmax_ce":
        h, e = (x.detach().clone().requires_grad_() for x in (H, E))
        if way == "ours":
            return lambda: torch.autograd.grad(torch.ops.foster.softmax_ce(h, e, target, None, True)[0], (h, e))
        loss = torch.compile(cross_entropy, dynamic=False) if way == "compiled" else cross_entropy
        return lambda: torch.autograd.grad(loss(h, e, target), (h, e))
    if name == "rank_counts":
        if way == "ours":
            return lambda: torch.ops.foster.rank_counts(H, E, target)

        def compare() -> object:
            scores = H @ E.T
            own = scores.gather(1, target[:, None])
            return torch.count_nonzero(scores > own, dim=1), torch.count_nonzero(scores == own, dim=1)

        return compare
    q, h, e = (x.detach().clone().requires_grad_() for x in (Q, H, E))
    if outer == "inner":
        q = Q
    ours: dict[str, Callable[..., Tensor]] = {
        "soft_embed": lambda a, b, c: torch.ops.foster.soft_embed(a, b, c, True)[0],
        "soft_kl": lambda a, b, c, d: torch.ops.foster.soft_kl(a, b, c, d, True)[0],
    }
    plain: Callable[..., Tensor] = getattr(reference, name)
    call = ours[name] if way == "ours" else torch.compile(plain, dynamic=False) if way == "compiled" else plain
    if name == "soft_embed":
        over = [e] if outer == "inner" else [q, e]
        return lambda: torch.autograd.grad(call(q, V, e), over, G)
    over = [h, e] if outer == "inner" else [q, h, e]
    return lambda: torch.autograd.grad(call(q, V, h, e).float().mean(), over)


def cross_entropy(H: Tensor, E: Tensor, target: Tensor) -> Tensor:
    """What `softmax_ce` stands for."""
    return torch.nn.functional.cross_entropy(H @ E.T, target)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def waited(run: Run, device: str, repeats: int) -> float:
    """Milliseconds of one run, launched from Python and waited for."""
    times = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def captured(run: Run) -> torch.cuda.CUDAGraph:
    """A graph of one run."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graph.found = run()  # type: ignore[attr-defined]
    return graph


def replayed(run: Run) -> float:
    """Milliseconds of the device for one run."""
    graph = captured(run)
    graph.replay()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    count = int(min(50, max(3, 20 / max(begin.elapsed_time(end), 1e-3))))
    times = []
    for _ in range(5):
        begin.record()
        for _ in range(count):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / count)
    return median(times)


def one_size(size: tuple[int, int, int, str], device: str) -> list[dict[str, Any]]:
    """A row for each op and way."""
    rows, items, width, kind = size
    dtype, precision = TYPES[kind]
    torch.set_float32_matmul_precision(precision)
    made = matrices(rows, items, width, dtype, device)
    out = []
    for op in ("soft_embed inner", "soft_embed outer", "soft_kl inner", "soft_kl outer", "softmax_ce", "rank_counts"):
        if op == "rank_counts" and kind == "tf32":
            continue
        found: dict[str, dict[str, Any]] = {}
        for way in ("ours", "plain", *(["compiled"] if size in COMPILED and op != "rank_counts" else [])):
            row: dict[str, Any] = {"op": op, "way": way, "rows": rows, "items": items, "width": width, "type": kind}
            try:
                run = runs(op, way, made)
                run()
                wait(device)
                if device == "cuda":
                    held = torch.cuda.memory_allocated()
                    torch.cuda.reset_peak_memory_stats()
                    run()
                    wait(device)
                    row["MiB"] = (torch.cuda.max_memory_allocated() - held) / 2**20
                row["waited ms"] = waited(run, device, 11)
                if device == "cuda":
                    row["device ms"] = replayed(run)
            except Exception as error:  # noqa: BLE001 - one way that fails is a row that says so
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            found[way] = row
            out.append(row)
        a, b = found["ours"], found["plain"]
        key = "device ms" if "device ms" in a and "device ms" in b else "waited ms"
        if key in a and key in b:
            a["ours / plain"] = a[key] / b[key]
            c = found.get("compiled", {}).get(key)
            print(
                f"{kind} {rows:5} x {items:6} x {width} {op:17} {key} ours {a[key]:9.3f} plain {b[key]:9.3f} ratio "
                f"{a['ours / plain']:.2f}; waited {a['waited ms']:.3f} / {b['waited ms']:.3f}; "
                f"MiB {a.get('MiB', 0):.0f} / {b.get('MiB', 0):.0f}" + (f"; compiled {c:.3f}" if c else ""),
                flush=True,
            )
        else:
            print(f"{kind} {rows} x {items} x {width} {op}: {a.get('error')} | {b.get('error')}", flush=True)
    torch.set_float32_matmul_precision("highest")
    return out


def ceilings(device: str) -> dict[str, float]:
    """What this card does: TFLOP/s of its own products, TB/s of a copy (read and written)."""
    out = {}
    for kind, n in (("bf16", 8192), ("tf32", 8192), ("fp32", 4096)) if device == "cuda" else (("fp32", 256),):
        dtype, precision = TYPES[kind]
        torch.set_float32_matmul_precision(precision)
        a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
        a @ b
        out[f"{kind} TFLOP/s"] = 2 * n**3 / waited(lambda a=a, b=b: a @ b, device, 7) / 1e9
    torch.set_float32_matmul_precision("highest")
    x = torch.empty(1 << 28 if device == "cuda" else 1 << 20, device=device)
    y = torch.empty_like(x)
    out["copy TB/s"] = 2 * x.nbytes / waited(lambda: y.copy_(x), device, 7) / 1e9
    return out


def small(device: str) -> None:
    """Every op once, forward and backward, on shapes with odd ends, whole and cut streams, aligned or not."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for rows, items, width in ((70, 300, 65), (70, 300, 384), (1, 1, 1), (130, 70, 136)):
            made = matrices(rows, items, width, dtype, device)
            for op in ("soft_embed outer", "soft_kl outer", "softmax_ce", "rank_counts"):
                runs(op, "ours", made)()
            H, E = made[2], made[3]
            size = torch.full((rows,), min(5, items), device=device)
            offsets = torch.cat([size.new_zeros(1), size.cumsum(0)])
            seen = torch.arange(int(size.sum()), device=device) % items
            torch.ops.foster.rank_counts(H, E, torch.zeros(rows, dtype=torch.int64, device=device), seen, offsets)
    wait(device)
    print("small: done")


def check(device: str) -> dict[str, Any]:
    """What a CPU cannot show. Every entry is True, or a number that is said with its bound."""
    out: dict[str, Any] = {}
    ops = ("soft_embed outer", "soft_kl outer", "softmax_ce")

    def flat(found: Any) -> list[Tensor]:
        return [found] if isinstance(found, Tensor) else list(found)

    def equal(a: Any, b: Any) -> bool:
        return all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))

    for kind, (dtype, _) in TYPES.items():
        if kind == "tf32":
            continue
        made = matrices(400, 3000, 384, dtype, device)
        for op in ops:
            run = runs(op, "ours", made)
            before = [x.clone() for x in flat(run())]
            out[f"{kind} {op}: same bits in 20 runs"] = all(equal(before, run()) for _ in range(20))
            if device != "cuda":
                continue
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                other = [x.clone() for x in flat(run())]
            torch.cuda.synchronize()
            out[f"{kind} {op}: same bits on another stream"] = equal(before, other)
            streams = [torch.cuda.Stream() for _ in range(4)]
            torch.cuda.synchronize()
            many = []
            for s in streams * 5:
                with torch.cuda.stream(s):
                    many.append([x.clone() for x in flat(run())])
            torch.cuda.synchronize()
            out[f"{kind} {op}: same bits on four streams at once"] = all(equal(before, m) for m in many)
            graph = captured(run)
            good = True
            for _ in range(5):
                graph.replay()
                torch.cuda.synchronize()
                good = good and equal(before, graph.found)  # type: ignore[attr-defined]
            out[f"{kind} {op}: same bits from a graph"] = good
        shifted = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in made]  # not aligned to 16 bytes
        for op in ops:
            apart = max(
                float((a - b).abs().max())
                for a, b in zip(flat(runs(op, "ours", made)()), flat(runs(op, "ours", shifted)()), strict=True)
            )
            out[f"{kind} {op}: shifted inputs, apart by"] = apart
        del made, shifted
    # accuracy, in units of plain PyTorch's own error against float64
    for kind, (dtype, precision) in TYPES.items():
        made = matrices(500, 5000, 384, dtype, device, seed=3)
        exact = [x.double() for x in made]
        for op in ops:
            torch.set_float32_matmul_precision(precision)
            mine, plain = flat(runs(op, "ours", made)()), flat(runs(op, "plain", made)())
            torch.set_float32_matmul_precision("highest")
            true = flat(runs(op, "plain", exact)())
            for i, (a, b, t) in enumerate(zip(mine, plain, true, strict=True)):
                scale = t.abs().max().clamp_min(1e-30)
                out[f"{kind} {op} [{i}] error (ours, plain)"] = [
                    float((x.double() - t).abs().max() / scale) for x in (a, b)
                ]
        del made, exact
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("small", "check", "time"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out")
    parser.add_argument("--budget", type=float, default=90.0)
    given = parser.parse_args()
    reason = native.load() or native.missing_for(torch.device(given.device))
    if reason is not None:
        raise SystemExit(f"no compiled ops: {reason}")
    if given.what == "small":
        return small(given.device)
    found: Any
    if given.what == "check":
        found = check(given.device)
        bad = [k for k, v in found.items() if v is False]
        print(f"check: {len(found)} entries, {len(bad)} bad: {bad}")
    else:
        began, found = time.perf_counter(), {"ceilings": ceilings(given.device), "rows": []}
        print(found["ceilings"], flush=True)
        for size in SIZES if given.device == "cuda" else [(40, 512, 64, "fp32")]:
            if time.perf_counter() - began > given.budget:
                print(f"time is up before {size}")
                break
            found["rows"] += one_size(size, given.device)
    if given.out:
        Path(given.out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
