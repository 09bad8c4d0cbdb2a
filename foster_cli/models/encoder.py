"""Text to item embeddings: the layers that do not learn run once per item, the rest at every step.

In: tokens of n items. Out: E (B, w) for any B items, w the encoder's own width. With `train_layers`
- `none`: the pooled vectors (n, w) are kept;
- a number N: the hidden states below the top N layers are kept, ragged (total tokens, w), the paper's caching;
- `all`: only the tokens are kept.
The encoder runs without dropout, so that a step depends on nothing but its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.cache import clear_leftovers, write_about
from foster_cli.checkpoint import load_checked, save_checked
from foster_cli.console import SILENT, Console
from foster_cli.data.tokens import Tokens, tokenize
from foster_cli.errors import FosterError
from foster_cli.models.backbone import encoder_layers, load_backbone, top_of
from foster_cli.models.source import EncoderSource
from foster_cli.ops.precision import exact
from foster_cli.runtime import cache_dir, cache_lock, sha256_json, writing

#: Padded tokens of one chunk of texts that runs at once.
CHUNK_TOKENS = 4096
#: Kept hidden states are also written to the cache folder up to this size.
CACHE_BYTES = 2 << 30


def _pool(hidden: Tensor, mask: Tensor, pooling: str, normalize: bool) -> Tensor:
    """(B, l, w), (B, l) -> (B, w), as the encoder was trained."""
    if pooling == "cls":
        out = hidden[:, 0]
    else:
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        out = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return F.normalize(out, dim=-1) if normalize else out


class Ragged:
    """Rows of different length without padding: `values` (total,) or (total, w), `offsets` (n+1,)."""

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        self.values, self.offsets = values, offsets

    def padded(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `items` (B,) as (B, l, ...) with zeros behind, and the mask (B, l) int64."""
        start = self.offsets[items]
        size = self.offsets[items + 1] - start
        column = torch.arange(int(size.max()), device=items.device)
        mask = column[None, :] < size[:, None]
        index = torch.where(mask, start[:, None] + column[None, :], 0)
        values = self.values[index]
        shape = mask if values.dim() == 2 else mask.unsqueeze(-1)
        return values * shape.to(values.dtype), mask.to(torch.int64)

    def to(self, device: torch.device) -> Ragged:
        """The same rows on `device`."""
        return Ragged(self.values.to(device), self.offsets.to(device))


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


def _chunks(lengths: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """`order` cut so that rows x longest row stays near CHUNK_TOKENS (`order` runs by rising length)."""
    a = 0
    while a < len(order):
        b = a + 1
        while b < len(order) and (b + 1 - a) * int(lengths[order[b]]) <= CHUNK_TOKENS:
            b += 1
        yield order[a:b]
        a = b


@exact()
@torch.no_grad()
def _run_frozen(
    model: nn.Module,
    tokens: Tokens,
    below: int | None,
    source: EncoderSource,
    device: torch.device,
    console: Console,
) -> Tensor:
    """Every text through `model` once. `below` None: pooled (n, w); else the input of layer `below`, (total, w)."""
    ragged = Ragged(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.offsets)).to(device)
    model = model.to(device)
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    out = torch.empty(len(tokens) if below is None else len(tokens.ids), width)
    caught: list[Tensor] = []
    handle = None
    if below is not None:
        layer = encoder_layers(model)[below]
        handle = layer.register_forward_pre_hook(
            lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    lengths = tokens.lengths
    done = 0
    with console.progress("reading the item texts", len(tokens)) as bar:
        for chunk in _chunks(lengths, np.argsort(lengths, kind="stable")):
            items = torch.from_numpy(chunk).to(device)
            ids, mask = ragged.padded(items)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            if below is None:
                out[items.cpu()] = _pool(hidden, mask, source.pooling, source.normalize).cpu()
            else:
                below_hidden = caught.pop()
                start = ragged.offsets[items]
                index = start[:, None] + torch.arange(mask.shape[1], device=device)[None, :]
                keep = mask.bool()
                out[index[keep].cpu()] = below_hidden[keep].cpu()
            done += len(chunk)
            bar.at(done)
    if handle is not None:
        handle.remove()
    return out


def _kept(key: str, make: Any, use_cache: bool, about: dict[str, Any]) -> Tensor:
    """The tensor under `key` in the cache folder, made and written if it is not there. `about`: for `cache list`."""
    if not use_cache:
        return make()
    path = cache_dir() / "texts" / f"{key}.safetensors"
    with cache_lock(path):
        clear_leftovers(path)
        if path.exists():
            try:
                return load_checked(path)["x"]
            except (SafetensorError, KeyError, ValueError):
                path.unlink()  # a damaged cache entry is made again
        x: Tensor = make()
        if x.numel() * x.element_size() <= CACHE_BYTES:
            with writing(path) as tmp:
                save_checked({"x": x}, tmp)
            write_about(path, about)
        return x


class TextEncoder(nn.Module):
    """E (B, w) of items (B,). Holds the layers that learn; reads the `TextCache` for the rest."""

    def __init__(
        self, cache: TextCache, top: nn.Module | None, pooling: str, normalize: bool, precision: str = "fp32"
    ) -> None:
        super().__init__()
        self.cache = cache
        self.top = top
        self.pooling, self.normalize, self.precision = pooling, normalize, precision

    def forward(self, items: Tensor) -> Tensor:
        if self.cache.pooled is not None:
            return self.cache.pooled[items]
        rows = self.cache.hidden if self.cache.hidden is not None else self.cache.tokens
        assert rows is not None and self.top is not None
        lengths = (rows.offsets[items + 1] - rows.offsets[items]).cpu().numpy()
        order = np.argsort(lengths, kind="stable")
        parts = [self._chunk(rows, items[torch.from_numpy(c).to(items.device)]) for c in _chunks(lengths, order)]
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
        key = "inputs_embeds" if self.cache.hidden is not None else "input_ids"
        with torch.autocast(values.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.top(**{key: values}, attention_mask=mask).last_hidden_state
        return _pool(hidden.float(), mask, self.pooling, self.normalize)


def build_text_encoder(
    texts: list[str],
    source: EncoderSource,
    train_layers: str,
    max_tokens: int,
    device: torch.device,
    console: Console = SILENT,
    use_cache: bool = True,
    precision: str = "fp32",
) -> TextEncoder:
    """The encoder for a catalogue's `texts`, its frozen part computed (or read from the cache folder).

    Raises FosterError for a `train_layers` the encoder does not have, or an architecture whose top layers do
    not give the same result from kept hidden states as the whole model gives from the tokens.
    """
    # fused attention in bf16 on a CPU is slower than everything else in the layer together
    model, tokenizer = load_backbone(source, "eager" if precision == "bf16" and device.type == "cpu" else None)
    limit = min(
        max_tokens, int(getattr(model.config, "max_position_embeddings", max_tokens)), tokenizer.model_max_length
    )
    tokens = tokenize(texts, tokenizer, limit)
    n, width = len(texts), int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    key = [source.hash, sha256_json(texts), limit]
    about = {"encoder": source.name, "texts": n, "train_layers": train_layers, "max_tokens": limit}
    if train_layers == "none":
        pooled = _kept(
            sha256_json([*key, "pooled"]),
            lambda: _run_frozen(model, tokens, None, source, device, console),
            use_cache,
            about,
        )
        return TextEncoder(TextCache(pooled.to(device), None, None, n, width), None, source.pooling, source.normalize)
    ragged = Ragged(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.offsets)).to(device)
    if train_layers == "all":
        cache = TextCache(None, None, ragged, n, width)
        return TextEncoder(cache, model.to(device), source.pooling, source.normalize, precision)
    if not train_layers.isdecimal() or int(train_layers) < 1:
        raise FosterError(f"--train-layers {train_layers}: not a choice", "use none, all, or a number of top layers")
    top = top_of(model, int(train_layers)).to(device)
    below = len(encoder_layers(model)) - int(train_layers)
    hidden = _kept(
        sha256_json([*key, "hidden", below]),
        lambda: _run_frozen(model, tokens, below, source, device, console),
        use_cache,
        about,
    )
    cache = TextCache(None, Ragged(hidden.to(device), ragged.offsets), None, n, width)
    encoder = TextEncoder(cache, top, source.pooling, source.normalize)
    some = torch.arange(min(n, 4), device=device)
    with torch.no_grad():
        ids, mask = ragged.padded(some)
        whole = _pool(
            model.to(device)(input_ids=ids, attention_mask=mask).last_hidden_state,
            mask,
            source.pooling,
            source.normalize,
        )
        if not torch.allclose(whole, encoder(some), atol=1e-4, rtol=1e-4):
            raise FosterError(
                f"--train-layers {train_layers}: this encoder's top layers cannot run alone",
                "use none or all",
            )
    encoder.precision = precision  # from here on; the comparison above is exact
    return encoder
