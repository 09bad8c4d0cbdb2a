"""`benches/truncated_encoder.py`: the folder it writes gives the pooled states of the whole encoder's layer N."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foster_cli.errors import FosterError
from foster_cli.models.encoder import build_text_encoder
from foster_cli.models.source import find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig

TEXTS = ["red lamp", "blue iron chair 12 with a large glass knife", "x"]


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module."""
    path = Path(__file__).parents[1] / "benches" / "truncated_encoder.py"
    spec = importlib.util.spec_from_file_location("truncated_encoder", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layers_as_transformers_gives_them(
    script: Any, mean_encoder: Path, tmp_path: Path, layers: int
) -> None:
    from transformers import AutoModel, AutoTokenizer

    script.truncate(str(mean_encoder), layers, tmp_path / "short")
    source = find_encoder(str(tmp_path / "short"))
    assert (source.pooling, source.normalize) == ("mean", True)
    assert (tmp_path / "short" / "1_Pooling").stat().st_mode & 0o700 == 0o700  # others than root may enter it
    found = build_text_encoder(TEXTS, source, ModelConfig(max_tokens=32), Session(use_cache=False)).cache.pooled
    tokenizer, model = AutoTokenizer.from_pretrained(mean_encoder), AutoModel.from_pretrained(mean_encoder).eval()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layers]
        expected = states[0].double().mean(0)
        np.testing.assert_allclose(row.numpy(), (expected / expected.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("layers", [0, 4, 9])
def test_no_layers_or_all_of_them_are_refused(script: Any, mean_encoder: Path, tmp_path: Path, layers: int) -> None:
    with pytest.raises(FosterError, match="has 4 layers"):
        script.truncate(str(mean_encoder), layers, tmp_path / "short")
    assert not (tmp_path / "short").exists()


def test_nothing_is_overwritten(script: Any, mean_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(FosterError, match="exists already"):
        script.truncate(str(mean_encoder), 2, tmp_path)
