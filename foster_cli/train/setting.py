"""What distillation and evaluation share: data, windows, validation cases and a factory of fresh recommenders.

In: a `Dataset` and the model's settings. Out: a `Setting`; `full_teacher` trains on all of it (or reads it
from the cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foster_cli.config import ModelConfig, TrainConfig
from foster_cli.console import SILENT, Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import Cases, Windows, evaluation_cases, training_windows
from foster_cli.models.encoder import build_text_encoder
from foster_cli.models.recommender import Factory, recommender_factory
from foster_cli.models.source import EncoderSource, find_encoder
from foster_cli.train.anchors import Teacher, teacher_key, train_teacher


@dataclass(frozen=True)
class Setting:
    """Everything a training needs. `length` is L; `source` is None where items are known by their ids."""

    data: Dataset
    source: EncoderSource | None
    model: ModelConfig
    length: int
    device: torch.device
    fresh: Factory
    windows: Windows
    valid: Cases

    def encoder_identity(self) -> dict[str, Any] | None:
        """What a record keeps of the text encoder and of what learns in it."""
        if self.source is None:
            return None
        learns = {"train_layers": self.model.train_layers, "pooling": self.source.pooling}
        return {**self.source.identity(), **learns, **({"lora": self.model.lora} if self.model.lora else {})}

    def text_vectors(self, console: Console = SILENT, use_cache: bool = True) -> Tensor:
        """(n, w): the text encoder's own vectors, before anything learned.

        Where items are known by their ids, the encoder that `model` names is read for this alone; raises FosterError
        if it is not to be had.
        """
        text = self.fresh(0).text
        if text is None:
            source, texts = find_encoder(self.model.encoder, self.model.pooling), self.data.catalogue.texts
            text = build_text_encoder(texts, source, "none", self.model.max_tokens, self.device, console, use_cache)
        return text.all(self.device)


def make_setting(
    data: Dataset,
    model: ModelConfig,
    length: int,
    device: torch.device,
    console: Console = SILENT,
    use_cache: bool = True,
) -> Setting:
    """Find the encoder (unless items are ids), cut windows and cases, read the texts.

    Raises FosterError for what does not fit.
    """
    windows, valid = training_windows(data, length), evaluation_cases(data, "valid", length)
    source = None if model.items == "id" else find_encoder(model.encoder, model.pooling)
    fresh = recommender_factory(data, source, model, length, device, console, use_cache)
    return Setting(data, source, model, length, device, fresh, windows, valid)


def full_teacher(
    setting: Setting, train: TrainConfig, seed: int, console: Console = SILENT, use_cache: bool = True,
    label: str = "training on the full data", keep: Path | None = None,
) -> Teacher:  # fmt: skip
    """A recommender trained on all real windows with `seed`, and its trajectory. `keep`: see `train_teacher`."""
    encoder = None if setting.source is None else setting.source.hash
    key = teacher_key(setting.data, encoder, setting.model, train, setting.length, seed, setting.device.type)
    model = setting.model
    about = {
        "data": setting.data.name, "encoder": model.encoder if model.items == "text" else "ids",
        "backbone": model.backbone, "train_layers": model.train_layers, "length": setting.length, "seed": seed,
    }  # fmt: skip
    teacher = train_teacher(
        key, setting.fresh, setting.windows, setting.valid, train, seed, console, use_cache, label, about, keep
    )
    if teacher.cached and use_cache:
        console.note(f"{label}: from the cache ({teacher.seconds:.0f} s when it was trained; --no-cache trains again)")
    return teacher
