"""The recommender phi: a backbone, and item embeddings (text encoder and head, or a table) for input and output.

`embed(items (B,)) -> E (B, d)`; `forward(X (B, l, d)) -> H (B, l, d)`; the score of an item is H . e.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES, make_backbone
from foster_cli.models.encoder import TextEncoder, build_text_encoder
from foster_cli.models.source import EncoderSource
from foster_cli.runtime import generator, stream_seed
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, choice

#: The default width d of a recommender whose items are known by their ids.
ID_WIDTH = 64
#: Where item embeddings come from.
ITEMS = ("text", "id")


class Recommender(nn.Module):
    """phi. `items`: the text encoder, or the number n of items for a table with one embedding per item.

    With frozen texts, or `--width`, a linear head maps the text vectors to the backbone. The head starts as the
    identity or, if it narrows, as `start` (weight (width, w), bias (width,)), so that an untrained recommender already
    ranks by text. Without `start`, the head is orthogonal if the widths differ.
    The table (n, d) starts as N(0, 0.02^2), d = 64 by default. An untrained table holds no information on the items.
    Raises FosterError for an unknown backbone, or heads that do not divide the width.
    """

    def __init__(
        self, items: TextEncoder | int, config: ModelConfig, length: int, seed: int,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text = None if isinstance(items, int) else items
        own = ID_WIDTH if self.text is None else self.text.cache.width
        self.n = items if isinstance(items, int) else items.cache.n  # items in the catalogue
        self.width = width = own if config.width is None else config.width
        choice("--backbone", config.backbone, tuple(BACKBONES))
        if BACKBONES[config.backbone].attends and width % config.heads:
            raise FosterError(
                f"width {width} is not divisible by {config.heads} heads", "choose another --width or --heads"
            )
        rng = generator(seed, "recommender")
        self.table: nn.Embedding | None = None
        self.head: nn.Linear | None = None
        if self.text is None:
            self.table = nn.Embedding(self.n, width)
            nn.init.normal_(self.table.weight, 0.0, 0.02, generator=rng)
        elif self.text.top is None or config.width is not None:
            self.head = _new_head(own, width, start, rng)
        self.sequence = make_backbone(config.backbone, width, length, config.layers, config.heads, config.dropout, rng)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.sequence.parameters()).device

    def train(self, mode: bool = True) -> Recommender:
        """Turn dropout on or off. The text encoder's own layers always run without dropout."""
        super().train(mode)
        return self

    def embed(self, items: Tensor) -> Tensor:
        """E (B, d) of items (B,), with gradient."""
        source = self.table if self.text is None else self.text
        assert source is not None
        e: Tensor = source(items)
        return e if self.head is None else self.head(e)

    def frozen_texts(self) -> Tensor | None:
        """The frozen text vectors B (n, w) if the item embeddings are head(B), else None."""
        return None if self.text is None or self.head is None else self.text.cache.pooled

    @torch.no_grad()
    def embed_all(self, block: int = 8192) -> Tensor:
        """E (n, d) of the whole catalogue, without gradient."""
        index = torch.arange(self.n, device=self.device)
        return torch.cat([self.embed(part) for part in index.split(block)])

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.sequence(x)
        return h

    def at(self, x: Tensor, chosen: Tensor) -> Tensor:
        """H (P, d) at the P positions where `chosen` (B, l) bool is true, row by row."""
        h: Tensor = self.sequence.at(x, chosen)
        return h

    def learnables(self) -> dict[str, Tensor]:
        """The learnable parameters by name, as detached copies on the CPU. An anchor stores these."""
        return {k: v.detach().cpu().clone() for k, v in self.named_parameters() if v.requires_grad}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the learnable parameters to `state` (from `learnables`)."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.requires_grad:
                    p.copy_(state[name])

    def clone(self) -> Recommender:
        """A copy with its own weights. It shares the text cache and, with LoRA, the frozen weights."""
        return copy.deepcopy(self, {} if self.text is None else self.text.shared())

    def groups(self, lr: float, encoder_lr: float) -> list[dict[str, Any]]:
        """AdamW parameter groups: backbone, head and table at `lr`, the encoder's own layers at `encoder_lr`."""
        own = [p for n, p in self.named_parameters() if p.requires_grad and not n.startswith("text.")]
        top = [p for n, p in self.named_parameters() if p.requires_grad and n.startswith("text.")]
        return [{"params": own, "lr": lr}, *([{"params": top, "lr": encoder_lr}] if top else [])]


def _new_head(w: int, width: int, start: tuple[Tensor, Tensor] | None, rng: torch.Generator) -> nn.Linear:
    """The initial head w -> width (see `Recommender`)."""
    head = nn.Linear(w, width)
    nn.init.zeros_(head.bias)
    if start is not None:
        with torch.no_grad():
            head.weight.copy_(start[0])
            head.bias.copy_(start[1])
    elif width == w:
        nn.init.eye_(head.weight)
    else:
        nn.init.orthogonal_(head.weight, generator=rng)
    return head


@torch.no_grad()
def principal_head(text: TextEncoder, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The head onto the `width` principal components of the catalogue's text vectors (n, w): weight, bias.

    Its outputs are centred and scaled to a mean length of 1. Every fresh recommender then starts in the same space
    and loses less of the text than with random directions.
    """
    X = text.all(device).cpu().double()
    mean = X.mean(0)
    X -= mean
    W = torch.linalg.eigh(X.T @ X).eigenvectors.flip(1)[:, :width].T  # (width, w), the largest first
    W = W / (X @ W.T).norm(dim=1).mean().clamp_min(1e-12)
    return W.float(), -(W @ mean).float()


#: Makes a fresh recommender from a seed: pretrained text encoder (or a new table), new head and backbone.
Factory = Callable[[int], Recommender]


def recommender_factory(
    data: Dataset, source: EncoderSource | None, config: ModelConfig, length: int, session: Session
) -> Factory:
    """A function from a seed to a fresh recommender. The texts are encoded once and shared by all recommenders.

    `source`: the text encoder; None if items are known by their ids (`config.items`).
    """
    text: TextEncoder | None = None
    start = None
    if source is not None:
        text = build_text_encoder(data.catalogue.texts, source, config, session)
        if config.width is not None and config.width < text.cache.width:
            start = principal_head(text, config.width, session.device)

    def fresh(seed: int) -> Recommender:
        own = len(data.catalogue) if text is None else copy.deepcopy(text, text.shared())
        model = Recommender(own, config, length, seed, start).to(session.device)
        if model.text is not None:
            model.text.start(seed)
        model.sequence.seed_dropout(stream_seed(seed, "dropout"))
        return model.eval()

    return fresh
