"""Files as public data sets and questions have them (`cases/`): the dataset is what plain Python makes of the lines.

Each case says in a few lines of Python what its rows and texts are. Duplicates, k-core, order and split are then made
by loops, and compared with `read_raw`.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from expected import Row, Rows, check, first
from faults import said

from foster_cli.data.account import account_lines
from foster_cli.data.prepare import read_raw
from foster_cli.data.readers import read_table
from foster_cli.data.schema import SPLITS
from foster_cli.settings import PrepareSettings

CASES = Path(__file__).parent / "cases"


# Lines of cases are long: one for each kind of row.
# ruff: noqa: E501


class Case(NamedTuple):
    """A case: its files, the options that are typed, and what plain Python reads in them."""

    name: str
    files: list[str]
    rows: Callable[[Callable[[str], str]], Rows]
    titles: Callable[[Callable[[str], str]], dict[str, str]]
    options: tuple[tuple[str, Any], ...] = ()
    by: str = "time"


def text_of(folder: str) -> Callable[[str], str]:
    """Reads a file of a case as text."""

    def read(name: str) -> str:
        data = (CASES / folder / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        return data.decode("latin-1" if name in ("movies.dat", "u.item") else "utf-8")

    return read


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def fields(text: str, by: str | None) -> list[list[str]]:
    return [line.split(by) for line in text.splitlines() if line.strip()]


def seconds(text: str, form: str) -> float:
    found = datetime.strptime(text, form)
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _mind(text: str) -> Rows:
    lines = fields(text, "\t")
    when = {line[0]: seconds(line[2], "%m/%d/%Y %I:%M:%S %p") for line in lines}
    rows = []
    for number, user, _, history, shown in lines:
        rows += [Row(user, item, when[number], i) for i, item in enumerate(history.split())]
        clicks = [one[:-2] for one in shown.split() if one.endswith("-1")]
        rows += [Row(user, item, when[number], 1000 + i) for i, item in enumerate(clicks)]
    return rows


def _split_files(read: Callable[[str], str]) -> Rows:
    rows = []
    for split in SPLITS:
        for row in table(read(f"Video_Games.{split}.csv")):
            rows.append(Row(row["user_id"], row["parent_asin"], int(row["timestamp"]) / 1000, split=split))
    return rows


_PUBLIC = [
    Case(
        "01-ml1m-dat", ["ratings.dat", "movies.dat"],
        lambda read: [Row(u, i, int(t)) for u, i, _, t in fields(read("ratings.dat"), "::")],
        lambda read: {i: title for i, title, _ in fields(read("movies.dat"), "::")},
    ),
    Case(
        "02-amazon2023", ["Video_Games.jsonl", "meta_Video_Games.jsonl"],
        lambda read: [Row(r["user_id"], r["parent_asin"], r["timestamp"] / 1000) for r in objects(read("Video_Games.jsonl"))],
        lambda read: {r["parent_asin"]: r["title"].replace("&amp;", "&") for r in objects(read("meta_Video_Games.jsonl"))},
    ),
    Case(
        "03-amazon2014", ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"],
        lambda read: [Row(r["reviewerID"], r["asin"], r["unixReviewTime"]) for r in objects(read("reviews_Beauty_5.json.gz"))],
        lambda read: {r["asin"]: r["title"] for r in map(ast.literal_eval, read("meta_Beauty.json.gz").splitlines())},
    ),
    Case(
        "04-amazon2018", ["Video_Games_5.json.gz", "meta_Video_Games.json.gz"],
        lambda read: [Row(r["reviewerID"], r["asin"], r["unixReviewTime"]) for r in objects(read("Video_Games_5.json.gz"))],
        lambda read: {r["asin"]: r["title"] for r in reversed(objects(read("meta_Video_Games.json.gz")))},
    ),
    Case(
        "05-recbole-atomic", ["shop.inter", "shop.item"],
        lambda read: [Row(u, i, float(t)) for u, i, _, t in fields(read("shop.inter"), "\t")[1:]],
        lambda read: {r[0]: r[1] for r in fields(read("shop.item"), "\t")[1:]},
    ),
    Case(
        "06-ml100k", ["u.data", "u.item"],
        lambda read: [Row(u, i, int(t)) for u, i, _, t in fields(read("u.data"), "\t")],
        lambda read: {r[0]: r[1] for r in fields(read("u.item"), "|")},
    ),
    Case(
        "07-mind", ["behaviors.tsv", "news.tsv"], lambda read: _mind(read("behaviors.tsv")),
        lambda read: {r[0]: r[3] for r in fields(read("news.tsv"), "\t")},
    ),
    Case(
        "08-sasrec-txt", ["Beauty.txt"],
        lambda read: [Row(u, i, 0, n) for n, (u, i) in enumerate(fields(read("Beauty.txt"), None))],
        lambda read: {}, by="leave-one-out",
    ),
    Case(
        "10-yelp", ["yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"],
        lambda read: [
            Row(r["user_id"], r["business_id"], seconds(r["date"], "%Y-%m-%d %H:%M:%S"))
            for r in objects(read("yelp_academic_dataset_review.json"))
        ],
        lambda read: {r["business_id"]: r["name"] for r in objects(read("yelp_academic_dataset_business.json"))},
    ),
    Case(
        "12-goodreads", ["goodreads_interactions_poetry.json", "goodreads_books_poetry.json"],
        lambda read: [
            Row(r["user_id"], r["book_id"], seconds(r["date_added"], "%a %b %d %H:%M:%S %z %Y"))
            for r in objects(read("goodreads_interactions_poetry.json"))
        ],
        lambda read: {r["book_id"]: r["title"] for r in objects(read("goodreads_books_poetry.json"))},
    ),
    Case(
        "15-amazon2023-bench",
        ["Video_Games.train.csv", "Video_Games.valid.csv", "Video_Games.test.csv", "meta_Video_Games.jsonl"],
        _split_files,
        lambda read: {r["parent_asin"]: r["title"].replace("&amp;", "&") for r in objects(read("meta_Video_Games.jsonl"))},
    ),
    Case(
        "16-microlens", ["MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"],
        lambda read: [Row(r["userID"], r["videoID"], int(r["timestamp"]) / 1000) for r in table(read("MicroLens-50k_pairs.csv"))],
        lambda read: dict(line.split(",", 1) for line in read("MicroLens-50k_titles.csv").splitlines()),
        (("user_column", "userID"), ("item_column", "videoID")),
    ),
    Case(
        "16-microlens", ["MicroLens-50k_pairs.tsv", "MicroLens-50k_titles.csv"],
        lambda read: [
            Row(user, item, 0, n)
            for user, items in fields(read("MicroLens-50k_pairs.tsv"), "\t") for n, item in enumerate(items.split())
        ],
        lambda read: dict(line.split(",", 1) for line in read("MicroLens-50k_titles.csv").splitlines()),
        by="leave-one-out",
    ),
    Case(
        "44-ml-latest", ["ratings.csv", "movies.csv"],
        lambda read: [Row(r["userId"], r["movieId"], int(r["timestamp"])) for r in table(read("ratings.csv"))],
        lambda read: {r["movieId"]: r["title"] for r in table(read("movies.csv"))},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", _PUBLIC, ids=lambda case: f"{case.name}-{case.files[0]}")
@pytest.mark.parametrize("k", [1, 2, 3])
def test_public_layouts(case: Case, k: int) -> None:
    read = text_of(case.name)
    rows, titles = case.rows(read), case.titles(read)
    settings = replace(PrepareSettings(k_core=k), **dict(case.options))
    files = [CASES / case.name / name for name in case.files]
    data = read_raw(files, settings)
    check(data, rows, k, case.by)
    for i, item in enumerate(data.catalogue.ids):
        title = " ".join(titles.get(item, "").split())
        assert data.catalogue.titles[i] == (title or data.catalogue.titles[i])
        assert title in data.catalogue.texts[i]
    assert read_raw(files[::-1], settings).hash == data.hash


def test_reviews_are_no_texts_of_items() -> None:
    reviews = CASES / "02-amazon2023" / "Video_Games.jsonl"
    wrong = said(read_raw, [reviews], PrepareSettings(item_column="parent_asin", k_core=2))
    assert "reviews" in wrong and "--text-columns title,text" in wrong
    data = read_raw([reviews], PrepareSettings(item_column="parent_asin", k_core=2, text_columns=("title",)))
    assert any(data.catalogue.texts)


def test_keys_of_other_names_are_joined_only_when_said() -> None:
    files = [CASES / "02-amazon2023" / name for name in ("Video_Games.jsonl", "meta_Video_Games.jsonl")]
    wrong = said(read_raw, files, PrepareSettings(item_column="asin"))
    assert "no column asin" in wrong and "--item-key parent_asin" in wrong
    data = read_raw(files, PrepareSettings(item_column="asin", item_key="parent_asin", k_core=1))
    assert 0 < data.statistics["share_without_text"] < 1
    assert any("have no text" in line for line in account_lines(data.statistics, data.settings["columns"]))


def test_one_city_of_yelp() -> None:
    read = text_of("10-yelp")
    files = [CASES / "10-yelp" / name for name in
             ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")]  # fmt: skip
    businesses = objects(read("yelp_academic_dataset_business.json"))
    city = Counter(row["city"] for row in businesses).most_common(1)[0][0]
    inside = {row["business_id"] for row in businesses if row["city"] == city}
    rows = _PUBLIC[8].rows(read)
    data = read_raw(files, PrepareSettings(where=(f"city={city}", "stars>=4"), k_core=1))
    stars = {row["review_id"]: row["stars"] for row in objects(read("yelp_academic_dataset_review.json"))}
    kept = [row for row, star in zip(rows, stars.values(), strict=True) if row.item in inside and star >= 4]
    assert len(data.interactions) == len(first(kept))
    assert data.statistics["rows"]["filtered"] == len(rows) - len(kept)


def test_integers_of_64_bits_stay_apart() -> None:
    for name in ("hash.jsonl", "near.jsonl"):
        rows = objects(text_of("32-json-uint64-ids")(name))
        data = read_raw([CASES / "32-json-uint64-ids" / name], PrepareSettings(k_core=1))
        assert data.catalogue.ids == sorted({str(row["item_id"]) for row in rows})


def test_blanks_round_ids() -> None:
    folder = CASES / "33-comma-space"
    data = read_raw([folder / "inter.csv", folder / "items.csv"], PrepareSettings(k_core=1))
    assert data.user_ids[0] == "1" and data.catalogue.titles[0].startswith("Quiet Harbor")
    rows = table(text_of("33-comma-space")("trailing.csv"))
    trailing = read_raw([folder / "trailing.csv"], PrepareSettings(k_core=1))
    assert trailing.user_ids == sorted({row["user_id"].strip() for row in rows})


def test_a_folder_of_parts_and_its_files() -> None:
    folder = CASES / "34-parquet-parts" / "parts"
    parts = sorted(folder.glob("*.parquet"))
    whole = read_raw([folder], PrepareSettings(k_core=1))
    assert (
        len(whole.interactions)
        == sum(pq.read_table(part).num_rows for part in parts) - whole.statistics["rows"]["duplicates"]
    )
    assert read_raw([Path(f"{folder}/*.parquet")], PrepareSettings(k_core=1)).hash == whole.hash
    assert read_raw(parts, PrepareSettings(k_core=1)).hash == whole.hash


def test_list_literals_in_cells() -> None:
    data = read_raw([CASES / "36-list-literals-in-csv" / "beauty.csv"], PrepareSettings(k_core=1))
    assert not any("[" in text for text in data.catalogue.texts)
    rows = table(text_of("36-list-literals-in-csv")("beauty.csv"))
    named = {row["item_id"] for row in rows if row["title"]}
    bare = {row["item_id"] for row in rows} - named
    assert {i for i, text in zip(data.catalogue.ids, data.catalogue.texts, strict=True) if not text} >= {
        item for item in bare if not any(r["description"] not in ("", "[]") for r in rows if r["item_id"] == item)
    } - {r["item_id"] for r in rows if r["categories"] not in ("", "[]")}


def test_items_without_text_are_said() -> None:
    folder = CASES / "35-items-without-text-silent"
    data = read_raw([folder / "inter.csv", folder / "items.csv"], PrepareSettings(k_core=1))
    lines = account_lines(data.statistics, data.settings["columns"])
    assert f"warning: {data.statistics['share_without_text']:.0%} of the items have no text" in lines


def test_a_single_user() -> None:
    wrong = said(read_raw, [CASES / "42-kcore-hint" / "one_user.csv"], PrepareSettings())
    assert "only one user" in wrong and "give those of more users" in wrong


def test_damaged_parquet_is_one_line() -> None:
    assert "two columns named" in said(read_raw, [CASES / "46-parquet-abort" / "dup.parquet"])
    assert "no time column" in said(read_raw, [CASES / "46-parquet-abort" / "empty.parquet"])
    assert "no rows" in said(read_table, CASES / "46-parquet-abort" / "empty.parquet")
