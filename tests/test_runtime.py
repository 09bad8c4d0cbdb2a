"""Seeds, devices, peak memory."""

from __future__ import annotations

import hashlib
import mmap
from typing import Any

import numpy as np
import pytest
from scipy import stats

from foster_cli import runtime
from foster_cli.errors import FosterError
from foster_cli.runtime import generator, pick_device, stream_seed


def test_streams_are_independent_and_stable() -> None:
    names: list[tuple[object, ...]] = [(), ("fit",), ("student",), ("check", 0), ("check", 1), ("reset", 100)]
    seeds = {(s, n): stream_seed(s, *n) for s in range(50) for n in names}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= v < 2**63 for v in seeds.values())
    # a seed in a bundle must mean the same on every machine and in every release
    digest = hashlib.sha256(b"7:check:1").digest()
    assert stream_seed(7, "check", 1) == int.from_bytes(digest[:8], "little") // 2
    low = [stream_seed(s, "fit") % 16 for s in range(1600)]
    assert stats.chisquare(np.bincount(low, minlength=16)).pvalue > 1e-4


def test_generators_of_two_streams_do_not_correlate() -> None:
    import torch

    def draw(seed: int, name: str) -> Any:
        return torch.randn(4000, generator=generator(seed, name)).numpy()

    assert np.array_equal(draw(0, "a"), draw(0, "a"))
    for other in (draw(0, "b"), draw(1, "a")):
        assert abs(np.corrcoef(draw(0, "a"), other)[0, 1]) < 0.08  # 5 standard errors


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:cpu", "meta", "CUDA", "cpu; rm"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(FosterError, match="--device"):
        pick_device(name)


@pytest.mark.parametrize(("name", "there"), [("cuda", False), ("cuda:0", False), ("cuda:2", True), ("mps", False)])
def test_a_device_that_is_not_there_is_refused(name: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(FosterError, match=f"--device {name}.*(cpu|cuda:0)"):
        pick_device(name)


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto") == torch.device(expected)
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_peak_memory_counts_from_the_reset() -> None:
    """Pages are mapped anew: an array could fill memory that other tests freed and that the process still holds."""
    import torch

    cpu = torch.device("cpu")
    runtime.reset_peak()
    before = runtime.peak_memory_mb(cpu)
    with mmap.mmap(-1, 64 << 20) as pages:
        np.frombuffer(pages, np.uint8)[:] = 1  # an array that is gone when the pages are unmapped
        assert runtime.peak_memory_mb(cpu) >= before + 60
