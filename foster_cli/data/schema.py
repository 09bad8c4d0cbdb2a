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

#: The column names that foster recognises, by meaning. A name of an earlier group is preferred to those of later ones;
#: two of the same group are ambiguous. Names are compared as they are, then without case, `_`, `-` and blanks.
Groups = tuple[tuple[str, ...], ...]
USER_COLUMNS: Groups = (
    ("user_id", "reviewerID", "userId", "user"),
    ("customer_id", "visitorid", "member_id", "account_id", "session_id", "uid", "u_id"),
    ("username", "user_name", "reviewer_id", "review_profilename"),
)  # fmt: skip
#: Tables whose user column is not the one that comes first: columns that tell such a table, and its user column.
#: Steam's reviews have a name, and only some of them a `user_id`.
USERS_OF_TABLES = ((("username", "product_id", "page_order"), "username"),)
ITEM_COLUMNS: Groups = (
    ("item_id", "parent_asin", "asin", "movieId", "business_id", "itemId", "item"),
    ("book_id", "product_id", "article_id", "news_id", "video_id", "track_id", "song_id", "artist_id", "game_id",
     "app_id", "recipe_id", "anime_id", "venue_id", "gmap_id", "content_id", "isbn", "sku", "iid", "i_id",
     "beer_beerid"),
)  # fmt: skip
TIME_COLUMNS: Groups = (
    ("timestamp", "unixReviewTime", "unix_timestamp", "utc_timestamp", "time_ms", "timestamp_ms"),
    ("time", "date", "datetime"),
    ("ts", "created_at", "event_time", "t_dat", "date_added", "review_date", "review_time", "time_stamp"),
    ("reviewTime", "date_created", "submitted", "updated_at"),
)  # fmt: skip
TITLE_COLUMNS: Groups = (
    ("title", "name"),
    ("item_title", "item_name", "product_title", "product_name", "prod_name", "book_title", "movie_title", "app_name",
     "track_name", "song_name", "artist_name", "beer_name", "caption"),
)  # fmt: skip
#: The columns of an item's text, in the order in which they are joined.
TEXT_COLUMNS = (
    "title", "name", *TITLE_COLUMNS[1], "text", "description", "abstract", "detail_desc", "brand", "author",
    "book_author", "artist", "genres", "genre", "categories", "category", "venue_category", "features",
    "product_type_name",
)  # fmt: skip
#: Columns with the items of a user, in their order.
LIST_COLUMNS = (
    "item_id_list", "item_ids", "item_list", "item_sequence", "item_seq", "items", "sequence", "history", "movie_ids",
    "asin_list",
)  # fmt: skip
SPLIT_COLUMNS: Groups = (("split",),)


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

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """`user`, `item`, `time` and `split`."""
        return self.user, self.item, self.time, self.split


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
    bad: list[Any] = field(default_factory=list, compare=False)
    """The rows that could not be read (`readers.Bad`); not kept in a prepared file."""
