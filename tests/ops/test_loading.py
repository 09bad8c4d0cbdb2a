"""When the C++ extension is used: `FOSTER_OPS`, builds for another torch, and types and devices without code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from truth import inputs

from foster_cli import ops
from foster_cli.errors import FosterError
from foster_cli.ops import native, reference

CPU, GPU = torch.device("cpu"), torch.device("cuda")
built = pytest.mark.skipif(native.built_against() is None, reason="the extension was left out of this installation")


def test_what_was_built_loads() -> None:
    if native.built_against() is not None:
        assert native.load() is None


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOSTER_OPS", "reference")
    assert ops.fallback(CPU) is None and not native.enabled()
    monkeypatch.setenv("FOSTER_OPS", "fast")
    with pytest.raises(FosterError, match="FOSTER_OPS=fast"):
        ops.fallback(CPU)


def test_an_extension_for_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    native.load.cache_clear()
    try:
        assert "not built" in str(native.load())
        native.load.cache_clear()
        (tmp_path / "_C.json").write_text(json.dumps({"torch": "1.2.3"}))
        assert "1.2.3" in str(native.load())
        monkeypatch.setenv("FOSTER_OPS", "auto")
        assert "1.2.3" in str(ops.fallback(CPU))
        Q, V, H, E = inputs(3, 5, 2, torch.float32)  # plain PyTorch computes it
        torch.testing.assert_close(ops.soft_kl(Q, V, H, E), reference.soft_kl(Q, V, H, E))
        monkeypatch.setenv("FOSTER_OPS", "native")
        with pytest.raises(FosterError, match="FOSTER_OPS=native"):
            ops.fallback(CPU)
    finally:
        native.load.cache_clear()


@built
def test_the_definition_is_used_where_v_learns_or_types_differ() -> None:
    Q, V, H, E = inputs(3, 5, 2, torch.float32)
    V.requires_grad_()
    ops.soft_kl(Q, V, H, E).sum().backward()
    assert V.grad is not None and float(V.grad.abs().max()) > 0
    assert not native.fits(Q, V.double())
    assert not native.fits(Q.half())


@built
def test_each_device_has_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU without kernels `fallback` gives the reason; with `FOSTER_OPS=native` this is an error."""
    monkeypatch.setattr(native, "load", lambda: None)
    for cuda, capability, said in (
        (None, (9, 0), "without CUDA kernels: no nvcc"), ("13.0", (7, 5), "has 7.5"), ("13.0", (8, 6), None)
    ):  # fmt: skip
        record = {"torch": torch.__version__, "cuda": cuda, "without_cuda": None if cuda else "no nvcc"}
        monkeypatch.setattr(native, "built_against", lambda record=record: record)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, found=capability: found)
        native.without_cuda.cache_clear()
        monkeypatch.setenv("FOSTER_OPS", "auto")
        assert (ops.fallback(GPU) is None) if said is None else (said in str(ops.fallback(GPU)))
        if said is not None:
            monkeypatch.setenv("FOSTER_OPS", "native")
            with pytest.raises(FosterError, match="FOSTER_OPS=native: not on cuda"):
                ops.fallback(GPU)
    monkeypatch.setenv("FOSTER_OPS", "auto")
    assert ops.fallback(CPU) is None
    assert "mps" in str(ops.fallback(torch.device("mps")))
    native.without_cuda.cache_clear()
