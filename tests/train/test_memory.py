"""The estimate of memory: what autograd keeps, counted by hand; what is said beside what is free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from foster_cli.console import Console
from foster_cli.settings import TrainConfig
from foster_cli.train import memory
from foster_cli.train.memory import estimate, note_memory, per_row, saved_bytes

TRAIN = TrainConfig(batch=8, epochs=4, negatives=6)


def test_what_autograd_keeps_by_hand() -> None:
    """x w keeps both factors, relu its output, the square what it is of; a storage counts once, a parameter not."""
    w = torch.nn.Parameter(torch.randn(10))
    x = torch.randn(100, 10, requires_grad=True)

    def run() -> torch.Tensor:
        return torch.relu(x * w).square().sum()

    everything = saved_bytes(run, set())
    assert everything == 4 * (1000 + 10 + 1000)  # x, w, and relu's output, which is also what is squared
    assert saved_bytes(run, {w.untyped_storage().data_ptr()}) == 4 * (1000 + 1000)


def test_bytes_of_a_row() -> None:
    w = torch.nn.Parameter(torch.randn(5))
    assert per_row(lambda rows: (torch.ones(rows, 5) * w).exp().sum(), set(), 3, 8) == 4 * 5 * 2


def test_parts_grow_with_what_they_are_of(task: Any) -> None:
    first = estimate(task, TRAIN, 4, 4)
    learns = 4 * sum(p.numel() for p in task.fresh(0).parameters() if p.requires_grad)
    assert first.weights == learns * (8 + 5)  # five anchors of four epochs
    n, width = task.fresh(0).n, task.fresh(0).width
    assert first.catalogue == 4 * width * (3 * n + len(task.valid))
    assert estimate(task, replace(TRAIN, epochs=9), 4, 4).weights == learns * (8 + 10)
    twice = estimate(task, replace(TRAIN, batch=16), 4, 4).batch
    assert 1.5 * first.batch < twice < 2.1 * first.batch  # all but the items, which are no more than there are
    assert estimate(task, TRAIN, 4, 16).batch == twice  # students on as many sequences


@pytest.mark.parametrize(
    ("free", "words"), [(1 << 40, "1024.0 GiB are free"), (1, "so it may not fit; a smaller --wid")]
)
def test_what_is_said(
    task: Any, free: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    session = replace(task.session, console=Console())
    note_memory(replace(task, session=session), TRAIN, 4, 4)
    said = capsys.readouterr()
    assert words in said.err and said.err.count("memory: about") == 1 and not said.out


def test_what_is_free_is_what_the_system_says() -> None:
    lines = dict(line.split(":") for line in open("/proc/meminfo", encoding="utf-8"))  # noqa: SIM115, PTH123
    available = 1024 * int(lines["MemAvailable"].split()[0])
    assert memory.free_bytes(torch.device("cpu")) == pytest.approx(available, rel=0.25)
