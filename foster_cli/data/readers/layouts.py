"""The layouts of public data sets whose files name no columns, or hold more than one interaction in a line.

In: the first records of a file, or its header. Out: a `Layout` with the names of its columns, and for some a function
that turns its lines into interactions. `LAYOUTS`, at the end, lists those without a header. Names are those that
`schema.py` recognises. `ORDER` stands for the time where a file has none: its rows are in the order in which they
happened.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foster_cli.data.readers.arrow import flat
from foster_cli.data.schema import ITEM_COLUMNS, LIST_COLUMNS, TIME_COLUMNS, USER_COLUMNS
from foster_cli.errors import FosterError

#: The column of a layout without times: the place of a row among those of its user.
ORDER = "(order)"
#: The genres of MovieLens 100k, in the order of its flags.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
Records = Sequence[Sequence[str]]
Unfold = Callable[[pd.DataFrame], pd.DataFrame]

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?$")
_DECIMAL = re.compile(r"[+-]?\d+\.\d+$")
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?$")
_DATE = re.compile(_ISO.pattern + r"|\d{1,2}[/.]\d{1,2}[/.]\d{4}\b.*$")
_TIME = re.compile(r"\d{9,19}(\.\d+)?$")
_WHEN = re.compile(_TIME.pattern + "|" + _DATE.pattern)
_CTIME = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d \S+ \d{4}$")
_ATOMIC = re.compile(r"[^:]+:(token|token_seq|float|float_seq)$")
_CLICKS = re.compile(r"\S+-[01]( \S+-[01])*$")
_ASIN = re.compile(r"[0-9B][0-9A-Z]{8}[0-9A-Z]$")
_REVIEWER = re.compile(r"A[0-9A-Z]{9,}$")
_FLAG = re.compile(r"[01]$")
_SEX = re.compile(r"[MF]$")
_LIST = re.compile(r"(\[.*)?$")
_SHA = re.compile(r"[0-9a-f]{40}$")
_EVENT = re.compile(r"(pv|buy|cart|fav)$")
_TEXT = re.compile(r"(?![+-]?\d+(\.\d+)?$)")
_ANY = re.compile(r"")


@dataclass(frozen=True)
class Layout:
    """A layout. `name`: shown to the user; `columns`: of the lines; `made`: of the interactions that `unfold` makes of
    them, if they are others: for each file, it gives a function of its lines, block after block. `many`: a line may be
    several interactions; `whole`: all lines must be one block."""

    name: str
    columns: tuple[str, ...]
    unfold: Callable[[], Unfold] | None = None
    made: tuple[str, ...] | None = None
    many: bool = False
    whole: bool = False

    refused: tuple[str, str] | None = None
    """Why such a file is of no use, and what to do."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of its rows."""
        return self.made or self.columns


def refused(first: str) -> FosterError | None:
    """Why a file with this first line is of no use; None for others."""
    if re.fullmatch(r"\d+:", first.strip()):
        what = f"has lines such as {first.strip()} for those below, as Netflix's files of ratings"
        return FosterError(what, "write a line for each interaction: user_id,item_id,timestamp")
    return None


def looks_like_data(cells: Sequence[str]) -> bool:
    """Whether a first line holds values and no names: a cell is a number or a date, or each of several has a digit."""
    if len(cells) > 1 and all(any(c.isdigit() for c in cell) for cell in cells):
        return True
    return any(_NUMBER.match(cell.strip()) or _DATE.match(cell.strip()) for cell in cells)


def atomic_names(cells: Sequence[str]) -> list[str] | None:
    """The names of a header with types, as RecBole writes it (`item_id:token`); None if it is none."""
    if all(_ATOMIC.match(cell.strip()) for cell in cells):
        return [cell.strip().rsplit(":", 1)[0] for cell in cells]
    return None


def layout_of(records: Records, delimiter: str) -> Layout | None:
    """The layout of a file that begins with these records (without a header), as far as one is known: the first of
    `LAYOUTS` whose every column has the form that it must have."""
    width = len(records[0]) if records else 0
    if not records or any(len(record) != width for record in records):
        return None
    for by, forms, layout in LAYOUTS:
        if by in (None, delimiter) and len(forms) == width:
            columns = zip(forms, zip(*records, strict=True), strict=True)
            if all(form.match(cell.strip()) for form, column in columns for cell in column):
                return layout if layout.made or layout.names != _TITLED or _are_titles(records) else None
    return None


def _are_titles(records: Records) -> bool:
    """Whether records are ids, each once, with titles: few of them read like ids or lists of ids."""
    listed = sum(plain_list(record[1]) for record in records)
    return len({record[0] for record in records}) == len(records) and 2 * listed < len(records)


def plain_list(text: str) -> bool:
    """Whether `text` is a list of ids: tokens without blanks, each with a digit in it, no decimal numbers, no dates."""
    tokens = re.split(r"[,\s]+", text.strip())
    return all(any(c.isdigit() for c in t) and not _DECIMAL.match(t) and not _DATE.match(t) for t in tokens)


# --- lines that hold more than one interaction ----------------------------------------------------------------------

_ORDERED = ("user_id", "item_id", ORDER)
_MIND = ("user_id", "item_id", "time", ORDER)


def _by_line(unfold: Unfold) -> Callable[[], Unfold]:
    """Unfolds every line by itself."""
    return lambda: unfold


def _ordered() -> Unfold:
    seen: dict[str, int] = {}

    def unfold(frame: pd.DataFrame) -> pd.DataFrame:
        codes, users = frame["user_id"].factorize()
        names = [str(user) for user in users]
        before = np.array([seen.get(user, 0) for user in names], dtype=np.int64)
        seen.update(zip(names, (before + np.bincount(codes, minlength=len(names))).tolist(), strict=True))
        return frame.assign(**{ORDER: pd.Series(codes).groupby(codes).cumcount().to_numpy() + before[codes]})

    return unfold


def sequences_of(lines: Sequence[str], lists: bool = False) -> pd.DataFrame | None:
    """Interactions of a file with the sequence of a user in each line; None if it is none.

    A line is a user and their items (`17<TAB>6 2 14`, or `17 6 2 14` where every line begins with another token), or
    the items alone; the users are then numbered. The order of the items is the order of the interactions. Many lines
    that all have the same number of tokens are a table, unless `lists` says otherwise.
    """
    named = users_named(lambda: lines, lists)
    return None if named is None else sequence_rows(lines, named, 1)[0]


def users_named(lines: Callable[[], Iterable[str]], lists: bool = False) -> bool | None:
    """Whether the lines of a file with sequences begin with a user; None if they hold none."""
    if not all(plain_list(line) for line in itertools.islice(lines(), 1000) if line.strip()):
        return None
    lengths: Counter[int] = Counter()
    tabs = True
    for line in lines():
        if line.strip():
            lengths[len(_tokens(line))] += 1
            tabs &= "\t" in line
    if max(lengths, default=0) < 3 or (lengths.total() > 5 and len(lengths) == 1 and not lists):
        return None
    return tabs or _distinct(_tokens(line)[0] for line in lines() if line.strip())


def _tokens(line: str) -> list[str]:
    return re.split(r"[,\s]+", line.strip())


def _distinct(values: Iterable[str]) -> bool:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return False
        seen.add(value)
    return True


def sequence_rows(lines: Iterable[str], named: bool, first: int) -> tuple[pd.DataFrame, int]:
    """The interactions of lines, of which the first is that of user `first` if they are not `named`, and the number of
    the user after them."""
    tokens = [_tokens(line) for line in lines if line.strip()]
    users = [row[0] for row in tokens] if named else [str(i) for i in range(first, first + len(tokens))]
    items = [row[1:] if named else row for row in tokens]
    lengths = [len(row) for row in items]
    frame = pd.DataFrame({
        "user_id": pd.Series(np.repeat(np.array(users, dtype=object), lengths), dtype=pd.StringDtype("pyarrow")),
        "item_id": pd.Series([item for row in items for item in row], dtype=pd.StringDtype("pyarrow")),
        ORDER: np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0, np.int64),
    })  # fmt: skip
    return frame, first + len(tokens)


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


def _no_lists(name: str) -> FosterError:
    return FosterError(f"column {name} holds nested objects, not a list of ids", "write a row for each interaction")


def lists_layout(names: Sequence[str]) -> Layout | None:
    """The layout of a table with a header that has the items of a user in one column, in their order, as RecBole's
    `item_id_list`; maybe with the item that follows on them. None for a table with times or without such a column."""

    def one(groups: Sequence[Sequence[str]]) -> str | None:
        return next((name for group in groups for c in group for name in names if name.lower() == c.lower()), None)

    user, listed, item = one(USER_COLUMNS), one((LIST_COLUMNS,)), one(ITEM_COLUMNS)
    if user is None or listed is None or one(TIME_COLUMNS) is not None:
        return None
    if item is not None and not listed.lower().startswith("item_"):
        return None  # such as the number of `items`

    def by_block() -> Unfold:
        first = True

        def next_block(frame: pd.DataFrame) -> pd.DataFrame:
            nonlocal first
            made, first = unfold(frame, first), False
            return made

        return next_block

    def unfold(frame: pd.DataFrame, first: bool) -> pd.DataFrame:
        texts = [re.sub(r"[\[\]'\"]", " ", str(flat(v) or "")).strip() for v in frame[listed]]
        if first and any(re.search(r"\w: ", text) for text in texts[:100]):
            raise _no_lists(listed)
        lists = [re.split(r"[,\s]+", text) if text else [] for text in texts]
        if item is not None:
            lists = [[*mine, str(flat(v) or "")] for mine, v in zip(lists, frame[item], strict=True)]
        lengths = [len(mine) for mine in lists]
        rest = [name for name in names if name not in (listed, item, user)]
        made = frame[[user, *rest]].loc[frame.index.repeat(lengths)].reset_index(drop=True)
        made[item or "item_id"] = pd.Series([i for mine in lists for i in mine], dtype=pd.StringDtype("pyarrow"))
        made[ORDER] = np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0, np.int64)
        return made

    made = (*(name for name in names if name not in (listed, item)), item or "item_id", ORDER)
    what = f"the items of a user in {listed}" + (f", and {item} after them" if item is not None else "")
    return Layout(what, tuple(names), by_block, made, many=True)


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


def _diginetica(frame: pd.DataFrame) -> pd.DataFrame:
    """A session is a user; `timeframe` orders its views."""
    place = pd.to_numeric(frame["timeframe"], errors="coerce").fillna(0).astype(np.int64)
    names = {"sessionId": "user_id", "itemId": "item_id", "eventdate": "date"}
    return frame[list(names)].rename(columns=names).assign(**{ORDER: place})


_OTTO = ("session_id", "item_id", "timestamp", "type")
_OTTO_EVENT = re.compile(r"aid: (\d+), ts: (\d+), type: (\w+)")


def _otto(frame: pd.DataFrame) -> pd.DataFrame:
    """An event in a row. The events of a session are text by now, as `arrow.flat` writes them."""
    events = [_OTTO_EVENT.findall(str(text)) for text in frame["events"]]
    if any(len(found) != str(text).count("aid: ") for found, text in zip(events, frame["events"], strict=True)):
        raise FosterError("column events holds other objects than OTTO's", "write a row for each interaction")
    sessions = frame["session"].loc[frame.index.repeat([len(found) for found in events])].reset_index(drop=True)
    made = pd.DataFrame([event for found in events for event in found], columns=list(_OTTO[1:]), dtype=object)
    return made.astype(pd.StringDtype("pyarrow")).assign(session_id=sessions)[list(_OTTO)]


def header_layout(names: Sequence[str]) -> Layout | None:
    """The layout of a table with a header whose rows are no interactions as they stand."""
    if sorted(names) == ["events", "session"]:
        return Layout("OTTO's events of a session", tuple(names), _by_line(_otto), _OTTO, many=True)
    if list(names) == ["sessionId", "userId", "itemId", "timeframe", "eventdate"]:
        made = ("user_id", "item_id", "date", ORDER)
        return Layout("Diginetica views, a session as a user", tuple(names), _by_line(_diginetica), made)
    return lists_layout(names)


def _lastfm(frame: pd.DataFrame) -> pd.DataFrame:
    """A track is its artist and title: not all have an id."""
    item = frame["artist"] + " / " + frame["title"]
    return frame[["user_id", "timestamp", "title", "artist"]].assign(item_id=item)


# --- the layouts ----------------------------------------------------------------------------------------------------

_TITLED = ("item_id", "title")
_RATED = ("user_id", "item_id", "rating", "timestamp")
#: What separates the fields (None: anything), the form of each column, and the layout. The first that fits is taken.
LAYOUTS: tuple[tuple[str | None, tuple[re.Pattern[str], ...], Layout], ...] = (
    ("\t", (_ANY,) * 6 + (_LIST, _LIST),
     Layout("MIND news", ("news_id", "category", "subcategory", "title", "abstract", "url", "_e", "_f"))),
    ("\t", (_ANY, _ANY, _ANY, _ANY, _CLICKS),
     Layout("MIND behaviors", ("line", "user_id", "time", "history", "shown"), _by_line(_mind), _MIND,
            many=True, whole=True)),
    ("\t", (_NUMBER, _ANY, _DATE, _ANY, _TEXT),
     Layout("MIND behaviors", ("line", "user_id", "time", "history", "shown"),
            refused=("does not say what was clicked, as MIND's test set", "leave it out"))),
    ("|", (_NUMBER,) + (_ANY,) * 4 + (_FLAG,) * len(GENRES),
     Layout("MovieLens 100k items", ("item_id", "title", "released", "_video", "_url", *(f"_{g}" for g in GENRES)),
            _by_line(_genres), ("item_id", "title", "genres"))),
    ("|", (_NUMBER, _NUMBER, _SEX, _TEXT, _ANY),
     Layout("MovieLens 100k users", ("user_id", "age", "gender", "occupation", "zip_code"))),
    ("::", (_NUMBER, _SEX, _NUMBER, _NUMBER, _ANY),
     Layout("MovieLens users", ("user_id", "gender", "age", "occupation", "zip_code"))),
    ("::", (_NUMBER, _ANY, _TEXT), Layout("MovieLens movies", ("item_id", "title", "genres"))),
    ("\t", (_ANY, _ISO, _ANY, _ANY, _ANY, _ANY),
     Layout("Last.fm listening events", ("user_id", "timestamp", "_artist_id", "artist", "_track_id", "title"),
            _by_line(_lastfm), ("user_id", "timestamp", "item_id", "title", "artist"))),
    ("\t", (_ANY, _ISO, _NUMBER, _NUMBER, _ANY),
     Layout("Gowalla check-ins", ("user_id", "timestamp", "latitude", "longitude", "item_id"))),
    ("\t", (_ANY, _ANY, _ANY, _ANY, _NUMBER, _NUMBER, _NUMBER, _CTIME),
     Layout("Foursquare check-ins", ("user_id", "item_id", "category_id", "category", "latitude", "longitude", "offset",
                                     "timestamp"))),
    ("\t", (_ANY, _ANY, _CTIME, _NUMBER),
     Layout("Foursquare check-ins", ("user_id", "item_id", "timestamp", "offset"))),
    ("\t", (_SHA, _ANY, _ANY, _NUMBER), Layout("Last.fm plays", ("user_id", "item_id", "title", "plays"))),
    ("\t", (_ANY, _DECIMAL, _DECIMAL, _ANY, _TEXT),
     Layout("Foursquare places", ("item_id", "latitude", "longitude", "category", "country"))),
    (",", (_NUMBER, _NUMBER, _NUMBER, _EVENT, _TIME),
     Layout("Taobao: user, item, category, behavior, time",
            ("user_id", "item_id", "category_id", "behavior", "timestamp"))),
    (",", (_NUMBER, _ISO, _NUMBER, _ANY),
     Layout("YooChoose clicks: session, time, item, category", ("session_id", "timestamp", "item_id", "category_id"))),
    (",", (_NUMBER, _ISO, _NUMBER, _NUMBER, _NUMBER),
     Layout("YooChoose buys: session, time, item, price, quantity",
            ("session_id", "timestamp", "item_id", "price", "quantity"))),
    (None, (_ASIN, _REVIEWER, _NUMBER, _TIME),
     Layout("item, user, rating, time", ("item_id", "user_id", "rating", "timestamp"))),
    (None, (_ANY, _ANY, _NUMBER, _WHEN), Layout("user, item, rating, time", _RATED)),
    (None, (_ANY, _ANY, _ANY, _WHEN), Layout("user, item, tag, time", ("user_id", "item_id", "tag", "timestamp"))),
    (None, (_ANY, _ANY, _WHEN), Layout("user, item, time", ("user_id", "item_id", "timestamp"))),
    (None, (_NUMBER, _NUMBER), Layout("user and item in a line, in order", ("user_id", "item_id"), _ordered, _ORDERED)),
    (None, (_REVIEWER, _ASIN), Layout("user and item in a line, in order", ("user_id", "item_id"), _ordered, _ORDERED)),
    (None, (_ANY, _ANY), Layout("item and title", _TITLED)),
)  # fmt: skip
