"""S, the items of a step (3.1): drawn anew at every step, or fixed by k-means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from foster_cli.errors import FosterError
from foster_cli.runtime import sent, stream_seed
from foster_cli.settings import DistillConfig, StudentConfig

#: Draws the subset S (s,) of a step, on the device of V.
Subset = Callable[[torch.Generator], Tensor]


def uniform_subset(n: int, size: int | None, device: torch.device) -> Subset:
    """A fresh uniform sample without replacement at every call (3.1); all items if `size` is None or >= n.

    A draw costs O(size): from a catalogue that is much larger, items are drawn with replacement, and the first `size`
    different ones are kept.
    """
    if size is None or size >= n:
        everything = torch.arange(n, device=device)
        return lambda rng: everything
    count = size
    if n < 4 * size:
        return lambda rng: sent(torch.randperm(n, generator=rng)[:count], device)

    def draw(rng: torch.Generator) -> Tensor:
        found = np.empty(0, np.int64)
        while len(found) < count:
            more = torch.randint(n, (count + count // 4 + 8,), generator=rng).numpy()
            found = pd.unique(np.concatenate([found, more]))  # in the order of their first appearance
        return sent(torch.from_numpy(found[:count]), device)

    return draw


def kmeans_subset(V: Tensor, size: int, seed: int) -> Subset:
    """S is fixed to the (at most `size`) items nearest to `size` k-means centres of V (Table 3's KM)."""
    from sklearn.cluster import MiniBatchKMeans

    X = V.cpu().double().numpy()
    distance = MiniBatchKMeans(size, n_init=3, random_state=seed % 2**31).fit(X).transform(X)
    fixed = torch.from_numpy(np.unique(distance.argmin(axis=0))).to(V.device)
    return lambda rng: fixed


def make_subset(config: DistillConfig, V: Tensor, seed: int, student: StudentConfig | None = None) -> Subset:
    """How S is drawn: anew at every step (with `student`, as many items as it trains on), or fixed by k-means."""
    if config.subset == "kmeans":
        if config.items_per_step is None or config.items_per_step >= len(V):
            raise FosterError("--subset kmeans needs --items-per-step below the catalogue's size", "use --subset fly")
        return kmeans_subset(V, config.items_per_step, stream_seed(seed, "kmeans"))
    return uniform_subset(len(V), (student or config).items_per_step, V.device)
