"""The layers that do not learn: every text runs through them once, and what they give is kept on the disk.

In: the whole model and the tokens of n texts. Out: pooled vectors (n, w), or the hidden states below a layer, ragged
(total tokens, w). Chunks are texts of like length, in the same order at every run.
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
from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.models.backbone import encoder_layers
from foster_cli.models.source import EncoderSource
from foster_cli.models.states import DEVICE_BYTES, Ragged, kept_states
from foster_cli.ops.precision import exact
from foster_cli.runtime import cache_dir, cache_lock, sha256_json, writing

#: Padded tokens of one chunk of texts that runs at once.
CHUNK_TOKENS = 4096


def pool(hidden: Tensor, mask: Tensor, pooling: str, normalize: bool) -> Tensor:
    """(B, l, w), (B, l) -> (B, w). Padding is behind the text, so `last` is the last position of the mask."""
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
    """`order` cut so that rows x longest row stays near CHUNK_TOKENS (`order` runs by rising length)."""
    a = 0
    while a < len(order):
        b = a + 1
        while b < len(order) and (b + 1 - a) * int(lengths[order[b]]) <= CHUNK_TOKENS:
            b += 1
        yield order[a:b]
        a = b


def pooled_texts(
    model: nn.Module, tokens: Ragged, source: EncoderSource, key: list[Any], device: torch.device, console: Console,
    use_cache: bool, about: dict[str, Any],
) -> Tensor:  # fmt: skip
    """The vectors (n, w) of all texts, on the CPU: computed, or read from the cache folder."""
    return _kept(
        sha256_json([*key, "pooled"]), lambda: _run_frozen(model, tokens, source, device, console), use_cache, about
    )  # fmt: skip


@exact()
@torch.no_grad()
def _run_frozen(
    model: nn.Module, tokens: Ragged, source: EncoderSource, device: torch.device, console: Console
) -> Tensor:  # fmt: skip
    """Every text through `model` once: pooled (n, w)."""
    lengths = tokens.size.cpu().numpy()
    out = torch.empty(len(tokens.size), int(model.config.hidden_size))  # type: ignore[union-attr, arg-type]
    done = 0
    with console.progress("reading the item texts", len(out)) as bar:
        for chunk in chunks_of(lengths, np.argsort(lengths, kind="stable")):
            items = torch.from_numpy(chunk)
            ids, mask = tokens.padded(items.to(device))
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            out[items] = pool(hidden, mask, source.pooling, source.normalize).cpu()
            done += len(chunk)
            bar.at(done)
    return out


@exact()
@torch.no_grad()
def _below(model: nn.Module, layer: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What `layer` reads and what `model` gives (B, l, w) for tokens (B, l)."""
    caught: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        out: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        handle.remove()
    return caught[0], out


def _states(
    model: nn.Module, layer: nn.Module, tokens: Ragged, chunks: list[np.ndarray], first: int, device: torch.device,
    console: Console,
) -> Iterator[Tensor]:  # fmt: skip
    """The hidden states that `layer` reads, (r, w) for each chunk from `first` on, text after text."""
    done = sum(map(len, chunks[:first]))
    with console.progress("reading the item texts", len(tokens.size)) as bar:
        for chunk in chunks[first:]:
            ids, mask = tokens.padded(torch.from_numpy(chunk).to(device))
            hidden, _ = _below(model, layer, ids, mask)
            yield hidden[mask.bool()]
            done += len(chunk)
            bar.at(done)


def hidden_states(
    model: nn.Module, tokens: Ragged, below: int, key: list[Any], dtype: torch.dtype, device: torch.device,
    console: Console, use_cache: bool, about: dict[str, Any],
) -> Ragged:  # fmt: skip
    """The hidden states that layer `below` reads, of all texts, in `dtype`; on `device` where there is room."""
    layer, width = encoder_layers(model)[below], int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    lengths = tokens.size.cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    chunks = list(chunks_of(lengths, order))
    ends = np.cumsum([lengths[c].sum() for c in chunks]).tolist()
    start = np.empty_like(lengths)
    start[order] = np.cumsum(lengths[order]) - lengths[order]
    name = sha256_json([*key, "states", below, str(dtype)])
    path = cache_dir() / "texts" / f"{name}.safetensors"
    values = kept_states(
        path, ends, width, dtype,
        lambda first: _states(model, layer, tokens, chunks, first, device, console), use_cache, console,
    )  # fmt: skip
    if path.exists():
        write_about(path, about)
    if values.nbytes <= DEVICE_BYTES:
        values = values.to(device)
    return Ragged(values, torch.from_numpy(start).to(device), tokens.size)


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
        with writing(path) as tmp:
            save_checked({"x": x}, tmp)
        write_about(path, about)
        return x


def _relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))


def _some(tokens: Ragged) -> Tensor:
    """A few texts (b,) from all over the catalogue."""
    n = len(tokens.size)
    return torch.arange(0, n, max(1, (n - 1) // 3), device=tokens.size.device)


@exact()
@torch.no_grad()
def check_top(model: nn.Module, top: nn.Module, tokens: Ragged, below: int, what: str, hint: str) -> None:
    """FosterError unless `top` gives from hidden states what `model` gives from tokens, on a few texts."""
    ids, mask = tokens.padded(_some(tokens))
    read, whole = _below(model, encoder_layers(model)[below], ids, mask)
    alone = top(inputs_embeds=read, attention_mask=mask).last_hidden_state
    inside = mask.bool()
    if not _relative_error(alone[inside], whole[inside]) <= (1e-4 if read.dtype == torch.float32 else 1e-3):
        raise FosterError(f"{what}: this encoder's top layers cannot run alone", hint)


@exact()
@torch.no_grad()
def check_kept(model: nn.Module, tokens: Ragged, hidden: Ragged, below: int, what: str) -> None:
    """FosterError unless `hidden` is what layer `below` of `model` reads, on a few texts."""
    some = _some(tokens)
    ids, mask = tokens.padded(some)
    read, _ = _below(model, encoder_layers(model)[below], ids, mask)
    inside = mask.bool()
    # with other texts in the batch 16-bit rounding is another, in every layer
    exactly = read.dtype == hidden.values.dtype == torch.float32
    if not _relative_error(hidden.padded(some)[0][inside], read[inside]) <= (1e-3 if exactly else 0.1):
        raise FosterError(
            f"{what}: the hidden states in {cache_dir() / 'texts'} are not those of this encoder",
            "remove that folder; they are then computed again",
        )
