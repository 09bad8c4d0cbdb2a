"""Tables to a dataset, and a dataset to a file and back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import said
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.account import account_lines
from foster_cli.data.prepare import load_dataset, prepare, read_raw
from foster_cli.data.schema import Dataset
from foster_cli.data.store import read_prepared, write_prepared
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

ALL = PrepareSettings(k_core=1)
_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not _SHARED.exists(), reason="no ../shared/data here")


def _table(rows: list[tuple[Any, ...]], *more: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "title", *more])


def _shop(users: int = 6, items: int = 8, seed: int = 0) -> pd.DataFrame:
    """Every user buys every item once, at random times."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{u}", f"{i:03d}", 0, f"Item {i}") for u in range(users) for i in range(items)]
    return _table(rows).assign(timestamp=rng.integers(1_600_000_000, 1_700_000_000, users * items))


def _same(a: Dataset, b: Dataset) -> bool:
    arrays = ("user", "item", "time", "split")
    return (
        (a.hash, a.name, a.user_ids, a.catalogue) == (b.hash, b.name, b.user_ids, b.catalogue)
        and (a.settings, a.statistics) == (b.settings, b.statistics)
        and all(np.array_equal(getattr(a.interactions, f), getattr(b.interactions, f)) for f in arrays)
        and all(getattr(a.interactions, f).dtype == getattr(b.interactions, f).dtype for f in arrays)
    )


def test_small_table_by_hand() -> None:
    rows = [
        ("b", "10", 5, "Ten", "test"),
        ("a", "9", 3, "Nine", "validation"),
        ("a", "10", 1, "Ten", "train"),
        ("a", "10", 2, "Ten", "train"),  # a later duplicate
        ("b", "9", 4, "Nine", "train"),
        ("a", "7", 4, "Se&amp;ven ", "test"),
    ]
    data = prepare(_table(rows, "split"), None, PrepareSettings(), "small")
    assert data.user_ids == ["a", "b"]
    assert data.catalogue.ids == ["10", "7", "9"]
    assert data.catalogue.titles == ["Ten", "Se&ven", "Nine"]
    assert data.interactions.user.tolist() == [0, 0, 0, 1, 1]
    assert data.interactions.item.tolist() == [0, 2, 1, 2, 0]
    assert data.interactions.time.tolist() == [1000, 3000, 4000, 4000, 5000]
    assert data.interactions.split.tolist() == [0, 1, 2, 0, 2]
    found = data.statistics
    assert (found["interactions"], found["duplicates_removed"], found["k_core"]) == (5, 1, 1)
    assert found["average_length"] == 2.5
    assert found["splits"]["test"] == {"interactions": 2, "users": 2, "items": 2, "cases": 2}
    assert (found["tie_rate"], found["tie_rate_global"]) == (0.0, 0.4)


def test_own_split_comes_before_time() -> None:
    rows = [
        ("a", "1", 9, "x", "train"),
        ("a", "2", 1, "y", "valid"),
        ("a", "3", 5, "z", "test"),
        ("b", "1", 1, "x", "train"),
    ]
    data = prepare(_table(rows, "split"), None, PrepareSettings(), "d")
    assert data.interactions.split.tolist() == [0, 1, 2, 0]
    assert "no valid cases" in said(
        prepare, _table(rows, "split").replace("valid", "train"), None, PrepareSettings(), "d"
    )


def test_split_column_none_splits_by_time() -> None:
    table = _shop().assign(split="train")
    assert "no valid cases" in said(prepare, table, None, ALL, "d")
    data = prepare(table, None, PrepareSettings(split_column="none"), "d")
    assert data.statistics["split"] == "time"
    assert np.bincount(data.interactions.split).tolist() == [38, 5, 5]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_row_order_changes_nothing(seed: int, span: int) -> None:
    rng = random.Random(seed)
    rows = [
        (f"u{rng.randrange(6)}", f"i{rng.randrange(6)}", rng.randrange(span), rng.choice(["A", "B", ""]))
        for _ in range(60)
    ]
    shuffled = rng.sample(rows, len(rows))
    results = []
    for table in (_table(rows), _table(shuffled)):
        try:
            results.append(prepare(table, None, PrepareSettings(k_core=2), "d"))
        except FosterError as error:
            results.append(str(error))
    assert results[0] == results[1] if isinstance(results[0], str) else _same(*results)


def test_texts_are_composed_and_cleaned() -> None:
    items = pd.DataFrame(
        {
            "movieId": ["1", "2", "3", "4", "1"],
            "genres": ["Drama|War", None, "", "A | B|", "Late"],
            "title": ["Cafe\u0301 &quot;X&quot;\n\t y", "P | Q", " ", None, "Late"],
            "description": ["d", "e|f", "word " * 40, None, "Late"],
        }
    )
    table = pd.DataFrame(
        [(u, i, t) for t, (u, i) in enumerate((u, i) for i in "123456789" for u in "abcdef")],
        columns=["userId", "movieId", "time"],
    )
    data = prepare(table, items, ALL, "d")
    titles = dict(zip(data.catalogue.ids, data.catalogue.titles, strict=True))
    texts = dict(zip(data.catalogue.ids, data.catalogue.texts, strict=True))
    assert texts["1"] == 'Café "X" y. d. Drama, War'
    assert titles["1"] == 'Café "X" y'
    assert texts["2"] == "P | Q. e|f"
    assert titles["3"] == ("word " * 16).strip()
    assert texts["4"] == titles["4"] == "A, B"
    assert (titles["5"], texts["5"]) == ("5", "")
    assert data.statistics["share_without_text"] == 5 / 9
    only = prepare(table, items, PrepareSettings(k_core=1, text_columns=("genres",)), "d").catalogue
    assert (only.titles[0], only.texts[0]) == ('Café "X" y', "Drama, War")
    turned = PrepareSettings(k_core=1, text_columns=("genres", "title"))
    assert prepare(table, items, turned, "d").catalogue.texts[0] == 'Café "X" y. Drama, War'


def test_one_table_takes_the_earliest_text_of_an_item() -> None:
    table = _shop()
    table.loc[table["item_id"] == "003", "title"] = ["", "Late", "Early", "Later", "Later", "Later"]
    table.loc[table["item_id"] == "003", "timestamp"] = [
        1,
        1_690_000_000,
        1_610_000_000,
        *[1_695_000_000] * 3,
    ]
    assert prepare(table, None, ALL, "d").catalogue.titles[3] == "Early"


def test_token_counts() -> None:
    data = prepare(_shop(), None, ALL, "d", lambda texts: np.array([len(t.split()) for t in texts]))
    assert data.statistics["text_tokens"] == {"mean": 2.0, "p95": 2.0, "max": 2}
    assert "text_tokens" not in prepare(_shop(), None, ALL, "d").statistics


def test_two_files_in_either_order_equal_one_file(tmp_path: Path) -> None:
    table = _shop()
    table.to_csv(tmp_path / "buys.csv", index=False)
    table.drop(columns="title").to_csv(tmp_path / "buys_only.tsv.gz", sep="\t", index=False)
    items = table[["item_id", "title"]].drop_duplicates()
    items.to_json(tmp_path / "items.jsonl", orient="records", lines=True)
    whole = read_raw([tmp_path / "buys.csv"])
    two = read_raw([tmp_path / "buys_only.tsv.gz", tmp_path / "items.jsonl"])
    turned = read_raw([tmp_path / "items.jsonl", tmp_path / "buys_only.tsv.gz"])
    assert whole.hash == two.hash == turned.hash
    assert (whole.name, two.name) == ("buys", "buys_only")
    assert whole.catalogue.ids[0] == "000"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[t["user_id"] == "u0"], "only one user is in the 8 interactions"),
        (lambda t: t[t["item_id"] == "000"], "only one item is in the 6 interactions"),
        (lambda t: t.assign(timestamp="x"), "is no time: x"),
        (lambda t: t.assign(user_id=None), "has no user id"),
        (lambda t: t.iloc[6:10], "no test cases"),
    ],
)
def test_bad_tables(change: Any, words: str) -> None:
    assert words in said(prepare, change(_shop()), None, ALL, "d")


def test_nothing_left_says_which_k_would_leave_something() -> None:
    table = _shop(users=3, items=4)
    assert "--k-core 3 would leave 12 interactions" in said(prepare, table, None, PrepareSettings(), "d")
    assert "--k-core 0 is below 1" in said(prepare, table, None, PrepareSettings(k_core=0), "d")


def test_no_item_in_common_shows_both_sides() -> None:
    items = pd.DataFrame({"asin": ["B1"], "title": ["x"]})
    wrong = said(prepare, _shop(), items, PrepareSettings(k_core=1, item_key="asin"), "d")
    assert "item_id, e.g. 000" in wrong and "asin, e.g. B1" in wrong


@pytest.mark.parametrize("change", [lambda t: t.assign(title=" "), lambda t: t.drop(columns="title")])
def test_without_texts_items_are_named_by_their_ids(change: Any) -> None:
    data = prepare(change(_shop()), None, ALL, "d")
    assert set(data.catalogue.texts) == {""} and data.catalogue.titles == data.catalogue.ids
    assert data.statistics["share_without_text"] == 1.0


def test_unclear_files(tmp_path: Path) -> None:
    _shop().to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "items.csv").write_text("item_id,title\n1,x\n")
    (tmp_path / "b.csv").write_text("user,item,time\nx,1,5\n")
    a, b, items = (tmp_path / name for name in ("a.csv", "b.csv", "items.csv"))
    assert "2 tables have a user column" in said(read_raw, [a, a])
    assert "2 tables have a user column" in said(read_raw, [a, b])
    assert "none of the tables has a user column" in said(read_raw, [items, items])
    assert "2 tables without a user column" in said(read_raw, [a, items, items])
    assert "no user column" in said(read_raw, [items])


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    rows = _shop(users=20, items=20).assign(stars=4)
    rows.loc[3, "user_id"] = ""
    rows.loc[7, "timestamp"] = 0
    text = rows.to_csv(index=False).replace(f",{rows.loc[7, 'item_id']},0,", f",{rows.loc[7, 'item_id']},soon,", 1)
    lines = text.splitlines()
    lines[12] += ",one too many"
    lines.append(lines[20])
    lines[30] = lines[30].removesuffix("4") + "2"
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    asked = PrepareSettings(k_core=1, where=("stars>=3",), allow_bad=True)
    data = read_raw([tmp_path / "a.csv"], asked)
    found = data.statistics["rows"]
    assert (found["read"], found["bad"], found["filtered"], found["duplicates"]) == (401, 3, 1, 1)
    assert found["kept"] == len(data.interactions) == 401 - 5
    assert [(one.line, one.unit) for one in data.bad] == [(13, "line"), (5, "line"), (9, "line")]
    assert lines[8].split(",")[2] == "soon" and data.bad[2].text == "soon"
    said_of = account_lines(data.statistics, data.settings["columns"], data.bad)
    assert any("401 read, 3 cannot be read, 1 left out by --where, 1 duplicates, 396 kept" in line for line in said_of)
    lines[40] = lines[40].replace("u", "", 1)
    assert "--allow-bad" not in str(read_raw([tmp_path / "a.csv"], PrepareSettings(k_core=1)).statistics)
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[5:9]]))
    assert "(1 of 4 rows" not in said(read_raw, [tmp_path / "b.csv"], PrepareSettings(k_core=1))


def test_what_is_too_large_for_another_k_is_refused_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foster_cli.data.plan._FEW", 0)
    wrong = said(prepare, _shop(), None, PrepareSettings(k_core=1000), "d")
    assert "nothing is left after the 1000-core" in wrong and "smaller --k-core" in wrong


def test_leave_one_out_and_the_order_of_rows() -> None:
    table = _shop().drop(columns="timestamp")
    asked = PrepareSettings(k_core=1, time_column="none")
    data = prepare(table, None, asked, "d")
    assert data.statistics["split"] == "leave-one-out"
    rows = data.interactions
    for user in range(len(data.user_ids)):
        mine = rows.user == user
        assert [data.catalogue.ids[i] for i in rows.item[mine]] == [f"{i:03d}" for i in range(8)]
        assert rows.split[mine].tolist() == [0] * 6 + [1, 2]
    timed = prepare(_shop(), None, PrepareSettings(k_core=1, split_by="leave-one-out"), "d").interactions
    for user in range(6):
        mine = timed.user == user
        assert timed.split[mine][np.argsort(timed.time[mine])].tolist() == [0] * 6 + [1, 2]
    assert "--split-by other: unknown" in said(prepare, table, None, PrepareSettings(split_by="other"), "d")


def test_times_within_a_millisecond_keep_their_order() -> None:
    table = _shop(users=3, items=30)
    table["timestamp"] = 1_600_000_000_000_000 + np.arange(90) % 30  # microseconds
    data = prepare(table, None, ALL, "d")
    mine = data.interactions.user == 0
    assert [data.catalogue.ids[i] for i in data.interactions.item[mine]] == [f"{i:03d}" for i in range(30)]


def test_a_text_by_template() -> None:
    table = _shop().assign(brand="Acme")
    asked = PrepareSettings(k_core=1, text="{title} by {brand}")
    data = prepare(table, None, asked, "d")
    assert data.catalogue.texts[3] == "Item 3 by Acme" and data.catalogue.titles[3] == "Item 3"
    both = PrepareSettings(text="{title}", text_columns=("title",))
    assert "give one of them" in said(prepare, table, None, both, "d")


def _hostile() -> Dataset:
    table = _shop()
    names = {"000": '"Weird" [red]', "001": "", "002": "漢字 😀", "003": "Item 4"}
    table["title"] = [names.get(i, t) for i, t in zip(table["item_id"], table["title"], strict=True)]
    return prepare(table, None, PrepareSettings(seed=5), "höstile")


def test_prepared_file_round_trip(tmp_path: Path) -> None:
    data = _hostile()
    write_prepared(data, tmp_path / "p.parquet")
    again = load_dataset(tmp_path / "p.parquet")
    assert _same(data, again)
    assert again.catalogue.texts[1] == "" and again.catalogue.titles[1] == "001"
    write_prepared(again, tmp_path / "q.parquet")
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "q.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.parquet", "q.parquet"]
    row = pd.read_parquet(tmp_path / "p.parquet").iloc[0]
    assert (row["user_id"], row["split"]) == ("u0", "train")


def test_prepared_file_takes_no_settings_and_is_not_prepared_twice(tmp_path: Path) -> None:
    write_prepared(_hostile(), tmp_path / "p.parquet")
    assert "already prepared" in said(load_dataset, tmp_path / "p.parquet", PrepareSettings(k_core=2))
    assert "already prepared" in said(read_raw, [tmp_path / "p.parquet"])


@pytest.mark.parametrize("column", ["user_id", "item_id", "time", "split", "title", "text"])
def test_changed_prepared_file_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "p.parquet"
    write_prepared(_hostile(), path)
    table = pq.read_table(path)
    frame = table.to_pandas()
    old = frame[column].iloc[0]
    frame[column] = [old + 1 if column == "time" and v == old else f"{v}x" if v == old else v for v in frame[column]]
    place = table.schema.get_field_index(column)
    values = pd.Series(frame[column].tolist())
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    assert "was changed" in said(read_prepared, path)
    pq.write_table(table.drop([column]), path)
    assert "was changed" in said(read_prepared, path)


def test_prepared_file_of_another_format_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_prepared(_hostile(), path)
    whole = path.read_bytes()
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"foster"])
    for value, words in (
        (json.dumps({**header, "format": 99}), "format 99"),
        ("{", "was changed"),
        ("[]", "was changed"),
        (json.dumps({"format": 1}), "was changed"),
        (json.dumps({**header, "name": None}), "was changed"),
        (json.dumps({**header, "settings": []}), "was changed"),
        (json.dumps({**header, "statistics": {"users": float("nan")}}), "was changed"),
    ):
        pq.write_table(table.replace_schema_metadata({b"foster": value.encode()}), path)
        assert words in said(load_dataset, path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in said(load_dataset, path)


def test_hash_follows_the_data_and_not_the_name() -> None:
    base = prepare(_shop(), None, ALL, "d").hash
    assert prepare(_shop(), None, ALL, "other").hash == base
    changed = [
        _shop().replace("Item 3", "Item 33"),
        _shop().replace("u3", "u33"),
        _shop().assign(timestamp=lambda t: t["timestamp"] + 1),
    ]
    assert len({base, *(prepare(t, None, ALL, "d").hash for t in changed)}) == 4


@real_data
def test_games_come_out_unchanged(tmp_path: Path) -> None:
    data = load_dataset(_SHARED / "games.parquet")
    rows = data.interactions
    assert (len(rows), len(data.user_ids), len(data.catalogue)) == (342_329, 49_156, 17_332)
    assert np.bincount(rows.split).tolist() == [299_987, 22_609, 19_733]
    raw = pd.read_parquet(_SHARED / "games.parquet").astype({"user_id": str, "item_id": str})
    raw = raw.sort_values(["user_id", "timestamp"])
    assert [data.catalogue.ids[i] for i in rows.item.tolist()] == raw["item_id"].tolist()
    write_prepared(data, tmp_path / "g.parquet")
    assert _same(data, load_dataset(tmp_path / "g.parquet"))


@real_data
def test_movielens_from_its_two_files() -> None:
    folder = _SHARED / "movielens-small"
    data = load_dataset([folder / "ratings.csv", folder / "movies.csv"])
    rows = data.interactions
    assert (len(rows), len(data.user_ids), len(data.catalogue)) == (90_274, 610, 3_650)
    assert np.bincount(rows.split).tolist() == [72_219, 9_028, 9_027]
    assert min(np.bincount(rows.user).min(), np.bincount(rows.item).min()) >= 5
    assert data.statistics["splits"]["test"]["cases"] == 8_975
    toy_story = data.catalogue.ids.index("1")
    assert data.catalogue.texts[toy_story] == "Toy Story (1995). Adventure, Animation, Children, Comedy, Fantasy"


def test_ids_that_may_be_missing_ones_are_told(tmp_path: Path) -> None:
    table = _shop(users=6).replace({"user_id": {"u3": "nan"}})
    table.to_csv(tmp_path / "a.csv", index=False)
    data = read_raw([tmp_path / "a.csv"], ALL)
    assert "nan" in data.user_ids
    told = account_lines(data.statistics, data.settings["columns"])
    assert "8 rows have the user id nan; if that is a missing id: --where 'user_id!=nan'" in told
    without = read_raw([tmp_path / "a.csv"], PrepareSettings(k_core=1, where=("user_id!=nan",)))
    assert "nan" not in without.user_ids and without.statistics["rows"]["filtered"] == 8
