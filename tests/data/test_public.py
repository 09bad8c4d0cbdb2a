"""Public data sets in the layouts in which they are distributed: each test writes the files, with invented content.

A case is a function that writes its files from one generated shop and returns what plain Python knows of them: the rows
and the titles. `check` makes duplicates, k-core, order and split by loops and compares them with `read_raw`.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from expected import Row, check
from faults import said

from foster_cli.data.account import account_lines
from foster_cli.data.prepare import read_raw
from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.settings import PrepareSettings

# Lines of layouts are long.
# ruff: noqa: E501


class Event(NamedTuple):
    """An interaction of the generated shop: numbers of user and item from 1, seconds, stars from 1 to 5."""

    user: int
    item: int
    time: int
    stars: int


class Made(NamedTuple):
    """The files of a case as they are typed, what plain Python knows of them, and the options that are needed."""

    files: Sequence[Path]
    rows: list[Row]
    titles: dict[str, str]
    options: dict[str, Any] = {}  # noqa: RUF012
    by: str = "time"


def _events(users: int = 20, items: int = 15, count: int = 220) -> list[Event]:
    """The shop, in the order of time. Some pairs of user and item occur twice."""
    rng = random.Random(7)
    time, found = 1_262_300_000, []
    for _ in range(count):
        time += rng.randrange(1, 180_000)
        found.append(Event(rng.randrange(1, users + 1), rng.randrange(1, items + 1), time, rng.randrange(1, 6)))
    return found


SHOP = _events()
TITLES = dict(enumerate((
    "Toy Lantern (1995)", "Night Train, The (1996)", '7" Tablet & Case', "Café des Étoiles (1997)", "Don't Look",
    "Harbour, Quiet", "The 39 Steps", "Weird Al: Live!", "Åsa's Garden", "Salt; Pepper", "Mill|Stone", "Red #5",
    "100% Wool", "Two  Blanks", "Owl (2001)",
), 1))  # fmt: skip
USERS = sorted({e.user for e in SHOP})


def shuffled(events: Sequence[Event] = SHOP) -> list[Event]:
    """The shop in another order, as most files have it."""
    return random.Random(1).sample(events, len(events))


def by_user(events: Sequence[Event] = SHOP) -> dict[int, list[Event]]:
    """The events of each user in order."""
    return {user: [e for e in events if e.user == user] for user in USERS}


def lines(path: Path, rows: Iterable[Sequence[Any]], by: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(by.join(map(str, row)) + end for row in rows).encode(encoding))
    return path


def quoted(path: Path, rows: Iterable[Sequence[Any]], by: str = ",", **how: Any) -> Path:
    """Fields with quotes where they are needed."""

    def cell(value: Any) -> str:
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in f'{by}"\n') else text

    return lines(path, ([cell(v) for v in row] for row in rows), by, **how)


def objects(path: Path, rows: Iterable[dict[str, Any]], write: Callable[[Any], str] = json.dumps) -> Path:
    data = "".join(write(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def python2(row: dict[str, Any]) -> str:
    """A dictionary as Python 2 prints it."""

    def one(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(map(one, value)) + "]"
        return "u" + repr(value) if isinstance(value, str) else repr(value)

    return "{" + ", ".join(f"{one(k)}: {one(v)}" for k, v in row.items()) + "}"


def when(time: int, form: str) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime(form)


def day(time: int) -> int:
    return time // 86_400 * 86_400


def asin(i: int) -> str:
    return f"B00{i:03d}QX{i % 10}Z"


def reviewer(u: int) -> str:
    return f"A{u:02d}KX7QZ0PL{u:02d}"


def rows_of(user: Callable[[int], str] = str, item: Callable[[int], str] = str, events: Sequence[Event] = SHOP,
            time: Callable[[int], float] = float) -> list[Row]:  # fmt: skip
    """The rows of the shop with the ids of a layout."""
    return [Row(user(e.user), item(e.item), time(e.time)) for e in events]


def parted(rows: Sequence[Row]) -> list[Row]:
    """The rows with the split by leave-one-out, as benchmarks are cut. Later duplicates are left out."""
    seen: dict[str, dict[str, Row]] = {}
    for row in rows:
        seen.setdefault(row.user, {}).setdefault(row.item, row)
    found = []
    for mine in seen.values():
        kept = list(mine.values())
        found += [row._replace(split=SPLITS[max(0, i - len(kept) + 3)]) for i, row in enumerate(kept)]
    return found


def sequenced(item: Callable[[int], str] = str) -> list[Row]:
    """The rows in the order of users, for layouts without times."""
    return [Row(str(u), item(e.item), 0, n) for u, events in by_user().items() for n, e in enumerate(events)]


CASES: dict[str, Callable[[Path], Made]] = {}


def layout(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
    CASES[make.__name__] = make
    return make


# --- MovieLens ------------------------------------------------------------------------------------------------------


def _u_item(folder: Path) -> tuple[Path, dict[str, str]]:
    titles = {str(i): t.replace("|", "/") for i, t in TITLES.items()}
    rows = []
    for i, title in TITLES.items():
        flags = ["0"] * 19
        flags[i] = flags[1] = "1"
        rows.append([i, title.replace("|", "/"), "01-Jan-1995", "", f"http://us.imdb.com/M/title-exact?{i}", *flags])
    rows[4] = [5, "unknown", "", "", "", "1", *["0"] * 18]
    titles["5"] = "unknown"
    return lines(folder / "u.item", rows, "|", "latin-1"), titles


@layout
def ml100k(folder: Path) -> Made:
    item, titles = _u_item(folder)
    data = lines(folder / "u.data", [(e.user, e.item, e.stars, e.time) for e in shuffled()], "\t")
    return Made([data, item], rows_of(), titles)


@layout
def ml100k_folds(folder: Path) -> Made:
    item, titles = _u_item(folder)
    rows = shuffled()
    base = lines(folder / "u1.base", [(e.user, e.item, e.stars, e.time) for e in rows[:180]], "\t")
    test = lines(folder / "u1.test", [(e.user, e.item, e.stars, e.time) for e in rows[180:]], "\t")
    return Made([base, test, item], rows_of(), titles, {"split_column": "none"})


@layout
def ml1m(folder: Path) -> Made:
    data = lines(folder / "ratings.dat", [(e.user, e.item, e.stars, e.time) for e in shuffled()], "::", "latin-1")
    movies = lines(folder / "movies.dat", [(i, t, "Comedy|Drama") for i, t in TITLES.items()], "::", "latin-1")
    return Made([data, movies], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def ml10m(folder: Path) -> Made:
    data = lines(folder / "ratings.dat", [(e.user, e.item, e.stars - 0.5, e.time) for e in shuffled()], "::")
    movies = lines(folder / "movies.dat", [(i, t, "(no genres listed)") for i, t in TITLES.items()], "::")
    return Made([data, movies], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def ml25m(folder: Path) -> Made:
    head = [("userId", "movieId", "rating", "timestamp")]
    data = quoted(folder / "ratings.csv", [*head, *((e.user, e.item, e.stars - 0.5, e.time) for e in shuffled())])
    movies = quoted(
        folder / "movies.csv", [("movieId", "title", "genres"), *((i, t, "Action|Sci-Fi") for i, t in TITLES.items())]
    )
    return Made([data, movies], rows_of(), {str(i): t for i, t in TITLES.items()})


# --- Amazon ---------------------------------------------------------------------------------------------------------


def _meta14(path: Path, write: Callable[[Any], str] = repr) -> Path:
    return objects(path, (
        {"asin": asin(i), "related": {"also_bought": [asin(1)]}, "title": t, "price": 9.5, "salesRank": {"Beauty": i},
         "imUrl": "http://x/y.jpg", "brand": "Nørd", "categories": [["Beauty", "Hair Care"]]} for i, t in TITLES.items()), write)  # fmt: skip


def _review14(e: Event) -> dict[str, Any]:
    return {"reviewerID": reviewer(e.user), "asin": asin(e.item), "reviewerName": f"N{e.user}", "helpful": [0, 1],
            "reviewText": f"Text {e.time}", "overall": float(e.stars), "summary": f"s {e.time}", "unixReviewTime": day(e.time),
            "reviewTime": f"{when(e.time, '%m')} {int(when(e.time, '%d'))}, {when(e.time, '%Y')}"}  # fmt: skip


AMAZON = {asin(i): t for i, t in TITLES.items()}


@layout
def amazon14_strict(folder: Path) -> Made:
    data = objects(folder / "reviews_Beauty_5.json.gz", map(_review14, shuffled()))
    return Made([data, _meta14(folder / "meta_Beauty.json.gz")], rows_of(reviewer, asin, time=day), AMAZON)


@layout
def amazon14_loose(folder: Path) -> Made:
    data = objects(folder / "reviews_Beauty.json.gz", map(_review14, shuffled()), repr)
    return Made([data, _meta14(folder / "meta_Beauty.json.gz")], rows_of(reviewer, asin, time=day), AMAZON)


@layout
def amazon14_ratings(folder: Path) -> Made:
    data = lines(
        folder / "ratings_Beauty.csv",
        [(reviewer(e.user), asin(e.item), float(e.stars), day(e.time)) for e in shuffled()],
        ",",
    )
    return Made([data, _meta14(folder / "meta_Beauty.json.gz")], rows_of(reviewer, asin, time=day), AMAZON)


def _isbn(i: int) -> str:
    return f"00{i:02d}38167{'X' if i % 3 == 0 else i % 10}" if i < 12 else asin(i)


@layout
def amazon14_ratings_of_books(folder: Path) -> Made:
    data = lines(
        folder / "ratings_Books.csv",
        [(reviewer(e.user), _isbn(e.item), float(e.stars), day(e.time)) for e in shuffled()],
        ",",
    )
    return Made([data], rows_of(reviewer, _isbn, time=day), {})


@layout
def amazon18(folder: Path) -> Made:
    data = objects(folder / "Video_Games_5.json.gz", (
        {"overall": float(e.stars), "verified": True, "reviewTime": when(e.time, "%m %d, %Y"), "reviewerID": reviewer(e.user),
         "asin": asin(e.item), **({"style": {"Format:": " Video Game"}} if e.stars > 3 else {}), "reviewerName": "x",
         "reviewText": f"t {e.time}", "summary": f"s {e.time}", "unixReviewTime": day(e.time)} for e in shuffled()))  # fmt: skip
    meta = objects(folder / "meta_Video_Games.json.gz", (
        {"category": ["Video Games", "PC", "</span></span></span>"], "tech1": "", "description": [f"<b>Fine</b> &amp; new {i}<br>", ""],
         "fit": "", "title": t.replace("&", "&amp;"), "also_buy": [], "tech2": "", "brand": "Acme", "feature": ["one", "two"],
         "rank": [">#67,612 in Video Games (See Top 100)"], "also_view": [], "details": {"ASIN:": asin(i)}, "main_cat": "Video Games",
         "similar_item": "", "date": "", "price": "$5.49", "asin": asin(i), "imageURL": [], "imageURLHighRes": []}
        for i, t in TITLES.items()))  # fmt: skip
    return Made([data, meta], rows_of(reviewer, asin, time=day), AMAZON)


@layout
def amazon18_ratings(folder: Path) -> Made:
    events = sorted(SHOP, key=lambda e: _isbn(e.item))
    data = lines(
        folder / "Video_Games.csv",
        [(_isbn(e.item), reviewer(e.user), float(e.stars), day(e.time)) for e in events],
        ",",
    )
    return Made([data], rows_of(reviewer, _isbn, time=day), {})


def _user23(u: int) -> str:
    return f"AE{u:02d}QXSKZ2LPGTHU5WD7YHQV3AB"


def _meta23() -> list[dict[str, Any]]:
    return [
        {"main_category": "Video Games", "title": t, "average_rating": 4.5, "rating_number": i, "features": ["Big", "Fast"],
         "description": [], "price": 9.5 if i % 2 else None, "images": [{"thumb": "https://x/y.jpg", "large": None, "variant": "MAIN"}],
         "videos": [], "store": "Acme", "categories": ["Games", "PC"], "details": {"Package": "1 x 2"}, "parent_asin": asin(i),
         "bought_together": None} for i, t in TITLES.items()
    ]  # fmt: skip


def _review23(e: Event) -> dict[str, Any]:
    return {"rating": float(e.stars), "title": f"Five {e.time}", "text": f"Good<br />{e.time}", "images": [],
            "asin": f"B01{e.item:03d}CHILD", "parent_asin": asin(e.item), "user_id": _user23(e.user),
            "timestamp": e.time * 1000 + 7, "helpful_vote": 0, "verified_purchase": e.stars > 2}  # fmt: skip


def _ms23(t: int) -> float:
    return t + 0.007


@layout
def amazon23(folder: Path) -> Made:
    data = objects(folder / "Video_Games.jsonl", map(_review23, shuffled()))
    meta = objects(folder / "meta_Video_Games.jsonl", _meta23())
    return Made([data, meta], rows_of(_user23, asin, time=_ms23), AMAZON)


@layout
def amazon23_hub(folder: Path) -> Made:
    pq.write_table(pa.Table.from_pylist([_review23(e) for e in shuffled()]), folder / "full-00000-of-00001.parquet")
    (folder / "raw_meta").mkdir()
    pq.write_table(pa.Table.from_pylist(_meta23()), folder / "raw_meta" / "full-00000-of-00001.parquet")
    files = [folder / "full-00000-of-00001.parquet", folder / "raw_meta"]
    return Made(files, rows_of(_user23, asin, time=_ms23), AMAZON)


def _bench(folder: Path, history: bool) -> Made:
    rows = parted([Row(_user23(e.user), asin(e.item), e.time) for e in SHOP])
    seen: dict[str, list[str]] = {}
    made: dict[str, list[list[Any]]] = {split: [["user_id", "parent_asin", "rating", "timestamp"]] for split in SPLITS}
    for row in rows:
        mine = seen.setdefault(row.user, [])
        made[row.split].append([row.user, row.item, 5.0, int(row.time) * 1000, *([" ".join(mine)] if history else [])])
        mine.append(row.item)
    if history:
        for part in made.values():
            part[0].append("history")
    files = [quoted(folder / f"Video_Games.{split}.csv", made[split]) for split in SPLITS]
    return Made([*files, objects(folder / "meta_Video_Games.jsonl", _meta23())], rows, AMAZON)


@layout
def amazon23_last_out(folder: Path) -> Made:
    return _bench(folder, False)


@layout
def amazon23_last_out_history(folder: Path) -> Made:
    return _bench(folder, True)


@layout
def amazon23_rating_only(folder: Path) -> Made:
    rows = [(_user23(e.user), asin(e.item), float(e.stars), e.time * 1000) for e in shuffled()]
    data = quoted(
        folder / "Video_Games.csv.gz".replace(".gz", ""), [("user_id", "parent_asin", "rating", "timestamp"), *rows]
    )
    return Made([data], rows_of(_user23, asin), {})


# --- RecBole --------------------------------------------------------------------------------------------------------


@layout
def recbole(folder: Path) -> Made:
    head = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    inter = lines(folder / "ml-100k.inter", [head, *((e.user, e.item, e.stars, e.time) for e in shuffled())], "\t")
    head = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    item = lines(folder / "ml-100k.item", [head, *((i, t, 1995, "Comedy Drama") for i, t in TITLES.items())], "\t")
    return Made([inter, item], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def recbole_benchmark(folder: Path) -> Made:
    rows = parted(rows_of())
    head = ("user_id:token", "item_id:token", "timestamp:float")
    files = [
        lines(folder / f"shop.{s}.inter", [head, *((r.user, r.item, r.time) for r in rows if r.split == s)], "\t")
        for s in SPLITS
    ]
    item = lines(folder / "shop.item", [("item_id:token", "title:token_seq"), *TITLES.items()], "\t")
    return Made([*files, item], rows, {str(i): t for i, t in TITLES.items()})


@layout
def recbole_item_lists(folder: Path) -> Made:
    """`x.train.inter` of UniSRec and S3Rec: a target, and the items before it."""
    rows = parted(rows_of())
    head = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    made: dict[str, list[Sequence[Any]]] = {split: [head] for split in SPLITS}
    read = []
    for user in dict.fromkeys(row.user for row in rows):
        mine = [row for row in rows if row.user == user]
        for n, row in enumerate(mine):
            if n:
                made[row.split].append((user, " ".join(r.item for r in mine[:n]), row.item))
        read += [row._replace(time=0, within=n) for n, row in enumerate(mine)]
    files = [lines(folder / f"shop.{split}.inter", made[split], "\t") for split in SPLITS]
    item = lines(folder / "shop.item", [("item_id:token", "title:token_seq"), *TITLES.items()], "\t")
    return Made([*files, item], read, {str(i): t for i, t in TITLES.items()}, by="lists")


@layout
def split_as_numbers(folder: Path) -> Made:
    rows = parted(rows_of())
    data = [(r.user, r.item, int(r.time), SPLITS.index(r.split), TITLES[int(r.item)]) for r in rows]
    file = quoted(folder / "inter.csv", [("user_id", "item_id", "timestamp", "split", "title"), *data])
    return Made([file], rows, {str(i): t for i, t in TITLES.items()})


# --- places, books, news, games, clothes, music ----------------------------------------------------------------------


def _yelp(folder: Path) -> list[Path]:
    review = objects(folder / "yelp_academic_dataset_review.json", (
        {"review_id": f"r{n}", "user_id": f"u-{e.user}_x", "business_id": f"b-{e.item}_x", "stars": float(e.stars), "useful": 0,
         "funny": 0, "cool": 0, "text": f"Nice {e.time}", "date": when(e.time, "%Y-%m-%d %H:%M:%S")} for n, e in enumerate(shuffled())))  # fmt: skip
    business = objects(folder / "yelp_academic_dataset_business.json", (
        {"business_id": f"b-{i}_x", "name": t, "address": "1 Main St", "city": "Nashville" if i % 2 else "Tampa", "state": "TN",
         "postal_code": "1", "latitude": 1.5, "longitude": 2.5, "stars": 4.5, "review_count": 9, "is_open": 1,
         "attributes": {"ByAppointmentOnly": "True"} if i % 3 else None, "categories": "Food, Bars", "hours": None}
        for i, t in TITLES.items()))  # fmt: skip
    return [review, business]


@layout
def yelp(folder: Path) -> Made:
    rows = rows_of("u-{}_x".format, "b-{}_x".format)
    return Made(_yelp(folder), rows, {f"b-{i}_x": t for i, t in TITLES.items()})


def _goodreads_books(folder: Path) -> Path:
    return objects(folder / "goodreads_books_poetry.json.gz", (
        {"isbn": "", "text_reviews_count": "1", "series": [], "country_code": "US", "language_code": "", "asin": "",
         "popular_shelves": [{"count": "2", "name": "to-read"}], "is_ebook": "false", "average_rating": "3.83", "similar_books": [],
         "description": f"About {i}", "format": "", "link": "http://x", "authors": [{"author_id": "7", "role": ""}], "publisher": "P",
         "num_pages": "", "isbn13": "", "publication_year": "1982", "url": "http://x", "image_url": "http://x", "book_id": str(70_000 + i),
         "ratings_count": "3", "work_id": str(5 + i), "title": t, "title_without_series": t} for i, t in TITLES.items()))  # fmt: skip


BOOKS = {str(70_000 + i): t for i, t in TITLES.items()}


def _hex(u: int) -> str:
    return f"{u * 7919:032x}"


def _book(i: int) -> str:
    return str(70_000 + i)


@layout
def goodreads(folder: Path) -> Made:
    form = "%a %b %d %H:%M:%S -0800 %Y"
    data = objects(folder / "goodreads_interactions_poetry.json.gz", (
        {"user_id": _hex(e.user), "book_id": _book(e.item), "review_id": f"{n:032x}", "is_read": True, "rating": e.stars,
         "review_text_incomplete": "", "date_added": when(e.time - 8 * 3600, form), "date_updated": when(e.time - 8 * 3600, form),
         "read_at": "", "started_at": ""} for n, e in enumerate(shuffled())))  # fmt: skip
    return Made([data, _goodreads_books(folder)], rows_of(_hex, _book), BOOKS)


@layout
def goodreads_csv_with_map(folder: Path) -> Made:
    """Its ids are numbers of their own, which `book_id_map.csv` gives."""
    rows = [(u, e.item + 30, 1, e.stars, 0) for u, events in by_user().items() for e in events]
    data = quoted(
        folder / "goodreads_interactions.csv", [("user_id", "book_id", "is_read", "rating", "is_reviewed"), *rows]
    )
    table = quoted(folder / "book_id_map.csv", [("book_id_csv", "book_id"), *((i + 30, _book(i)) for i in TITLES)])
    return Made(
        [data, table, _goodreads_books(folder)], sequenced(_book), BOOKS, {"time_column": "none"}, "leave-one-out"
    )


def _news(i: int) -> str:
    return f"N{10_000 + i}"


def _mind_news(path: Path) -> Path:
    entity = '[{"Label": "X", "Type": "G", "WikidataId": "Q1", "Confidence": 1.0, "OccurrenceOffsets": [0], "SurfaceForms": ["X"]}]'
    return lines(path, (
        (_news(i), "news", "newsworld", t, "" if i % 4 == 0 else f"Abstract {i}", "https://x/y.html", "[]" if i % 2 else entity, "" if i == 3 else "[]")
        for i, t in TITLES.items()), "\t")  # fmt: skip


def _behaviors(path: Path, events: Sequence[Event], histories: dict[int, list[Event]]) -> Path:
    form = "%m/%d/%Y %I:%M:%S %p"
    return lines(path, (
        (n, f"U{e.user}", when(e.time, form).lstrip("0"), " ".join(_news(h.item) for h in histories.get(e.user, [])),
         f"N99-0 {_news(e.item)}-1 N98-0") for n, e in enumerate(events, 1)), "\t")  # fmt: skip


def _mind_rows(events: Sequence[Event], histories: dict[int, list[Event]]) -> list[Row]:
    begin: dict[int, int] = {}
    for e in sorted(events, key=lambda e: e.time):
        begin.setdefault(e.user, e.time)
    old = [
        Row(f"U{u}", _news(h.item), begin[u], n)
        for u, mine in histories.items()
        if u in begin
        for n, h in enumerate(mine)
    ]
    return old + [Row(f"U{e.user}", _news(e.item), e.time, 1000) for e in events]


@layout
def mind(folder: Path) -> Made:
    histories = {u: mine for u, mine in by_user(SHOP[:100]).items() if u % 3}
    data = _behaviors(folder / "behaviors.tsv", shuffled(SHOP[100:]), histories)
    return Made(
        [data, _mind_news(folder / "news.tsv")],
        _mind_rows(SHOP[100:], histories),
        {_news(i): t for i, t in TITLES.items()},
    )


@layout
def mind_train_and_dev(folder: Path) -> Made:
    """Both parts, each with its news."""
    histories = {u: mine for u, mine in by_user(SHOP[:100]).items() if u % 3}
    files = []
    for name, events in (("MINDsmall_train", SHOP[100:180]), ("MINDsmall_dev", SHOP[180:])):
        files.append(_behaviors(folder / name / "behaviors.tsv", shuffled(events), histories))
        files.append(_mind_news(folder / name / "news.tsv"))
    rows = _mind_rows(SHOP[100:180], histories) + _mind_rows(SHOP[180:], histories)
    return Made(files, rows, {_news(i): t for i, t in TITLES.items()}, {"split_column": "none"})


@layout
def steam(folder: Path) -> Made:
    data = objects(folder / "steam_reviews.json.gz", (
        {"username": f"Chaos {e.user}", "hours": 0.5, "products": 41, "product_id": str(700_000 + e.item), "page_order": 0,
         "date": when(e.time, "%Y-%m-%d"), "text": f"It's \"ok\" {e.time}", "early_access": False, "page": 1,
         **({"user_id": f"7656119{e.user}"} if e.user % 2 else {}), **({"compensation": "Product received for free"} if e.stars == 1 else {})}
        for e in shuffled()), python2)  # fmt: skip
    games = objects(folder / "steam_games.json.gz", (
        {"publisher": "Kotoshiro", "genres": ["Action", "Indie"], "app_name": t, "title": t, "url": "http://x", "release_date": "2018-01-04",
         "tags": ["Strategy", "Action"], "discount_price": 4.49, "reviews_url": "http://x", "specs": ["Single-player"], "price": 4.99,
         "early_access": False, "id": str(700_000 + i), "developer": "Kotoshiro"} for i, t in TITLES.items()), python2)  # fmt: skip
    rows = rows_of("Chaos {}".format, lambda i: str(700_000 + i), time=day)
    return Made([data, games], rows, {str(700_000 + i): t for i, t in TITLES.items()})


@layout
def hm(folder: Path) -> Made:
    def customer(u: int) -> str:
        return f"{u:064x}"

    def article(i: int) -> str:
        return f"0{663_713_000 + i}"

    head = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
    data = quoted(folder / "transactions_train.csv", [head, *(
        (when(e.time, "%Y-%m-%d"), customer(e.user), article(e.item), "0.050830508474576264", 2) for e in SHOP)])  # fmt: skip
    head = ("article_id", "product_code", "prod_name", "product_type_no", "product_type_name", "product_group_name",
            "graphical_appearance_no", "colour_group_name", "department_name", "index_code", "garment_group_name", "detail_desc")  # fmt: skip
    articles = quoted(folder / "articles.csv", [head, *(
        (article(i), f"0{i}", t, 253, "Vest top", "Garment Upper body", 1010016, "Black", "Jersey", "A", "Jersey Basic",
         "" if i == 2 else "Top, narrow straps") for i, t in TITLES.items())])  # fmt: skip
    return Made([data, articles], rows_of(customer, article, time=day), {article(i): t for i, t in TITLES.items()})


@layout
def lastfm1k(folder: Path) -> Made:
    data = lines(folder / "userid-timestamp-artid-artname-traid-traname.tsv", (
        (f"user_{e.user:06d}", when(e.time, "%Y-%m-%dT%H:%M:%SZ"), "" if e.item == 2 else f"a{e.item}-b", "Deep Dish",
         f"t{e.item}-c" if e.item % 2 else "", TITLES[e.item]) for e in reversed(SHOP)), "\t")  # fmt: skip
    rows = rows_of("user_{:06d}".format, lambda i: " ".join(f"Deep Dish / {TITLES[i]}".split(" ")))
    return Made([data], rows, {f"Deep Dish / {t}": t for t in TITLES.values()})


@layout
def hetrec_lastfm(folder: Path) -> Made:
    data = lines(folder / "user_taggedartists-timestamps.dat", [
        ("userID", "artistID", "tagID", "timestamp"), *((e.user, e.item, 13, e.time * 1000) for e in shuffled())], "\t", end="\r\n")  # fmt: skip
    artists = lines(folder / "artists.dat", [
        ("id", "name", "url", "pictureURL"), *((i, t, f"http://www.last.fm/music/{i}", "" if i == 4 else "http://x/1.jpg") for i, t in TITLES.items())], "\t", end="\r\n")  # fmt: skip
    return Made([data, artists], rows_of(), {str(i): t for i, t in TITLES.items()})


def _book_crossing(folder: Path) -> list[Path]:
    def row(*cells: Any) -> str:
        return ";".join('"' + str(c).replace('"', '\\"') + '"' for c in cells)

    data = [
        row("User-ID", "ISBN", "Book-Rating"),
        *(row(276_000 + u, f"03454510{e.item:02d}", e.stars) for u, ev in by_user().items() for e in ev),
    ]
    books = [row("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher", "Image-URL-S", "Image-URL-M", "Image-URL-L"),
             *(row(f"03454510{i:02d}", t.replace("&", "&amp;"), "Carlo D'Este", 1991, "Pub", "http://s.jpg", "http://m.jpg", "http://l.jpg")
               for i, t in TITLES.items())]  # fmt: skip
    return [lines(folder / "BX-Book-Ratings.csv", [[line] for line in data], "", "latin-1", "\r\n"),
            lines(folder / "BX-Books.csv", [[line] for line in books], "", "latin-1", "\r\n")]  # fmt: skip


@layout
def book_crossing(folder: Path) -> Made:
    rows = [row._replace(user=str(276_000 + int(row.user))) for row in sequenced("03454510{:02d}".format)]
    return Made(
        _book_crossing(folder),
        rows,
        {f"03454510{i:02d}": t for i, t in TITLES.items()},
        {"time_column": "none"},
        "leave-one-out",
    )


# --- clicks and check-ins ---------------------------------------------------------------------------------------------


@layout
def retailrocket(folder: Path) -> Made:
    rows = [(e.time * 1000 + 117, 257_000 + e.user, ("view", "view", "addtocart", "transaction", "view")[e.stars - 1], 355_900 + e.item,
             "5216" if e.stars == 4 else "") for e in shuffled()]  # fmt: skip
    data = quoted(folder / "events.csv", [("timestamp", "visitorid", "event", "itemid", "transactionid"), *rows])
    kept = [e for e in SHOP if e.stars in (1, 2, 5)]
    return Made(
        [data],
        rows_of(lambda u: str(257_000 + u), lambda i: str(355_900 + i), kept, lambda t: t + 0.117),
        {},
        {"where": ("event=view",)},
    )


@layout
def gowalla(folder: Path) -> Made:
    data = lines(folder / "loc-gowalla_totalCheckins.txt", (
        (e.user, when(e.time, "%Y-%m-%dT%H:%M:%SZ"), "30.2359091167", "-97.7951395833", 22_800 + e.item) for e in reversed(SHOP)), "\t")  # fmt: skip
    return Made([data], rows_of(item=lambda i: str(22_800 + i)), {})


def _venue(i: int) -> str:
    return f"49bbd6c0f964a520f45310{i:02d}"


@layout
def foursquare(folder: Path) -> Made:
    data = lines(folder / "dataset_TSMC2014_NYC.txt", (
        (e.user, _venue(e.item), f"4bf58dd8d48988d1279517{e.item}", TITLES[e.item].replace("|", "/"), "40.719810375488535", "-74.00258103213994", -240,
         when(e.time, "%a %b %d %H:%M:%S +0000 %Y")) for e in SHOP), "\t", "latin-1")  # fmt: skip
    return Made([data], rows_of(item=_venue), {_venue(i): t.replace("|", "/") for i, t in TITLES.items()})


@layout
def foursquare_with_header(folder: Path) -> Made:
    head = (
        "userId",
        "venueId",
        "venueCategoryId",
        "venueCategory",
        "latitude",
        "longitude",
        "timezoneOffset",
        "utcTimestamp",
    )
    data = quoted(folder / "dataset_TSMC2014_TKY.csv", [head, *(
        (e.user, _venue(e.item), "4bf58dd8d48988d127951735", TITLES[e.item].replace("|", "/"), "35.7", "139.6", 540, when(e.time, "%a %b %d %H:%M:%S +0000 %Y"))
        for e in SHOP)])  # fmt: skip
    return Made([data], rows_of(item=_venue), {_venue(i): t.replace("|", "/") for i, t in TITLES.items()})


@layout
def taobao(folder: Path) -> Made:
    data = lines(folder / "UserBehavior.csv", (
        (e.user, 2_268_000 + e.item, 2_520_377, ("pv", "buy", "cart", "fav", "pv")[e.stars - 1], e.time) for u in by_user().values() for e in u), ",")  # fmt: skip
    return Made([data], rows_of(item=lambda i: str(2_268_000 + i)), {})


@layout
def diginetica(folder: Path) -> Made:
    """A session is the user; the place within the day is the time frame."""
    head = ("sessionId", "userId", "itemId", "timeframe", "eventdate")
    data = lines(folder / "train-item-views.csv", [head, *(
        (e.user, "NULL" if e.user % 3 else 90 + e.user, 81_000 + e.item, e.time % 86_400 * 1000, when(e.time, "%Y-%m-%d")) for e in shuffled())], ";")  # fmt: skip
    rows = [Row(str(e.user), str(81_000 + e.item), day(e.time), e.time % 86_400) for e in SHOP]
    return Made([data], rows, {})


@layout
def yoochoose(folder: Path) -> Made:
    data = lines(folder / "yoochoose-clicks.dat", (
        (e.user, when(e.time, "%Y-%m-%dT%H:%M:%S.277Z"), 214_536_500 + e.item, ("0", "S", "12")[e.stars % 3]) for u in by_user().values() for e in u), ",")  # fmt: skip
    return Made([data], rows_of(item=lambda i: str(214_536_500 + i), time=lambda t: t + 0.277), {})


@layout
def douban(folder: Path) -> Made:
    head = ("user_id", "movie_id", "rating", "labels", "comment", "time", "likes", "ID")
    data = lines(folder / "moviereviews_cleaned.txt", [head, *(
        (e.user, 5_000 + e.item, e.stars, "剧情|喜剧", f"好看 {e.time}", when(e.time, "%Y-%m-%d"), 0, n) for n, e in enumerate(shuffled()))], "\t")  # fmt: skip
    head = ("UID", "name", "director", "summary", "writer", "country", "date", "language")
    movies = lines(folder / "movies_cleaned.txt", [head, *(
        (5_000 + i, f"电影 {t}", "导演", f"故事 {i}", "编剧", "中国", "1994-09-10", "汉语") for i, t in TITLES.items())], "\t")  # fmt: skip
    rows = rows_of(item=lambda i: str(5_000 + i), time=day)
    return Made(
        [data, movies],
        rows,
        {str(5_000 + i): f"电影 {t}" for i, t in TITLES.items()},
        {"item_key": "UID", "text_columns": ("name",)},
    )


@layout
def kuairec(folder: Path) -> Made:
    head = ("user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp", "watch_ratio")
    data = quoted(folder / "big_matrix.csv", [head, *(
        (e.user, e.item, 13838, 10867, when(e.time + 8 * 3600, "%Y-%m-%d %H:%M:%S.378"), when(e.time + 8 * 3600, "%Y%m%d"), f"{e.time}.378", 1.27)
        for e in shuffled())])  # fmt: skip
    head = ("video_id", "manual_cover_text", "caption", "topic_tag", "first_level_category_id", "first_level_category_name",
            "second_level_category_id", "second_level_category_name", "third_level_category_id", "third_level_category_name")  # fmt: skip
    captions = quoted(folder / "kuairec_caption_category.csv", [head, *(
        (i, "UNKNOWN", f"{t} #日常", "['日常']", 8, "颜值", 673, "颜值随拍", -124, "UNKNOWN") for i, t in TITLES.items())])  # fmt: skip
    return Made([data, captions], rows_of(time=lambda t: t + 0.378), {str(i): f"{t} #日常" for i, t in TITLES.items()})


@layout
def microlens(folder: Path) -> Made:
    data = quoted(
        folder / "MicroLens-100k_pairs.csv",
        [("user", "item", "timestamp"), *((e.user, e.item, e.time * 1000) for e in shuffled())],
    )
    titles = quoted(folder / "MicroLens-100k_title_en.csv", [("item", "title"), *TITLES.items()])
    return Made([data, titles], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def microlens_sequences(folder: Path) -> Made:
    data = lines(
        folder / "MicroLens-50k_pairs.tsv",
        [(u, " ".join(str(e.item) for e in mine)) for u, mine in by_user().items()],
        "\t",
    )
    titles = quoted(folder / "MicroLens-50k_titles.csv", TITLES.items())
    return Made([data, titles], sequenced(), {str(i): t for i, t in TITLES.items()}, by="leave-one-out")


@layout
def sasrec(folder: Path) -> Made:
    data = lines(folder / "Beauty.txt", [(u, e.item) for u, mine in by_user().items() for e in mine], " ")
    return Made([data], sequenced(), {}, by="leave-one-out")


@layout
def sasrec_commas(folder: Path) -> Made:
    data = lines(folder / "Beauty.csv", [(u, e.item) for u, mine in by_user().items() for e in mine], ",")
    return Made([data], sequenced(), {}, by="leave-one-out")


@layout
def sasrec_of_asins(folder: Path) -> Made:
    data = lines(
        folder / "Beauty.txt", [(reviewer(u), asin(e.item)) for u, mine in by_user().items() for e in mine], " "
    )
    rows = [row._replace(user=reviewer(int(row.user))) for row in sequenced(asin)]
    return Made([data], rows, {}, by="leave-one-out")


@layout
def s3rec_of_asins(folder: Path) -> Made:
    data = lines(
        folder / "Beauty.txt", [(reviewer(u), *(asin(e.item) for e in mine)) for u, mine in by_user().items()], " "
    )
    rows = [row._replace(user=reviewer(int(row.user))) for row in sequenced(asin)]
    return Made([data], rows, {}, by="leave-one-out")


@layout
def lastfm360k(folder: Path) -> Made:
    def sha(u: int) -> str:
        return f"{u:040x}"

    data = lines(folder / "usersha1-artmbid-artname-plays.tsv", [
        (sha(u), f"3bd73256-3905-4f3a-97e2-8b341527f8{e.item:02d}", TITLES[e.item], e.stars) for u, mine in by_user().items() for e in mine], "\t")  # fmt: skip
    rows = [
        row._replace(user=sha(int(row.user))) for row in sequenced("3bd73256-3905-4f3a-97e2-8b341527f8{:02d}".format)
    ]
    titles = {f"3bd73256-3905-4f3a-97e2-8b341527f8{i:02d}": t for i, t in TITLES.items()}
    return Made([data], rows, titles, {"time_column": "none"}, "leave-one-out")


@layout
def lightgcn(folder: Path) -> Made:
    """`train.txt` and `test.txt` with a user and items in each line; without validation, they are one sequence."""
    cut = {u: (mine[: (n := len(mine) * 2 // 3)], mine[n:]) for u, mine in by_user().items()}
    files = [
        lines(folder / name, [(u, *(e.item for e in parts[n])) for u, parts in cut.items()], " ")
        for n, name in enumerate(("train.txt", "test.txt"))
    ]
    return Made(files, sequenced(), {}, {"split_column": "none"}, "leave-one-out")


@layout
def dates_without_header(folder: Path) -> Made:
    data = lines(folder / "log.tsv", [(e.user, e.item, when(e.time, "%Y-%m-%d %H:%M:%S")) for e in shuffled()], "\t")
    return Made([data], rows_of(), {})


@layout
def parts_in_order(folder: Path) -> Made:
    rows = [(u, e.item) for u, mine in by_user().items() for e in mine]
    (folder / "parts").mkdir()
    for n in range(3):
        lines(folder / "parts" / f"part-{n}.txt", rows[n * 80 : (n + 1) * 80], " ")
    return Made([folder / "parts"], sequenced(), {}, by="leave-one-out")


@layout
def users_and_lists_with_commas(folder: Path) -> Made:
    data = lines(
        folder / "sequences.txt", [(u, ",".join(str(e.item) for e in mine)) for u, mine in by_user().items()], "\t"
    )
    return Made([data], sequenced(), {}, by="leave-one-out")


@layout
def amazon23_last_out_packed(folder: Path) -> Made:
    made = _bench(folder, False)
    files = []
    for file in made.files[:3]:
        files.append(file.with_name(f"{file.name}.gz"))
        files[-1].write_bytes(gzip.compress(file.read_bytes()))
    return made._replace(files=[*files, made.files[3]])


@layout
def folder_of_splits(folder: Path) -> Made:
    made = jsonl_splits(folder)
    return made._replace(files=[folder])


@layout
def titles_that_are_numbers(folder: Path) -> Made:
    titles = {i: str(1984 + i) if i % 3 == 0 else t for i, t in TITLES.items()}
    data = lines(folder / "ratings.dat", [(e.user, e.item, e.stars, e.time) for e in shuffled()], "::")
    movies = quoted(folder / "movies.csv", titles.items())
    return Made([data, movies], rows_of(), {str(i): t for i, t in titles.items()})


@layout
def s3rec(folder: Path) -> Made:
    data = lines(folder / "Beauty.txt", [(u, *(e.item for e in mine)) for u, mine in by_user().items()], " ")
    return Made([data], sequenced(), {}, by="leave-one-out")


@layout
def s3rec_commas(folder: Path) -> Made:
    data = lines(folder / "Beauty.csv", [(u, *(e.item for e in mine)) for u, mine in by_user().items()], ",")
    return Made([data], sequenced(), {}, by="leave-one-out")


@layout
def item_lists(folder: Path) -> Made:
    rows = [(u, " ".join(str(e.item) for e in mine)) for u, mine in by_user().items()]
    data = quoted(folder / "sequences.csv", [("user_id", "item_id_list"), *rows])
    titles = quoted(folder / "items.csv", [("item_id", "title"), *TITLES.items()])
    return Made([data, titles], sequenced(), {str(i): t for i, t in TITLES.items()}, by="leave-one-out")


@layout
def item_lists_of_json(folder: Path) -> Made:
    data = objects(
        folder / "sequences.jsonl",
        ({"user_id": u, "item_ids": [e.item for e in mine]} for u, mine in by_user().items()),
    )
    return Made([data], sequenced(), {}, by="leave-one-out")


# --- containers -------------------------------------------------------------------------------------------------------


def _records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"user_id": r.user, "item_id": r.item, "timestamp": int(r.time), "title": TITLES[int(r.item)]} for r in rows
    ]


@layout
def jsonl_splits(folder: Path) -> Made:
    rows = parted(rows_of())
    names = {"train": "train", "valid": "validation", "test": "test"}
    files = [objects(folder / f"{names[s]}.jsonl", _records([r for r in rows if r.split == s])) for s in SPLITS]
    return Made(files, rows, {str(i): t for i, t in TITLES.items()})


@layout
def hub_folder(folder: Path) -> Made:
    """The `data` folder of a dataset on the Hugging Face hub."""
    rows = parted(rows_of())
    (folder / "data").mkdir()
    for s, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        mine = _records([r for r in rows if r.split == s])
        for n, part in enumerate([mine[:20], mine[20:]] if s == "train" else [mine]):
            pq.write_table(
                pa.Table.from_pylist(part), folder / "data" / f"{name}-0000{n}-of-0000{1 + (s == 'train')}.parquet"
            )
    return Made([folder / "data"], rows, {str(i): t for i, t in TITLES.items()})


@layout
def parquet_parts(folder: Path) -> Made:
    rows = _records(rows_of(events=shuffled()))
    (folder / "parts").mkdir()
    for n in range(3):
        pq.write_table(pa.Table.from_pylist(rows[n::3]), folder / "parts" / f"part-{n:05d}-abc.snappy.parquet")
    (folder / "parts" / "_SUCCESS").write_bytes(b"")
    return Made([folder / "parts"], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def saved_dataset(folder: Path) -> Made:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(_records(rows_of(events=shuffled()))).save_to_disk(folder / "saved")
    return Made([folder / "saved"], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def saved_splits(folder: Path) -> Made:
    datasets = pytest.importorskip("datasets")
    rows = parted(rows_of())
    datasets.DatasetDict({
        name: datasets.Dataset.from_list(_records([r for r in rows if r.split == s]))
        for s, name in (("train", "train"), ("valid", "validation"), ("test", "test"))
    }).save_to_disk(folder / "saved")  # fmt: skip
    return Made([folder / "saved"], rows, {str(i): t for i, t in TITLES.items()})


@layout
def bom_and_crlf(folder: Path) -> Made:
    rows = [(e.user, e.item, e.time, TITLES[e.item]) for e in shuffled()]
    data = quoted(
        folder / "export.csv", [("user_id", "item_id", "timestamp", "title"), *rows], encoding="utf-8-sig", end="\r\n"
    )
    return Made([data], rows_of(), {str(i): t for i, t in TITLES.items()})


@layout
def otto(folder: Path) -> Made:
    sessions = by_user()
    data = objects(folder / "train.jsonl", (
        {"session": user, "events": [{"aid": e.item, "ts": e.time * 1000, "type": "orders" if e.stars == 5 else "clicks"} for e in events]}
        for user, events in sessions.items()))  # fmt: skip
    items = quoted(folder / "items.csv", [("item_id", "title"), *TITLES.items()])
    bought = [Row(str(e.user), str(e.item), float(e.time)) for e in SHOP if e.stars < 5]
    return Made([data, items], bought, {str(i): t for i, t in TITLES.items()}, {"where": ("type=clicks",)})


@layout
def mongodb(folder: Path) -> Made:
    data = objects(folder / "buys.json", (
        {"_id": {"$oid": f"{n:024x}"}, "user_id": {"$numberLong": str(2**60 + e.user)}, "item_id": e.item,
         "date": {"$date": when(e.time, "%Y-%m-%dT%H:%M:%SZ")}, "title": TITLES[e.item]} for n, e in enumerate(shuffled())))  # fmt: skip
    return Made([data], rows_of(lambda u: str(2**60 + u)), {str(i): t for i, t in TITLES.items()})


@layout
def mongodb_python(folder: Path) -> Made:
    data = objects(folder / "buys.json", (
        {"user_id": e.user, "item_id": e.item, "date": {"$date": {"$numberLong": str(e.time * 1000)}}, "title": TITLES[e.item]}
        for e in shuffled()), repr)  # fmt: skip
    return Made([data], rows_of(), {str(i): t for i, t in TITLES.items()})


def _language(name: str, encoding: str, words: str) -> None:
    texts = words.split("/")
    titles = {i: f"{texts[i % len(texts)]} {texts[(i * 3 + 1) % len(texts)]} {i}" for i in TITLES}

    def make(folder: Path) -> Made:
        rows = [(e.user, e.item, e.time) for e in shuffled()]
        data = quoted(folder / "inter.csv", [("user_id", "item_id", "timestamp"), *rows])
        items = quoted(folder / "items.csv", [("item_id", "title"), *titles.items()], encoding=encoding)
        return Made([data, items], rows_of(), {str(i): t for i, t in titles.items()})

    CASES[name] = make


_language("chinese", "gbk", "红楼梦的故事/三国演义/西游记/水浒传/我的前半生/北京的秋天/电影院里的人们/小猫钓鱼")
_language(
    "japanese", "shift_jis", "となりの森/千年の旅/もののけの歌/東京物語/七人の友だち/ゴジラの影/リングの夜/風の谷から"
)
_language(
    "russian", "cp1251", "Война и мир/Преступление/Мастер и кошка/Анна/Тихий вечер/Белая ночь/Обломки/Мёртвые письма"
)


@pytest.mark.parametrize("name", CASES)
def test_public_data_set(name: str, tmp_path: Path) -> None:
    made = CASES[name](tmp_path)
    for k in (1, 3):
        settings = replace(PrepareSettings(k_core=k), **made.options)
        data = read_raw(made.files, settings)
        compare(data, made, k)
    assert read_raw(list(made.files)[::-1], settings).hash == data.hash


def compare(data: Dataset, made: Made, k: int) -> None:
    account = data.statistics["rows"]
    if "where" in made.options or made.by == "lists":
        account["read"] = account["read"] - account["filtered"]
        account["filtered"] = 0
    if made.by == "lists":
        account["read"] = len(made.rows)
        account["duplicates"] = 0
    check(data, made.rows, k, "leave-one-out" if made.by == "lists" else made.by)
    for title, text, item in zip(data.catalogue.titles, data.catalogue.texts, data.catalogue.ids, strict=True):
        expected = " ".join(made.titles.get(item, "").split())
        assert title == (expected or item)
        assert text.startswith(expected) if expected else not text
    if made.titles:
        assert data.statistics["share_without_text"] == 0


# --- what does not fit: one line that says what to type ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where"), [("city=Nashville", lambda e: e.item % 2 == 1), ("stars>=4", lambda e: e.stars >= 4)]
)
def test_yelp_filters(tmp_path: Path, name: str, where: Callable[[Event], bool]) -> None:
    data = read_raw(_yelp(tmp_path), PrepareSettings(where=(name,), k_core=1))
    assert len(data.interactions) == len({(e.user, e.item) for e in SHOP if where(e)})
    assert data.statistics["rows"]["filtered"] == sum(not where(e) for e in SHOP)


def _beside(folder: Path, name: str) -> Path:
    """A table of a public data set that has no part in its interactions."""
    e = SHOP[:60]
    iso = "%Y-%m-%d %H:%M:%S"
    write: dict[str, Callable[[Path], Path]] = {
        "u.user": lambda p: lines(p, [(u, 24, "MF"[u % 2], "technician", "T8H1N" if u == 3 else "85711") for u in USERS], "|"),
        "users.dat": lambda p: lines(p, [(u, "MF"[u % 2], 25, 7, "98107-2117" if u == 3 else "48067") for u in USERS], "::"),
        "tags.dat": lambda p: lines(p, [(x.user, x.item, "excellent!", x.time) for x in e], "::"),
        "tags.csv": lambda p: quoted(p, [("userId", "movieId", "tag", "timestamp"), *((x.user, x.item, "odd, new", x.time) for x in e)]),
        "links.csv": lambda p: quoted(p, [("movieId", "imdbId", "tmdbId"), *((i, f"0{i}", i + 800) for i in TITLES)]),
        "genome-scores.csv": lambda p: quoted(p, [("movieId", "tagId", "relevance"), *((i, 1, 0.5) for i in TITLES)]),
        "genome-tags.csv": lambda p: quoted(p, [("tagId", "tag"), *((i, f"word {i}") for i in TITLES)]),
        "customers.csv": lambda p: quoted(p, [("customer_id", "FN", "Active", "age"), *((f"{u:064x}", "", "", 49) for u in USERS)]),
        "ml-100k.user": lambda p: lines(p, [("user_id:token", "age:token"), *((u, 24) for u in USERS)], "\t"),
        "yelp_academic_dataset_user.json": lambda p: objects(p, ({"user_id": f"u-{u}_x", "name": "Jo", "yelping_since": when(9, iso)} for u in USERS)),
        "yelp_academic_dataset_checkin.json": lambda p: objects(p, ({"business_id": f"b-{i}_x", "date": when(i, iso)} for i in TITLES)),
        "BX-Users.csv": lambda p: lines(p, [['"User-ID";"Location";"Age"'], *([f'"{276_000 + u}";"nyc, usa";NULL'] for u in USERS)], ""),
        "category_tree.csv": lambda p: quoted(p, [("categoryid", "parentid"), *((i, 200) for i in TITLES)]),
        "tags_of_artists.dat": lambda p: lines(p, [("tagID", "tagValue"), *((i, f"word {i}") for i in TITLES)], "\t"),
        "user_friends.dat": lambda p: lines(p, [("userID", "friendID"), *((u, 1) for u in USERS)], "\t"),
    }  # fmt: skip
    return write[name](folder / name)


@pytest.mark.parametrize(
    ("made", "name", "why"),
    [
        (ml100k, "u.user", "has users, but no items"), (ml1m, "users.dat", "has users, but no items"),
        (ml10m, "tags.dat", "holds tags"), (ml25m, "tags.csv", "holds tags"), (ml25m, "links.csv", "no texts of items"),
        (ml25m, "genome-scores.csv", "no texts of items"), (ml25m, "genome-tags.csv", "no texts of items"),
        (hm, "customers.csv", "has users, but no items"), (recbole, "ml-100k.user", "has users, but no items"),
        (yelp, "yelp_academic_dataset_user.json", "has users, but no items"),
        (yelp, "yelp_academic_dataset_checkin.json", "no texts of items"),
        (book_crossing, "BX-Users.csv", "has users, but no items"),
        (retailrocket, "category_tree.csv", "neither ids nor texts"),
        (hetrec_lastfm, "tags_of_artists.dat", "no texts of items"),
        (hetrec_lastfm, "user_friends.dat", "has users, but no items"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_needed_is_named(made: Callable[[Path], Made], name: str, why: str, tmp_path: Path) -> None:
    found = made(tmp_path)
    beside = _beside(tmp_path, name)
    for files in ([*found.files, beside], [beside, *found.files]):
        wrong = said(read_raw, files, PrepareSettings(k_core=1))
        assert f"{name} " in wrong and why in wrong and "leave it out" in wrong


@pytest.mark.parametrize("made", [goodreads_csv_with_map, book_crossing])
def test_a_table_without_times_is_not_taken_in_its_order_unasked(made: Callable[[Path], Made], tmp_path: Path) -> None:
    wrong = said(read_raw, made(tmp_path).files, PrepareSettings(k_core=1))
    assert "no time column" in wrong and "--time-column none" in wrong


@pytest.mark.parametrize("made", [ml100k_folds, mind_train_and_dev, lightgcn])
def test_a_split_of_two_parts(made: Callable[[Path], Made], tmp_path: Path) -> None:
    wrong = said(read_raw, made(tmp_path).files, PrepareSettings(k_core=1))
    assert "none of the interactions is for" in wrong and "--split-column none" in wrong


def test_a_folder_of_a_data_set_is_no_table(tmp_path: Path) -> None:
    for made, names in ((ml1m, ["ratings.dat", "movies.dat"]), (ml25m, ["ratings.csv", "movies.csv"])):
        folder = tmp_path / made.__name__
        folder.mkdir()
        made(folder)
        for name in ("users.dat",) if made is ml1m else ("tags.csv", "links.csv"):
            _beside(folder, name)
        wrong = said(read_raw, [folder], PrepareSettings(k_core=1))
        assert "several tables" in wrong and wrong.endswith(", ".join(f"{folder}/{name}" for name in names))


def test_items_of_users_that_are_nested(tmp_path: Path) -> None:
    """`australian_users_items.json` of Steam."""
    row = {"item_id": "10", "item_name": "Counter-Strike", "playtime_forever": 6}
    file = objects(
        tmp_path / "australian_users_items.json",
        ({"user_id": f"7656{u}", "items_count": 2, "items": [row, row]} for u in USERS),
        python2,
    )
    assert "nested objects" in said(read_raw, [file], PrepareSettings(k_core=1))


def test_netflix(tmp_path: Path) -> None:
    file = tmp_path / "combined_data_1.txt"
    file.write_text(
        "".join(
            f"{i}:\n" + "".join(f"{e.user},{e.stars},{when(e.time, '%Y-%m-%d')}\n" for e in SHOP if e.item == i)
            for i in TITLES
        )
    )
    assert "Netflix" in said(read_raw, [file], PrepareSettings(k_core=1))


def test_what_mind_does_not_say(tmp_path: Path) -> None:
    data = mind(tmp_path)
    file = lines(
        tmp_path / "test.tsv",
        (
            (n, f"U{e.user}", when(e.time, "%m/%d/%Y %I:%M:%S %p"), "" if n % 3 else "N1 N2", "N3 N4")
            for n, e in enumerate(SHOP)
        ),
        "\t",
    )
    wrong = said(read_raw, [file, data.files[1]], PrepareSettings(k_core=1))
    assert "test.tsv does not say what was clicked" in wrong


def test_an_id_that_may_be_another_one_is_not_joined_unasked(tmp_path: Path) -> None:
    """`id` of movies_metadata.csv is TMDB's, and MovieLens' only by chance."""
    rows = [(i, f"tt{i}", t) for i, t in TITLES.items()]
    file = quoted(tmp_path / "movies_metadata.csv", [("id", "imdb_id", "title"), *rows])
    wrong = said(read_raw, [ml25m(tmp_path).files[0], file], PrepareSettings(k_core=1))
    assert "--item-key id" in wrong


def test_lines_of_equal_length_are_a_table(tmp_path: Path) -> None:
    file = lines(tmp_path / "some.txt", [[e.item for e in SHOP[n * 10 : n * 10 + 10]] for n in range(20)], " ")
    wrong = said(read_raw, [file], PrepareSettings(k_core=1))
    assert "--columns" in wrong and "--format sequences" in wrong
    assert read_raw([file], PrepareSettings(k_core=1, format="sequences")).statistics["rows"]["read"] == 200


def test_a_column_named_order_is_no_order(tmp_path: Path) -> None:
    head = ("user_id", "item_id", "timestamp", "order")
    file = quoted(tmp_path / "orders.csv", [head, *((e.user, e.item, e.time, f"O-{e.time}") for e in shuffled())])
    check(read_raw([file], PrepareSettings(k_core=1)), rows_of(), 1, "time")


def test_what_is_said_of_a_layout(tmp_path: Path) -> None:
    data = read_raw(steam(tmp_path).files, PrepareSettings(k_core=1))
    said_of = account_lines(data.statistics, data.settings["columns"])
    assert any("user username; item product_id; time date; the items' ids id" in line for line in said_of)
