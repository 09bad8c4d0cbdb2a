"""Text to item embeddings: the layers that do not learn run once per item, the rest at every step.

In: tokens of n items. Out: E (B, w) for any B items, w the encoder's own width. With `train_layers`
- `none`: the pooled vectors (n, w) are kept;
- a number N: the hidden states below the top N layers are kept, ragged (total tokens, w), the paper's caching
  (`models.states`: in a memory-mapped file);
- `all`: only the tokens are kept; with LoRA the same as the number of all layers.
The encoder's own layers run without dropout. LoRA's dropout is on where the recommender's is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foster_cli.config import ModelConfig, choice, positive
from foster_cli.console import SILENT, Console
from foster_cli.data.tokens import tokenize
from foster_cli.errors import FosterError
from foster_cli.models.backbone import encoder_layers, load_backbone, top_of
from foster_cli.models.backbones.base import SeededDropout
from foster_cli.models.frozen import check_kept, check_top, chunks_of, hidden_states, pool, pooled_texts
from foster_cli.models.lora import Lora, add_lora, frozen_weights, require_peft, start_lora
from foster_cli.models.source import POOLINGS, EncoderSource
from foster_cli.models.states import Ragged
from foster_cli.ops.precision import PRECISIONS
from foster_cli.runtime import sha256_json


class TextCache:
    """What is kept of the layers that do not learn. Shared by all recommenders of a run, never copied.

    One of `pooled` (n, w), `hidden` (ragged, below the top N layers), `tokens` (ragged) is what a step reads.
    """

    def __init__(self, pooled: Tensor | None, hidden: Ragged | None, tokens: Ragged | None, n: int, width: int) -> None:
        self.pooled, self.hidden, self.tokens, self.n, self.width = pooled, hidden, tokens, n, width

    def to(self, device: torch.device) -> TextCache:
        """The same cache on `device`."""
        return TextCache(
            None if self.pooled is None else self.pooled.to(device),
            None if self.hidden is None else self.hidden.to(device),
            None if self.tokens is None else self.tokens.to(device),
            self.n,
            self.width,
        )


class TextEncoder(nn.Module):
    """E (B, w) of items (B,). Holds the layers that learn; reads the `TextCache` for the rest.

    `lora`: the list with the dropout's generator, from `add_lora`, where LoRA is what learns of these layers.
    """

    def __init__(
        self, cache: TextCache, top: nn.Module | None, pooling: str, normalize: bool, precision: str = "fp32",
        lora: list[torch.Generator] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cache = cache
        self.top = top
        self.pooling, self.normalize, self.precision = pooling, normalize, precision
        self.lora = lora

    def train(self, mode: bool = True) -> TextEncoder:
        """The pretrained layers stay without dropout; that of LoRA is on or off."""
        super().train(False)
        for m in self.modules():
            if isinstance(m, SeededDropout):
                m.train(mode)
        return self

    def shared(self) -> dict[int, Any]:
        """For `copy.deepcopy`: what copies share, by id. The cache, and beside LoRA the weights that do not learn."""
        frozen = frozen_weights(self.top) if self.lora is not None and self.top is not None else []
        return {id(self.cache): self.cache, **{id(p): p for p in frozen}}

    def start(self, seed: int) -> None:
        """LoRA as it is before the first step, from `seed`; without LoRA nothing changes."""
        if self.lora is not None and self.top is not None:
            start_lora(self.top, self.lora, seed)

    def forward(self, items: Tensor) -> Tensor:
        if self.cache.pooled is not None:
            return self.cache.pooled[items]
        rows = self.cache.hidden if self.cache.hidden is not None else self.cache.tokens
        assert rows is not None and self.top is not None
        lengths = rows.size[items].cpu().numpy()
        order = np.argsort(lengths, kind="stable")
        parts = [self._chunk(rows, items[torch.from_numpy(c).to(items.device)]) for c in chunks_of(lengths, order)]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.from_numpy(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(items.device)]

    @torch.no_grad()
    def all(self, device: torch.device, block: int = 4096) -> Tensor:
        """The vectors (n, w) of the whole catalogue, without gradient."""
        index = torch.arange(self.cache.n, device=device)
        return torch.cat([self(part) for part in index.split(block)])

    def _chunk(self, rows: Ragged, items: Tensor) -> Tensor:
        assert self.top is not None
        values, mask = rows.padded(items)
        values = values.float() if values.dtype == torch.bfloat16 else values
        key = "inputs_embeds" if self.cache.hidden is not None else "input_ids"
        with torch.autocast(values.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.top(**{key: values}, attention_mask=mask).last_hidden_state
        return pool(hidden.float(), mask, self.pooling, self.normalize)


def _stand_in(tokenizer: Any) -> int | None:
    """The token that stands for a text without any: the first of these that the tokenizer has."""
    kinds = ("bos", "cls", "eos", "pad", "unk")
    return next((i for kind in kinds if (i := getattr(tokenizer, f"{kind}_token_id", None)) is not None), None)


def build_text_encoder(
    texts: list[str],
    source: EncoderSource,
    train_layers: str,
    max_tokens: int,
    device: torch.device,
    console: Console = SILENT,
    use_cache: bool = True,
    precision: str = "fp32",
    lora: Lora | None = None,
    cache_precision: str | None = None,
) -> TextEncoder:
    """The encoder for a catalogue's `texts`, its frozen part computed (or read from the cache folder).

    What learns is in fp32, LoRA and the layers it stands in included. Hidden states are kept as the layers below give
    them, in bf16 by a causal LM of 16 bits and else in fp32, or as `cache_precision` says.

    Raises FosterError for a `train_layers` the encoder does not have, or an architecture whose top layers do
    not give the same result from kept hidden states as the whole model gives from the tokens.
    """
    # fused attention in bf16 on a CPU is slower than everything else in the layer together
    model, tokenizer = load_backbone(source, "eager" if precision == "bf16" and device.type == "cpu" else None)
    limit = min(
        max_tokens, int(getattr(model.config, "max_position_embeddings", max_tokens)), tokenizer.model_max_length
    )
    found = tokenize(texts, tokenizer, limit, _stand_in(tokenizer))
    if not found.lengths.all():
        raise FosterError(
            f"--encoder {source.name}: {int((found.lengths == 0).sum())} items have no text, and its tokenizer has no "
            "special token to stand for it", "give every item a text, or use another encoder",
        )  # fmt: skip
    tokens = Ragged(*map(torch.from_numpy, (found.ids, found.offsets[:-1], found.lengths))).to(device)
    n, width = len(texts), int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    key = [source.hash, sha256_json(texts), limit]
    about = {"encoder": source.name, "texts": n, "train_layers": train_layers, "max_tokens": limit}
    model = model.to(device)
    if train_layers == "none":
        pooled = pooled_texts(model, tokens, source, key, device, console, use_cache, about)
        return TextEncoder(TextCache(pooled.to(device), None, None, n, width), None, source.pooling, source.normalize)
    if train_layers == "all" and lora is None:
        cache = TextCache(None, None, tokens, n, width)
        return TextEncoder(cache, model.float(), source.pooling, source.normalize, precision)
    layers = len(encoder_layers(model))
    count = str(layers) if train_layers == "all" else train_layers
    if not count.isdecimal() or int(count) < 1:
        raise FosterError(f"--train-layers {train_layers}: not a choice", "use none, all, or a number of top layers")
    top = top_of(model, int(count))
    below = layers - int(count)
    own = next(encoder_layers(model)[below].parameters()).dtype
    dtype = {None: own, "bf16": torch.bfloat16, "fp32": torch.float32}[cache_precision]
    what, hint = f"--train-layers {train_layers}", "use --train-layers none or all" + (", without --lora" * bool(lora))
    check_top(model, top, tokens, below, what, hint)  # before the catalogue is read, which may take long
    hidden = hidden_states(model, tokens, below, key, dtype, device, console, use_cache, about)
    check_kept(model, tokens, hidden, below, what)
    added = None if lora is None else add_lora(top.float(), lora)
    cache = TextCache(None, hidden, None, n, width)
    encoder = TextEncoder(cache, top.float().to(device), source.pooling, source.normalize, precision, added)
    encoder.start(0)
    return encoder.eval()


def check_encoder(model: ModelConfig) -> None:
    """FosterError for settings of the text encoder that do not fit together."""
    text = model.items == "text"
    for name, value, allowed in (("--pooling", model.pooling, POOLINGS),
                                 ("--cache-precision", model.cache_precision, PRECISIONS)):  # fmt: skip
        if value is not None:
            choice(name, value, allowed)
            if not text:
                raise FosterError(f"{name} {value}: --items id has no text encoder", "leave it out")
    if model.cache_precision is not None and (model.train_layers == "none" or (
        model.train_layers == "all" and model.lora is None
    )):  # fmt: skip
        raise FosterError(
            f"--cache-precision {model.cache_precision}: --train-layers {model.train_layers} keeps no hidden states",
            "leave it out, or give a number of top layers",
        )
    if model.lora is None:
        if model.lora_alpha is not None:
            raise FosterError(f"--lora-alpha {model.lora_alpha:g}: there is no --lora", "give a rank too: --lora 32")
        return
    if not text:
        raise FosterError(f"--lora {model.lora}: --items id has no text encoder", "leave it out")
    positive("--lora", model.lora)
    if model.train_layers == "none":
        raise FosterError(
            f"--lora {model.lora}: --train-layers none leaves it no layers", "give their number: --train-layers 2"
        )
    if model.lora_alpha is not None and not 0 < model.lora_alpha < math.inf:
        raise FosterError(f"--lora-alpha {model.lora_alpha:g}: out of range", "use a number above 0")
    if not 0 <= model.lora_dropout < 1:
        raise FosterError(f"lora_dropout {model.lora_dropout}: out of range", "use 0 or more, below 1")
    require_peft()
