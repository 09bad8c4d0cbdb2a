"""What distillation and evaluation share: data, windows, validation cases and a factory of fresh recommenders.

In: a `Dataset`, the settings of recommender and ranking, a `Session`. Out: a `Task`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foster_cli.console import Console
from foster_cli.data.schema import Dataset
from foster_cli.data.windows import (
    Cases,
    Protocol,
    Windows,
    evaluation_cases,
    protocol_of,
    repeat_share,
    training_windows,
)
from foster_cli.errors import FosterError
from foster_cli.models.encoder import build_text_encoder
from foster_cli.models.recommender import Factory, recommender_factory
from foster_cli.models.source import EncoderSource, find_encoder
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, RankingConfig, Settings

#: The members of a mixture of teachers that read texts.
TEXT_MEMBERS = {"both", "text", "tfidf"}
#: All held-out interactions are ranked, among the items that the data decide.
BY_DATA = RankingConfig()


@dataclass(frozen=True)
class Task:
    """Everything that a training needs. `length` is L. `source` is None if items are identified by ids. `fresh` makes
    an untrained recommender from a seed."""

    data: Dataset
    source: EncoderSource | None
    model: ModelConfig
    length: int
    session: Session
    fresh: Factory
    windows: Windows
    valid: Cases
    protocol: Protocol

    def cases(self, split: str) -> Cases:
        """The cases of a split, by the protocol of the validation. Raises FosterError if the split has none."""
        return evaluation_cases(self.data, split, self.length, self.protocol)

    def known_by(self, items: str) -> Task:
        """The task of a recommender that knows items by `items` (`ModelConfig.items`), and is the same otherwise, also
        in its width."""
        if items == self.model.items:
            return self
        model = replace(self.model, items=items, width=self.fresh(0).width)
        if items == "id":  # these are for texts
            model = replace(model, train_layers="none", lora=None, lora_alpha=None, pooling=None, cache_precision=None)
        return make_task(self.data, model, self.length, self.session, RankingConfig(**asdict(self.protocol)))

    @property
    def device(self) -> torch.device:
        """The session's device."""
        return self.session.device

    def encoder_identity(self) -> dict[str, Any] | None:
        """The text encoder and its trainable layers, as results record them; None without an encoder."""
        if self.source is None:
            return None
        learns = {"train_layers": self.model.train_layers, "pooling": self.source.pooling}
        return {**self.source.identity(), **learns, **({"lora": self.model.lora} if self.model.lora else {})}

    def text_vectors(self) -> Tensor:
        """(n, w): the text encoder's own vectors, before any training.

        If items are identified by ids, the encoder that `model` names is loaded just for this call. Raises FosterError
        if it cannot be found.
        """
        text = self.fresh(0).text
        if text is None and not has_texts(self.data):
            raise no_texts()
        if text is None:
            source = find_encoder(self.model.encoder, self.model.pooling)
            plain = ModelConfig(max_tokens=self.model.max_tokens, lexical=0)
            text = build_text_encoder(self.data.catalogue.texts, source, plain, self.session)
        return text.all(self.device)[:, : text.cache.width]


def has_texts(data: Dataset) -> bool:
    """Whether an item of the data has a text."""
    return any(data.catalogue.texts)


def no_texts() -> FosterError:
    """The error for a model that reads texts, with data that have none."""
    return FosterError(
        "no text at all: the text of every item is empty",
        "use --items id, or name columns that hold texts with --text-columns a,b",
    )


def check_texts(data: Dataset, model: ModelConfig, teacher: str = "own") -> None:
    """Raise FosterError for a recommender or a `teacher` (`DistillConfig.teacher`) that reads texts, with data that
    have none. Called before anything is trained."""
    reading = [name for name in teacher.split(",") if name in TEXT_MEMBERS]
    if has_texts(data):
        return
    if model.items != "id":
        raise no_texts()
    if reading:
        raise FosterError(f"--teacher {teacher}: {no_texts().message}", f"leave out {', '.join(reading)}")


def make_task(
    data: Dataset, model: ModelConfig, length: int, session: Session, ranking: RankingConfig = BY_DATA
) -> Task:
    """Find the encoder (unless items are ids), cut windows and validation cases, encode the texts.

    Raises FosterError for data, encoder or settings that do not fit.
    """
    check_texts(data, model)
    protocol = protocol_of(data, ranking)
    windows, valid = training_windows(data, length), evaluation_cases(data, "valid", length, protocol)
    source = None if model.items == "id" else find_encoder(model.encoder, model.pooling)
    fresh = recommender_factory(data, source, model, length, session)
    return Task(data, source, model, length, session, fresh, windows, valid, protocol)


def settled(settings: Settings, data: Dataset, console: Console) -> Settings:
    """`settings` with the protocol that the data decide (`protocol_of`), and a note of it; given ones stay."""
    if settings.ranking.mask_seen is not None:
        return settings
    protocol = protocol_of(data, settings.ranking)
    console.note(
        f"items that a user already has are {'left out of' if protocol.mask_seen else 'kept in'} the ranking: "
        f"{repeat_share(data):.1%} of training interactions are repeats"
    )
    return replace(settings, ranking=RankingConfig(**asdict(protocol)))
