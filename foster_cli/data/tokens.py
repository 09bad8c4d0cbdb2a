"""Tokenizes texts as ragged int64 ids with offsets, without padding.

In: n texts and a tokenizer. Out: `Tokens` with `ids` (total,) and `offsets` (n+1,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Tokens:
    """Text i is ids[offsets[i] : offsets[i+1]]."""

    ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per text, (n,)."""
        return np.diff(self.offsets)


def tokenize(texts: list[str], tokenizer: Any, max_tokens: int | None, empty: int | None = None) -> Tokens:
    """Tokenize `texts`, each cut to `max_tokens` tokens with special tokens included (None: not cut).

    `empty`: the token given to a text without any (an empty text, if the tokenizer adds no special tokens).
    """
    parts: list[npt.NDArray[np.int64]] = []
    for a in range(0, len(texts), 4096):
        kind = {"truncation": True, "max_length": max_tokens} if max_tokens else {"truncation": False}
        ids = tokenizer(texts[a : a + 4096], return_attention_mask=False, verbose=False, **kind)["input_ids"]
        stand_in = [] if empty is None else [empty]
        parts += [np.asarray(i or stand_in, dtype=np.int64) for i in ids]
    offsets = np.cumsum([0, *map(len, parts)])
    return Tokens(np.concatenate(parts) if parts else np.zeros(0, np.int64), offsets)


def token_counter(load: Callable[[], Any]) -> Callable[[list[str]], npt.NDArray[np.int64]]:
    """A function from texts to their uncut lengths in tokens. It calls `load` for the tokenizer lazily."""

    def count(texts: list[str]) -> npt.NDArray[np.int64]:
        return tokenize(texts, load(), None).lengths

    return count
