"""The layouts of public data sets whose files name no columns, or hold more than one interaction in a line.

In: the first records of a file. Out: a `Layout` with the names of its columns, and for some a function that turns its
lines into interactions. Names are those that `schema.py` recognises. `order` stands for the time where a file has none:
its rows are in the order in which they happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

#: The column of a layout without times: the place of a row among those of its user.
ORDER = "order"
#: The genres of MovieLens 100k, in the order of its flags.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
Records = Sequence[Sequence[str]]

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?$")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?$|\d{1,2}[/.]\d{1,2}[/.]\d{4}\b.*$")
_TIME = re.compile(r"\d{9,19}(\.\d+)?$")
_ATOMIC = re.compile(r"[^:]+:(token|token_seq|float|float_seq)$")
_CLICKS = re.compile(r"\S+-[01]( \S+-[01])*$")
_ASIN = re.compile(r"B0[0-9A-Z]{8}$|\d{9}[\dX]$")
_REVIEWER = re.compile(r"A[0-9A-Z]{9,}$")


@dataclass(frozen=True)
class Layout:
    """A layout. `name`: shown to the user; `columns`: of the lines; `made`: of the interactions that `unfold` makes of
    them, if they are others."""

    name: str
    columns: tuple[str, ...]
    unfold: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    made: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of its rows."""
        return self.made or self.columns


def looks_like_data(cells: Sequence[str]) -> bool:
    """Whether a first line holds values and no names: one of its cells is a number or a date."""
    return any(_NUMBER.match(cell.strip()) or _DATE.match(cell.strip()) for cell in cells)


def atomic_names(cells: Sequence[str]) -> list[str] | None:
    """The names of a header with types, as RecBole writes it (`item_id:token`); None if it is none."""
    if all(_ATOMIC.match(cell.strip()) for cell in cells):
        return [cell.strip().rsplit(":", 1)[0] for cell in cells]
    return None


def layout_of(records: Records, delimiter: str) -> Layout | None:
    """The layout of a file that begins with these records (without a header), as far as one is known."""
    width = len(records[0])
    if any(len(record) != width for record in records):
        return None

    def every(column: int, form: re.Pattern[str]) -> bool:
        return all(form.match(record[column].strip()) for record in records)

    def plain(*columns: int) -> bool:
        return all(every(column, _NUMBER) for column in columns)

    if delimiter == "\t" and width == 8 and all(r[6][:1] in ("[", "") and r[7][:1] in ("[", "") for r in records):
        return Layout("MIND news", ("news_id", "category", "subcategory", "title", "abstract", "url", "_e", "_f"))
    if delimiter == "\t" and width == 5 and every(4, _CLICKS):
        return Layout("MIND behaviors", ("line", "user_id", "time", "history", "shown"), _mind, _MIND)
    if delimiter == "|" and width == 5 + len(GENRES) and plain(0, *range(5, width)):
        flags = tuple(f"_{genre}" for genre in GENRES)
        names = ("item_id", "title", "released", "_video", "_url", *flags)
        return Layout("MovieLens 100k items", names, _genres, ("item_id", "title", "genres"))
    if delimiter == "::" and width == 3 and plain(0):
        return Layout("MovieLens movies", ("item_id", "title", "genres"))
    if delimiter == "\t" and width == 6 and every(1, _DATE):
        names = ("user_id", "timestamp", "_artist_id", "artist", "_track_id", "title")
        made = ("user_id", "timestamp", "item_id", "title", "artist")
        return Layout("Last.fm listening events", names, _lastfm, made)
    if width == 4 and every(3, _TIME):
        return _four(every, plain)
    if width == 3 and every(2, _TIME):
        return Layout("user, item, time", ("user_id", "item_id", "timestamp"))
    if width == 2 and plain(0, 1):
        return Layout("user and item in a line, in order", ("user_id", "item_id"), _ordered, _ORDERED)
    if width == 2 and not any(_NUMBER.match(record[1].strip()) for record in records):
        if all(len(record[1].split()) > 1 and plain_list(record[1]) for record in records):
            return None  # a user and a list
        return Layout("item and title", ("item_id", "title"))
    return None


def _four(every: Callable[[int, re.Pattern[str]], bool], plain: Callable[..., bool]) -> Layout:
    if every(0, _ASIN) and every(1, _REVIEWER):
        return Layout("item, user, rating, time", ("item_id", "user_id", "rating", "timestamp"))
    if plain(2):
        return Layout("user, item, rating, time", ("user_id", "item_id", "rating", "timestamp"))
    return Layout("user, item, tag, time", ("user_id", "item_id", "tag", "timestamp"))


def plain_list(text: str) -> bool:
    """Whether `text` is a list of ids: tokens without blanks, all numbers or all with a digit in them."""
    return all(any(c.isdigit() for c in token) for token in re.split(r"[,\s]+", text.strip()))


# --- lines that hold more than one interaction ----------------------------------------------------------------------

_ORDERED = ("user_id", "item_id", ORDER)
_MIND = ("user_id", "item_id", "time", ORDER)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{ORDER: frame.groupby("user_id", sort=False).cumcount()})


def sequences_of(lines: Sequence[str]) -> pd.DataFrame | None:
    """Interactions of a file with the sequence of a user in each line; None if it is none.

    A line is a user and their items (`17<TAB>6 2 14`, or `17 6 2 14` where every line begins with another token), or
    the items alone; the users are then numbered. The order of the items is the order of the interactions.
    """
    tokens = [re.split(r"[,\s]+", line.strip()) for line in lines if line.strip()]
    if not tokens or not all(plain_list(line) for line in lines[:1000] if line.strip()):
        return None
    if max(len(row) for row in tokens) < 3:
        return None
    first = [row[0] for row in tokens]
    named = all("\t" in line for line in lines if line.strip()) or len(set(first)) == len(first)
    users = first if named else [str(i) for i in range(1, len(tokens) + 1)]
    items = [row[1:] if named else row for row in tokens]
    lengths = [len(row) for row in items]
    return pd.DataFrame({
        "user_id": pd.Series(np.repeat(np.array(users, dtype=object), lengths), dtype=pd.StringDtype("pyarrow")),
        "item_id": pd.Series([item for row in items for item in row], dtype=pd.StringDtype("pyarrow")),
        ORDER: np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0, np.int64),
    })  # fmt: skip


def _mind(frame: pd.DataFrame) -> pd.DataFrame:
    """The clicks of MIND: those of a user's history in its order, at the time of their first line, then the clicked
    ones among the shown."""
    first = frame.drop_duplicates("user_id")
    longest = frame.assign(n=frame["history"].str.count(" ")).sort_values("n", kind="stable", ascending=False)
    history = longest.drop_duplicates("user_id").set_index("user_id")["history"]
    begin = _earliest(frame).reindex(first["user_id"]).tolist()
    users = first["user_id"].tolist()
    rows: list[tuple[str, str, str, int]] = []
    for user, time in zip(users, begin, strict=True):
        rows += [(user, item, time, i) for i, item in enumerate(str(history[user] or "").split())]
    for user, time, shown in zip(frame["user_id"], frame["time"], frame["shown"], strict=True):
        clicked = [one[:-2] for one in str(shown or "").split() if one.endswith("-1")]
        rows += [(user, item, time, 1_000_000 + i) for i, item in enumerate(clicked)]
    return pd.DataFrame(rows, columns=list(_MIND)).astype(dict.fromkeys(_MIND[:3], pd.StringDtype("pyarrow")))


def _earliest(frame: pd.DataFrame) -> pd.Series:
    """The text of each user's earliest time."""
    from foster_cli.data.times import read_times

    order = read_times(frame["time"]).order
    by = frame[["user_id", "time"]].assign(key=order).sort_values("key", kind="stable")
    return by.drop_duplicates("user_id").set_index("user_id")["time"]


def _genres(frame: pd.DataFrame) -> pd.DataFrame:
    flags = frame[[f"_{genre}" for genre in GENRES]].to_numpy(dtype=object) == "1"
    genres = ["|".join(genre for genre, on in zip(GENRES, row, strict=True) if on) for row in flags]
    column = pd.Series(genres, index=frame.index, dtype=pd.StringDtype("pyarrow"))
    return frame[["item_id", "title"]].assign(genres=column)


def _lastfm(frame: pd.DataFrame) -> pd.DataFrame:
    """A track is its artist and title: not all have an id."""
    item = frame["artist"] + " / " + frame["title"]
    return frame[["user_id", "timestamp", "title", "artist"]].assign(item_id=item)
