"""Computes item embeddings from texts. Frozen layers run once per item and are cached; others run at every step.

In: tokens of n items. Out: E (B, w) for any B items, with w the encoder's width, or (B, w + f) with lexical vectors.
`train_layers` says what is cached:
- `none`: the pooled vectors (n, w);
- a number N: the hidden states below the top N layers, ragged (total tokens, w), in a memory-mapped file
  (`models.states`). This is the paper's caching;
- `all`: only the tokens. With LoRA, `all` equals the number of all layers.
The encoder's own layers run without dropout. LoRA's dropout is on whenever the recommender's is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foster_cli.data.tokens import tokenize
from foster_cli.errors import FosterError
from foster_cli.files import sha256_json
from foster_cli.models.backbones.base import SeededDropout
from foster_cli.models.frozen import Frozen, check_hidden, check_top, chunks_of, pool
from foster_cli.models.lexical import lexical_vectors
from foster_cli.models.lora import Lora, add_lora, frozen_weights, require_peft, start_lora
from foster_cli.models.pretrained import encoder_layers, load_backbone, top_of
from foster_cli.models.source import POOLINGS, EncoderSource
from foster_cli.models.states import Ragged
from foster_cli.ops.precision import PRECISIONS
from foster_cli.session import Session
from foster_cli.settings import ModelConfig, choice, positive


class TextCache:
    """The cached output of the frozen layers. All recommenders of a run share it; it is never copied.

    A step reads one of `pooled` (n, w), `hidden` (ragged, below the top N layers) and `tokens` (ragged). `lexical`
    (n, f): vectors beside the encoder's (`models.lexical`); with frozen texts, `pooled` (n, w + f) ends with them.
    `gram`: what the head's least squares need of frozen texts, from its first use on (`models.item_start`).
    """

    def __init__(
        self, pooled: Tensor | None, hidden: Ragged | None, tokens: Ragged | None, n: int, width: int,
        lexical: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.pooled, self.hidden, self.tokens, self.n, self.width = pooled, hidden, tokens, n, width
        self.lexical = lexical
        self.gram: Tensor | None = None

    @property
    def features(self) -> int:
        """w + f, the width of a text's vector."""
        return self.width + (0 if self.lexical is None else self.lexical.shape[1])

    def to(self, device: torch.device) -> TextCache:
        """The same cache on `device`."""
        return TextCache(
            None if self.pooled is None else self.pooled.to(device),
            None if self.hidden is None else self.hidden.to(device),
            None if self.tokens is None else self.tokens.to(device),
            self.n,
            self.width,
            None if self.lexical is None else self.lexical.to(device),
        )


class TextEncoder(nn.Module):
    """E (B, w + f) of items (B,). Holds the layers that learn and reads the output of the others from the `TextCache`.

    `lora`: the list with the dropout's generator, from `add_lora`, if the layers learn by LoRA.
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
        """Turn LoRA's dropout on or off. The pretrained layers always run without dropout."""
        super().train(False)
        for m in self.modules():
            if isinstance(m, SeededDropout):
                m.train(mode)
        return self

    def shared(self) -> dict[int, Any]:
        """The memo for `copy.deepcopy`: what copies share, by id: the cache and, with LoRA, the frozen weights."""
        frozen = frozen_weights(self.top) if self.lora is not None and self.top is not None else []
        return {id(self.cache): self.cache, **{id(p): p for p in frozen}}

    def start(self, seed: int) -> None:
        """Reset LoRA to its initial state from `seed`. Without LoRA, do nothing."""
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
        found = torch.cat(parts)[back.to(items.device)]
        return found if self.cache.lexical is None else torch.cat([found, self.cache.lexical[items]], dim=1)

    @torch.no_grad()
    def all(self, device: torch.device, block: int = 4096) -> Tensor:
        """The vectors (n, w + f) of the whole catalogue, without gradient."""
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
    """The token given to a text without any: the first of these kinds that the tokenizer has."""
    kinds = ("bos", "cls", "eos", "pad", "unk")
    return next((i for kind in kinds if (i := getattr(tokenizer, f"{kind}_token_id", None)) is not None), None)


def build_text_encoder(texts: list[str], source: EncoderSource, config: ModelConfig, session: Session) -> TextEncoder:
    """Build the encoder for a catalogue's `texts`. Its frozen part is computed, or read from the cache folder.

    Layers that learn are in fp32, and so are layers with LoRA. Hidden states are stored in `config.cache_precision`, by
    default in the precision of the layers below: bf16 for a causal LM of 16 bits, else fp32.

    Raises FosterError for a `train_layers` that the encoder does not have, or an architecture whose top layers give
    another result from stored hidden states than the whole model from the tokens.
    """
    device, train_layers, lora = session.device, config.train_layers, Lora.of(config)
    # fused attention in bf16 on a CPU is slower than everything else in the layer together
    eager = config.precision == "bf16" and device.type == "cpu"
    model, tokenizer = load_backbone(source, "eager" if eager else None)
    longest = getattr(model.config, "max_position_embeddings", config.max_tokens)
    limit = min(config.max_tokens, int(longest), tokenizer.model_max_length)
    found = tokenize(texts, tokenizer, limit, _stand_in(tokenizer))
    if not found.lengths.all():
        raise FosterError(
            f"--encoder {source.name}: {int((found.lengths == 0).sum())} items have no text, and its tokenizer has no "
            "special token to stand for it", "give every item a text, or use another encoder",
        )  # fmt: skip
    tokens = Ragged(*map(torch.from_numpy, (found.ids, found.offsets[:-1], found.lengths))).to(device)
    n, width = len(texts), int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    about = {"encoder": source.name, "texts": n, "train_layers": train_layers, "max_tokens": limit}
    frozen = Frozen(model.to(device), tokens, source, [source.hash, sha256_json(texts), limit], about, session)
    lexical = lexical_vectors(texts, config.lexical) if config.lexical else None
    if config.lexical and lexical is None:
        session.console.note("no two texts share a word: the texts are read by the encoder alone")
    lexical = None if lexical is None else lexical.to(device)
    if train_layers == "none":
        pooled = frozen.pooled_texts().to(device)
        pooled = pooled if lexical is None else torch.cat([pooled, lexical], dim=1)
        cache = TextCache(pooled, None, None, n, width, lexical)
        return TextEncoder(cache, None, source.pooling, source.normalize)
    if train_layers == "all" and lora is None:
        cache = TextCache(None, None, tokens, n, width, lexical)
        return TextEncoder(cache, model.float(), source.pooling, source.normalize, config.precision)
    top, hidden = _top_and_hidden(frozen, config)
    added = None if lora is None else add_lora(top.float(), lora)
    cache = TextCache(None, hidden, None, n, width, lexical)
    encoder = TextEncoder(cache, top.float().to(device), source.pooling, source.normalize, config.precision, added)
    encoder.start(0)
    return encoder.eval()


def _top_and_hidden(frozen: Frozen, config: ModelConfig) -> tuple[nn.Module, Ragged]:
    """The top layers, and the hidden states that they read. Raises FosterError like `build_text_encoder`."""
    model, train_layers = frozen.model, config.train_layers
    layers = len(encoder_layers(model))
    count = str(layers) if train_layers == "all" else train_layers
    if not count.isdecimal() or int(count) < 1:
        raise FosterError(f"--train-layers {train_layers}: not a choice", "use none, all, or a number of top layers")
    top = top_of(model, int(count))
    below = layers - int(count)
    own = next(encoder_layers(model)[below].parameters()).dtype
    dtype = {None: own, "bf16": torch.bfloat16, "fp32": torch.float32}[config.cache_precision]
    what = f"--train-layers {train_layers}"
    hint = "use --train-layers none or all" + (", without --lora" * (config.lora is not None))
    check_top(model, top, frozen.tokens, below, what, hint)  # before encoding the catalogue, which may take long
    hidden = frozen.hidden_states(below, dtype)
    check_hidden(model, frozen.tokens, hidden, below, what)
    return top, hidden


def check_encoder(model: ModelConfig) -> None:
    """Raise FosterError for settings of the text encoder that contradict each other."""
    text = model.items != "id"
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
