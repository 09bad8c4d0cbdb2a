"""Runs every text through the frozen layers once and caches their output on disk.

In: the whole model and the tokens of n texts. Out: pooled vectors (n, w), or the hidden states below a layer, ragged
(total tokens, w). Texts run in chunks of similar length, in the same order in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foster_cli.cache import cache_dir, read_or_make, write_about
from foster_cli.checkpoint import load_checked, save_checked
from foster_cli.errors import FosterError
from foster_cli.files import sha256_json, writing
from foster_cli.models.pretrained import encoder_layers
from foster_cli.models.source import EncoderSource
from foster_cli.models.states import DEVICE_BYTES, ChunkedRows, Ragged
from foster_cli.ops.precision import exact
from foster_cli.session import Session

#: Padded tokens of one chunk of texts, which runs as one batch.
CHUNK_TOKENS = 4096


def pool(hidden: Tensor, mask: Tensor, pooling: str, normalize: bool) -> Tensor:
    """(B, l, w), mask (B, l) -> (B, w). Padding is on the right, so `last` is the last position of the mask."""
    hidden = hidden.float() if hidden.dtype == torch.bfloat16 else hidden
    if pooling == "cls":
        out = hidden[:, 0]
    elif pooling == "last":
        out = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    else:
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        out = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return F.normalize(out, dim=-1) if normalize else out


def chunks_of(lengths: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Split `order`, sorted by length, into chunks whose rows x longest row stays near CHUNK_TOKENS."""
    a = 0
    while a < len(order):
        b = a + 1
        while b < len(order) and (b + 1 - a) * int(lengths[order[b]]) <= CHUNK_TOKENS:
            b += 1
        yield order[a:b]
        a = b


@exact()
@torch.no_grad()
def _below(model: nn.Module, layer: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The input of `layer` and the output of `model`, both (B, l, w), for tokens (B, l)."""
    caught: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        out: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        handle.remove()
    return caught[0], out


@dataclass(frozen=True)
class Frozen:
    """The whole model, the tokens of n texts, and the key of its cached results.

    `key` identifies the results (encoder, texts, token limit). `about` describes them in `foster cache list`.
    """

    model: nn.Module
    tokens: Ragged
    source: EncoderSource
    key: list[Any]
    about: dict[str, Any]
    session: Session

    def pooled_texts(self) -> Tensor:
        """The vectors (n, w) of all texts, on the CPU: computed, or read from the cache folder."""
        if not self.session.use_cache:
            return self._pool_all()
        path = cache_dir() / "texts" / f"{sha256_json([*self.key, 'pooled'])}.safetensors"

        def make() -> Tensor:
            x = self._pool_all()
            with writing(path) as tmp:
                save_checked({"x": x}, tmp)
            write_about(path, self.about)
            return x

        return read_or_make(path, lambda: load_checked(path)["x"], make, self.session.console)

    @exact()
    @torch.no_grad()
    def _pool_all(self) -> Tensor:
        """Run every text through the model once and pool its hidden states: (n, w)."""
        lengths = self.tokens.size.cpu().numpy()
        out = torch.empty(len(lengths), int(self.model.config.hidden_size))  # type: ignore[union-attr, arg-type]
        done = 0
        with self.session.console.progress("reading the item texts", len(out)) as bar:
            for chunk in chunks_of(lengths, np.argsort(lengths, kind="stable")):
                items = torch.from_numpy(chunk)
                ids, mask = self.tokens.padded(items.to(self.session.device))
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                out[items] = pool(hidden, mask, self.source.pooling, self.source.normalize).cpu()
                done += len(chunk)
                bar.at(done)
        return out

    def hidden_states(self, below: int, dtype: torch.dtype) -> Ragged:
        """The inputs of layer `below` for all texts, in `dtype`; on the device if they fit in DEVICE_BYTES."""
        width = int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        lengths = self.tokens.size.cpu().numpy()
        order = np.argsort(lengths, kind="stable")
        chunks = list(chunks_of(lengths, order))
        ends = np.cumsum([lengths[c].sum() for c in chunks]).tolist()
        start = np.empty_like(lengths)
        start[order] = np.cumsum(lengths[order]) - lengths[order]
        rows = ChunkedRows(ends, width, dtype, lambda first: self._states(below, chunks, first))
        name = sha256_json([*self.key, "states", below, str(dtype)])
        path = cache_dir() / "texts" / f"{name}.safetensors"
        console = self.session.console
        values = rows.mapped(path, self.about, console) if self.session.use_cache else rows.in_memory()
        device = self.session.device
        if values.nbytes <= DEVICE_BYTES:
            values = values.to(device)
        return Ragged(values, torch.from_numpy(start).to(device), self.tokens.size)

    def _states(self, below: int, chunks: list[np.ndarray], first: int) -> Iterator[Tensor]:
        """Yield the inputs of layer `below`, (r, w) for each chunk from chunk `first` on, text after text."""
        layer, done = encoder_layers(self.model)[below], sum(map(len, chunks[:first]))
        with self.session.console.progress("reading the item texts", len(self.tokens.size)) as bar:
            for chunk in chunks[first:]:
                ids, mask = self.tokens.padded(torch.from_numpy(chunk).to(self.session.device))
                hidden, _ = _below(self.model, layer, ids, mask)
                yield hidden[mask.bool()]
                done += len(chunk)
                bar.at(done)


def _relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))


def _some(tokens: Ragged) -> Tensor:
    """A few texts (b,), evenly spaced over the catalogue."""
    n = len(tokens.size)
    return torch.arange(0, n, max(1, (n - 1) // 3), device=tokens.size.device)


@exact()
@torch.no_grad()
def check_top(model: nn.Module, top: nn.Module, tokens: Ragged, below: int, what: str, hint: str) -> None:
    """Raise FosterError unless `top` gives from hidden states what `model` gives from tokens, on a few texts."""
    ids, mask = tokens.padded(_some(tokens))
    read, whole = _below(model, encoder_layers(model)[below], ids, mask)
    alone = top(inputs_embeds=read, attention_mask=mask).last_hidden_state
    inside = mask.bool()
    if not _relative_error(alone[inside], whole[inside]) <= (1e-4 if read.dtype == torch.float32 else 1e-3):
        raise FosterError(f"{what}: this encoder's top layers cannot run alone", hint)


@exact()
@torch.no_grad()
def check_hidden(model: nn.Module, tokens: Ragged, hidden: Ragged, below: int, what: str) -> None:
    """Raise FosterError unless `hidden` holds the inputs of layer `below` of `model`, checked on a few texts."""
    some = _some(tokens)
    ids, mask = tokens.padded(some)
    read, _ = _below(model, encoder_layers(model)[below], ids, mask)
    inside = mask.bool()
    # in 16 bits, the rounding in every layer depends on the other texts in the batch
    exactly = read.dtype == hidden.values.dtype == torch.float32
    if not _relative_error(hidden.padded(some)[0][inside], read[inside]) <= (1e-3 if exactly else 0.1):
        raise FosterError(
            f"{what}: the hidden states in {cache_dir() / 'texts'} are not those of this encoder",
            "remove that folder; they are then computed again",
        )
