"""Columns are recognised or the error says what to type; ids stay what they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from faults import said
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.columns import as_text, recognise
from foster_cli.data.ids import IdCoder, encode_ids
from foster_cli.settings import PrepareSettings


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["user_id", "item_id", "timestamp", "title", "split"], ("user_id", "item_id", "timestamp", "split")),
        (["reviewerID", "asin", "unixReviewTime", "title"], ("reviewerID", "asin", "unixReviewTime", None)),
        (["USERID", "MovieID", "Time", "Name"], ("USERID", "MovieID", "Time", None)),
        (["user_id", "USER_ID", "business_id", "date", "name"], ("user_id", "business_id", "date", None)),
    ],
)
def test_recognised(names: list[str], expected: tuple[str, ...]) -> None:
    found = recognise(names, None, PrepareSettings())
    assert (found.user, found.item, found.time, found.split) == expected


def test_texts_come_from_the_items_table_in_the_fixed_order() -> None:
    found = recognise(
        ["user", "asin", "time", "text", "title"],
        ["categories", "asin", "description", "title"],
        PrepareSettings(),
    )
    assert found.text == ("title", "description", "categories")
    assert found.title == "title"


def test_item_column_may_differ_between_the_tables() -> None:
    names = ["user", "bought", "time"], ["asin", "title"]
    wrong = said(recognise, *names, PrepareSettings(item_column="bought"))
    assert "no column bought" in wrong and "--item-key asin" in wrong
    found = recognise(*names, PrepareSettings(item_column="bought", item_key="asin"))
    assert (found.item, found.item_key) == ("bought", "asin")
    assert recognise(*names, PrepareSettings(item_column="bought"), named=True).item_key == "asin"


def test_of_two_item_columns_the_one_that_both_tables_have() -> None:
    found = recognise(["user", "asin", "parent_asin", "time"], ["parent_asin", "title"], PrepareSettings())
    assert (found.item, found.item_key) == ("parent_asin", "parent_asin")


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["item", "time", "title"], {}, ["no user column", "item, time, title", "--user-column"]),
        (["user", "time", "title"], {}, ["no item column", "--item-column"]),
        (["user", "item", "title"], {}, ["no time column", "--time-column"]),
        (["user", "user_id", "item", "time", "title"], {}, ["more than one user", "--user-column user_id"]),
        (["user", "asin", "parent_asin", "time", "title"], {}, ["parent_asin, asin", "--item-column"]),
        (["user", "item", "time", "date", "title"], {}, ["more than one time", "--time-column"]),
        (["User", "USER", "item", "time", "title"], {}, ["more than one user"]),
        (["user", "item", "time", "title"], {"user_column": "u"}, ["no column u", "--user-column"]),
        (
            ["user", "item", "time", "title"],
            {"text_columns": ("title", "x")},
            ["no column x", "--text-columns"],
        ),
        (["user", "item", "time", "title"], {"split_column": "fold"}, ["no column fold", "--split-column"]),
    ],
)
def test_unclear_columns(names: list[str], settings: dict[str, object], words: list[str]) -> None:
    wrong = said(recognise, names, None, PrepareSettings(**settings))  # type: ignore[arg-type]
    assert all(word in wrong for word in words)


def test_options_settle_what_is_unclear() -> None:
    names = ["user", "asin", "parent_asin", "time", "date", "title", "name", "split"]
    chosen = PrepareSettings(item_column="asin", time_column="date", text_columns=("name",), split_column="none")
    found = recognise(names, None, chosen)
    assert (found.item, found.time, found.text, found.split) == ("asin", "date", ("name",), None)
    assert found.title == "title"


def test_an_id_that_no_bundle_can_hold() -> None:
    ids = encode_ids(pd.Series(["a", "x" * 65_536, "y" * 65_537], name="asin"), "item")
    assert ids.codes.tolist() == [0, 1, -1] and len(ids.names[1]) == 65_536
    assert ids.reasons == {2: "has an item id of more than 65,536 characters"}


def test_ids_are_text_without_decimal_point() -> None:
    assert as_text(pd.Series([7.0, 8.0])).tolist() == ["7", "8"]
    assert as_text(pd.Series([7.5, 8.0])).tolist() == ["7.5", "8.0"]
    assert as_text(pd.Series([7, 8], dtype="Int64")).tolist() == ["7", "8"]
    assert as_text(pd.Series([7, "007"], dtype=object)).tolist() == ["7", "007"]
    assert as_text(pd.Series([7, 8]).astype("category")).tolist() == ["7", "8"]


def test_blanks_and_decimal_points_make_no_other_id() -> None:
    ids = encode_ids(pd.Series(["1", " 1", "1.0", "2.00", "2 "]), "user")
    assert (ids.codes.tolist(), ids.names) == ([0, 0, 0, 1, 1], ["1", "2"])
    versions = encode_ids(pd.Series(["1.0", "1", "1.5"]), "item")
    assert versions.names == ["1.0", "1", "1.5"]
    assert encode_ids(pd.Series(["007", "7"]), "item").names == ["007", "7"]


@given(
    st.lists(st.sampled_from(["1", " 1", "1.0", "01", "a", "", "\\N", "2.00", "nan"]), min_size=1), st.integers(1, 4)
)
def test_ids_in_chunks_are_those_of_the_whole_column(values: list[str], size: int) -> None:
    whole, coder = encode_ids(pd.Series(values), "user"), IdCoder("user")
    chunks = [coder.add(pd.Series(values[i : i + size]))[0] for i in range(0, len(values), size)]
    assert coder.count("nan", np.concatenate(chunks)) == values.count("nan")
    names, merged = coder.finish()
    assert names == whole.names and np.append(merged, -1)[np.concatenate(chunks)].tolist() == whole.codes.tolist()


def test_floating_ids_that_are_not_exact_are_refused() -> None:
    wrong = said(encode_ids, pd.Series([1.0, 2.0**53], name="uid"), "user")
    assert "column uid, row 2" in wrong and "2^53" in wrong


@pytest.mark.parametrize(
    "values",
    [["a", None], ["a", ""], ["a", " "], ["a", "\\N"], [1.0, float("nan")], pd.Categorical(["a", None])],
)
def test_missing_ids(values: object) -> None:
    ids = encode_ids(pd.Series(values, name="uid"), "user")
    assert ids.codes.tolist() == [0, -1] and ids.reasons == {1: "has no user id"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["visitorid", "itemid", "timestamp", "event"], ("visitorid", "itemid", "timestamp")),
        (["customer_id", "article_id", "t_dat", "price"], ("customer_id", "article_id", "t_dat")),
        (["User-ID", "ISBN", "date", "Book-Rating"], ("User-ID", "ISBN", "date")),
        (["user_id", "book_id", "date_added", "date_updated"], ("user_id", "book_id", "date_added")),
        (["reviewerID", "asin", "unixReviewTime", "reviewTime"], ("reviewerID", "asin", "unixReviewTime")),
        (["username", "product_id", "date"], ("username", "product_id", "date")),
        (["userID", "artistID", "created_at"], ("userID", "artistID", "created_at")),
    ],
)
def test_names_of_public_data_sets(names: list[str], expected: tuple[str, str, str]) -> None:
    found = recognise(names, None, PrepareSettings())
    assert (found.user, found.item, found.time) == expected
