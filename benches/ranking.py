"""The memory that `rank_counts` takes besides the embeddings when it ranks a million items.

    python benches/ranking.py --items 1000000 --cases 2000 --width 384 --out benches/results/ranking.json

Prints the peak resident memory during ranking minus the resident memory before it, which includes the embeddings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil
import torch
from record import record

from foster_cli.ops import rank_counts
from foster_cli.runtime import generator, peak_memory_mb, reset_peak


def main() -> None:
    """Measure once and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    rng = generator(0, "ranking")
    E = torch.randn(a.items, a.width, generator=rng)
    H = torch.randn(a.cases, a.width, generator=rng)
    target = torch.randint(a.items, (a.cases,), generator=rng)
    base = psutil.Process().memory_info().rss / 2**20
    reset_peak()
    began = time.perf_counter()
    rank_counts(H, E, target)
    seconds = time.perf_counter() - began
    row = {"items": a.items, "cases": a.cases, "width": a.width, "seconds": seconds}
    row |= {"extra_mb": peak_memory_mb(torch.device("cpu")) - base, "embeddings_mb": E.numel() * 4 / 2**20}
    record([row], a.out)


if __name__ == "__main__":
    main()
