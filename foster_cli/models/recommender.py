"""The recommender phi: a backbone, and item embeddings (from texts, a vector per item, or both), in and out.

`embed(items (B,)) -> E (B, d)`; `forward(X (B, l, d)) -> H (B, l, d)`; the score of an item is H . e.
With `bias`, the last coordinate of every output is 1, so the last coordinate of e is the item's bias; it is not read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.errors import FosterError
from foster_cli.models.backbones import BACKBONES, make_backbone
from foster_cli.models.backbones.base import SeededDropout
from foster_cli.models.encoder import TextEncoder, build_text_encoder
from foster_cli.models.source import EncoderSource
from foster_cli.runtime import generator, stream_seed
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, choice

#: The default width d of a recommender with a vector per item.
ID_WIDTH = 64
#: Where item embeddings come from.
ITEMS = ("both", "text", "id")


class Recommender(nn.Module):
    """phi. `items`: the text encoder, or the number n of items for a table with one embedding per item.

    With `config.items` `text`, E_i = head(text_i); with `both`, E_i = head(text_i) + r_i; with `id`, E_i = r_i. With
    frozen texts, or `--width`, the head is linear. It starts as the identity or, if it narrows, as `start` (weight
    (width, w), bias (width,)), so that an untrained recommender already ranks by text. Without `start`, the head is
    orthogonal if the widths differ.

    The table r (n, d) starts at 0 beside texts, and else as N(0, 0.02^2). `known` (n,) bool: items that occur in
    training; None: all. The others have no vector (r_i = 0) and, with `config.bias`, share a learnable `offset` of
    their bias. In training, each vector is left out with probability `config.vector_dropout`, so that the text learns
    to stand for an item alone. `biases` (n,), None here: those that a synthetic set brings, in the place of the head's
    (`item_start`). Raises FosterError for an unknown backbone, or heads that do not divide the width.
    """

    known: Tensor | None
    biases: Tensor | None

    def __init__(
        self, items: TextEncoder | int, config: ModelConfig, length: int, seed: int,
        start: tuple[Tensor, Tensor] | None = None, known: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text = None if isinstance(items, int) else items
        self.n = items if isinstance(items, int) else items.cache.n  # items in the catalogue
        own = ID_WIDTH if self.text is None else self.text.cache.width
        self.width = width = default_width(config, own) if config.width is None else config.width
        choice("--backbone", config.backbone, tuple(BACKBONES))
        check_heads(config, width)
        rng = generator(seed, "recommender")
        self.table: nn.Embedding | None = None
        self.head: nn.Linear | None = None
        self.offset: nn.Parameter | None = None
        self.bias = config.bias
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("biases", None, persistent=False)
        if self.text is None or config.items == "both":
            self.table = nn.Embedding(self.n, width)
            nn.init.normal_(self.table.weight, 0.0, 0.02, generator=rng)
        if self.text is not None and self.table is not None:
            nn.init.zeros_(self.table.weight)
        if self.text is not None and (self.text.top is None or width != self.text.cache.features):
            self.head = _new_head(self.text.cache.features, width, start, rng)
        if self.bias and known is not None and not bool(known.all()):
            self.offset = nn.Parameter(torch.zeros(()))
        self.sequence = make_backbone(config.backbone, width, length, config.layers, config.heads, config.dropout, rng)
        self.vector_dropout = SeededDropout(0.0 if self.text is None else config.vector_dropout, self.sequence.source)

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
        e = self.of_text(items)
        known = None if self.known is None else self.known[items, None]
        if self.table is not None:
            r = self.table(items)
            r = r if known is None else r * known
            if e is not None and self.training and self.vector_dropout.p > 0:
                r = r * self.vector_dropout.kept((len(items), 1), r)
            e = r if e is None else e + r
        assert e is not None
        if self.biases is not None:
            e = torch.cat([e[:, :-1], self.biases[items, None]], dim=1)
        if self.offset is not None and known is not None:
            e = e + F.pad(torch.where(known, 0.0, self.offset), (self.width - 1, 0))
        return e

    def of_text(self, items: Tensor) -> Tensor | None:
        """(B, d): the part of E that is made of the texts of items (B,); None without texts."""
        if self.text is None:
            return None
        e: Tensor = self.text(items)
        return e if self.head is None else self.head(e)

    def frozen_texts(self) -> Tensor | None:
        """The frozen text vectors B (n, w) if the item embeddings are head(B) and nothing else, else None."""
        alone = self.text is not None and self.head is not None and self.table is None
        alone = alone and self.offset is None and self.biases is None
        return self.text.cache.pooled if alone and self.text is not None else None

    @torch.no_grad()
    def embed_all(self, block: int = 8192) -> Tensor:
        """E (n, d) of the whole catalogue, without gradient."""
        index = torch.arange(self.n, device=self.device)
        return torch.cat([self.embed(part) for part in index.split(block)])

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(self.sequence(self.read(x)))

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """H (P, d) at the positions `places` (P,), ascending indices into all B l ones."""
        return self.outputs(self.sequence.at(self.read(x), places))

    def last(self, x: Tensor, last: Tensor) -> Tensor:
        """H (B, d) at positions `last` (B,)."""
        return self.outputs(self.sequence.last(self.read(x), last))

    def read(self, x: Tensor) -> Tensor:
        """What the backbone reads of item embeddings x (..., d): with a bias, 0 stands in the place of the bias."""
        return F.pad(x[..., :-1], (0, 1)) if self.bias else x

    def outputs(self, h: Tensor) -> Tensor:
        """H (..., d) of the backbone's outputs h: with a bias, 1 stands in the place of the last coordinate."""
        return F.pad(h[..., :-1], (0, 1), value=1.0) if self.bias else h

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

    def hold_items(self) -> None:
        """Keep the item embeddings as they are: the backbone alone learns."""
        for name, p in self.named_parameters():
            p.requires_grad_(name.startswith("sequence."))

    def groups(self, lr: float, encoder_lr: float) -> list[dict[str, Any]]:
        """AdamW parameter groups: backbone, head and table at `lr`, the encoder's own layers at `encoder_lr`."""
        own = [p for n, p in self.named_parameters() if p.requires_grad and not n.startswith("text.")]
        top = [p for n, p in self.named_parameters() if p.requires_grad and n.startswith("text.")]
        return [{"params": own, "lr": lr}, *([{"params": top, "lr": encoder_lr}] if top else [])]


def default_width(config: ModelConfig, own: int) -> int:
    """The width d if none is given: `own`, that of the encoder, for texts alone, else at most 64."""
    return own if config.items == "text" or (config.items == "both" and config.train_layers != "none") else ID_WIDTH


def check_heads(config: ModelConfig, width: int) -> None:
    """Raise FosterError if the backbone has attention heads that do not divide the width."""
    if BACKBONES[config.backbone].attends and width % config.heads:
        raise FosterError(f"width {width} is not divisible by {config.heads} heads", "choose another width or heads")


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
def principal_head(text: TextEncoder, width: int, bias: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The head onto the principal components of the catalogue's text vectors (n, w): weight (width, w), bias (width,).

    Its outputs are centred and scaled to a mean length of 1. Every fresh recommender then starts in the same space
    and loses less of the text than with random directions. With `bias`, the last coordinate starts at 0.
    """
    X = text.all(device).cpu().double()
    mean = X.mean(0)
    X -= mean
    W = torch.linalg.eigh(X.T @ X).eigenvectors.flip(1)[:, : width - bias].T  # (width, w), the largest first
    W = W / (X @ W.T).norm(dim=1).mean().clamp_min(1e-12)
    W = F.pad(W, (0, 0, 0, width - len(W)))
    return W.float(), -(W @ mean).float()


#: Makes a fresh recommender from a seed: pretrained text encoder (or a new table), new head and backbone.
Factory = Callable[[int], Recommender]


def known_items(data: Dataset) -> Tensor:
    """(n,) bool: the items that occur in the training split."""
    train = data.interactions.split == SPLITS.index("train")
    known = torch.zeros(len(data.catalogue), dtype=torch.bool)
    known[torch.from_numpy(data.interactions.item[train])] = True
    return known


def recommender_factory(
    data: Dataset, source: EncoderSource | None, config: ModelConfig, length: int, session: Session
) -> Factory:
    """A function from a seed to a fresh recommender. The texts are encoded once and shared by all recommenders.

    `source`: the text encoder; None if items are known by their ids (`config.items`).
    """
    text: TextEncoder | None = None
    start = None
    known = known_items(data)
    if source is not None:
        text = build_text_encoder(data.catalogue.texts, source, config, session)
        width = default_width(config, text.cache.width) if config.width is None else config.width
        if width < text.cache.features:
            start = principal_head(text, width, config.bias, session.device)

    def fresh(seed: int) -> Recommender:
        own = len(data.catalogue) if text is None else copy.deepcopy(text, text.shared())
        model = Recommender(own, config, length, seed, start, known).to(session.device)
        if model.text is not None:
            model.text.start(seed)
        model.sequence.seed_dropout(stream_seed(seed, "dropout"))
        return model.eval()

    return fresh
