"""Bundles that are made of known probabilities, and what a format writes of one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foster_cli.export import get_format
from foster_cli.export.job import Job

HOSTILE = [
    'He said "hi, there',
    "two\nlines\r\nand\u2028three\x85four",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "\u202eevil\u2066 \u200f=1",
    "</script><script>alert(1)</script>",
    "[red]not markup[/red]",
    "Crème Brûlée – Łódź 雪 🏕️",
    "'=quoted",
    "\x00nul \x9b31mred",
    "",
    "plain, with comma",
]


@dataclass
class FakeBundle:
    """What the formats read of a `Bundle`: `p` (M, L, n), and goals `g` of the same shape where it has some."""

    item_ids: list[str]
    titles: list[str]
    p: torch.Tensor
    g: torch.Tensor | None = None
    windows: None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def own_goals(self) -> bool:
        return self.g is not None

    def goals(self, rows: slice) -> torch.Tensor:
        assert self.g is not None
        return self.g[rows]

    def probabilities(self, rows: slice) -> torch.Tensor:
        return self.p[rows]


def of_probabilities(p: np.ndarray, g: np.ndarray | None = None) -> FakeBundle:
    """A bundle of these probabilities (M, L, n), and goals; items i0, i1, … with the titles t0, t1, …"""
    names = range(p.shape[2])
    goals = None if g is None else torch.from_numpy(g)
    return FakeBundle([f"i{k}" for k in names], [f"t{k}" for k in names], torch.from_numpy(p), goals)


def fake(users: int = 3, length: int = 6, titles: Sequence[str] = HOSTILE, seed: int = 0) -> FakeBundle:
    """A bundle of items with these titles; one of them is everybody's favourite, so that greedy choice meets it
    again."""
    n = len(titles)
    logits = torch.randn(users, length, n, generator=torch.Generator().manual_seed(seed)) * 2
    logits[..., n // 2] += 3.0
    return FakeBundle([f"id{i}" for i in range(n)], list(titles), torch.softmax(logits, -1))


def exported(bundle: FakeBundle, name: str, top: int) -> bytes:
    """What the format writes of the bundle, of one that is a file."""
    file = io.BytesIO()
    get_format(name).write(Job(bundle, top=top), file)  # type: ignore[arg-type]
    return file.getvalue()


def greedy(p: np.ndarray) -> list[int]:
    """The hard sequence of p (L, n) by brute force: mask what was used, take the argmax."""
    p, out = p.copy(), []
    for row in range(len(p)):
        out.append(int(p[row].argmax()))
        p[:, out[-1]] = -1.0
    return out
