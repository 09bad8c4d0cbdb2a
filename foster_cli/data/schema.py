"""The types of a prepared dataset, which all other layers use, and the column names that foster recognises.

`Dataset` = `Catalogue` (n items with texts) + `Interactions` (N rows, sorted by user, then time).
Items are numbered 0…n-1 in the order of the catalogue, users 0…u-1; -1 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

#: The splits in order of time. `Interactions.split` holds the index in this tuple.
SPLITS = ("train", "valid", "test")

#: The column names that foster recognises, by meaning, the preferred ones first.
USER_COLUMNS = ("user_id", "reviewerID", "userId", "user")
ITEM_COLUMNS = ("item_id", "parent_asin", "asin", "movieId", "business_id", "itemId", "item")
TIME_COLUMNS = ("timestamp", "unixReviewTime", "time", "date", "datetime")
TITLE_COLUMNS = ("title", "name")
TEXT_COLUMNS = ("title", "name", "text", "description", "genres", "categories")
SPLIT_COLUMNS = ("split",)


@dataclass(frozen=True)
class Catalogue:
    """The n items. `texts[i]` is what the encoder reads for item i, `titles[i]` what a person reads."""

    ids: list[str]
    titles: list[str]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Interactions:
    """N interactions, sorted by user, then time (ties by hash). All arrays have length N.

    `user`, `item`: int64 indices; `time`: int64 milliseconds (or the table's own order); `split`: int8,
    an index into SPLITS.
    """

    user: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    split: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. `hash` is a sha256 over ids, texts, interactions and split: equal hash, equal data."""

    name: str
    hash: str
    user_ids: list[str]
    catalogue: Catalogue
    interactions: Interactions
    settings: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
