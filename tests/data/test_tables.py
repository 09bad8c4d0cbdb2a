"""Whole tables of random rows, in random dialects and formats, against plain Python and pandas."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.data.prepare import read_raw
from foster_cli.data.schema import SPLITS, Dataset
from foster_cli.data.split import PairHash
from foster_cli.errors import FosterError
from foster_cli.settings import PrepareSettings

_MOVIELENS = Path(__file__).parents[2].parent / "shared" / "data" / "movielens-small"
_USERS, _ITEMS = ["a b", "007", 'q"q', "x,y", "=1"], ["7", "ü", "a;b|c", "1", "08", "z/z"]
_ROWS = st.lists(
    st.tuples(st.sampled_from(_USERS), st.sampled_from(_ITEMS), st.integers(1_500_000_000, 1_500_000_009)),
    min_size=25, max_size=60,
)  # fmt: skip


def expected(rows: pd.DataFrame, k: int, by: str, seed: int = 0) -> pd.DataFrame:
    """user, item, time, split of the rows of a dataset, by user and time, in plain pandas."""
    rows = rows.sort_values("time", kind="stable").drop_duplicates(["user", "item"])
    while True:
        enough = rows.groupby("user")["item"].transform("size").ge(k) & rows.groupby("item")["user"].transform(
            "size"
        ).ge(k)
        if enough.all():
            break
        rows = rows[enough]
    if not len(rows):
        return rows.assign(split="")
    every = np.arange(len(rows))
    hashes = PairHash(rows["user"].tolist(), rows["item"].tolist(), seed).of(every, every)
    rows = rows.assign(tie=hashes).sort_values(["time", "tie"]).reset_index(drop=True)
    n = len(rows)
    if by == "time":
        ends = [int(np.floor(0.8 * n + 0.5)), int(np.floor(0.9 * n + 0.5))]
        rows["split"] = ["train" if i < ends[0] else "valid" if i < ends[1] else "test" for i in range(n)]
    else:
        last = rows.groupby("user").cumcount(ascending=False)
        long = rows.groupby("user")["item"].transform("size") >= 3
        rows["split"] = np.where(long & (last == 0), "test", np.where(long & (last == 1), "valid", "train"))
    return rows.sort_values("user", kind="stable").reset_index(drop=True)


def found(data: Dataset) -> list[tuple[Any, ...]]:
    """The interactions of a dataset."""
    rows = data.interactions
    users, items = ([names[i] for i in codes] for names, codes in (
        (data.user_ids, rows.user.tolist()), (data.catalogue.ids, rows.item.tolist())
    ))  # fmt: skip
    return list(zip(users, items, (rows.time // 1000).tolist(), [SPLITS[s] for s in rows.split], strict=True))


def _bytes_of(draw: Any, rows: list[tuple[str, str, int]]) -> tuple[str, bytes]:
    """The name and the bytes of a file of these rows, in a form that `draw` chooses."""
    kind = draw(st.sampled_from(["csv", "tsv", "txt", "jsonl", "json", "python", "parquet"]))
    names = ["user_id", "item_id", "timestamp", "title"]
    table = [(user, item, time, f'The "{item}",\n{item}') for user, item, time in rows]
    if kind == "parquet":
        out = io.BytesIO()
        columns: dict[str, Any] = dict(zip(names, map(pa.array, zip(*table, strict=True)), strict=True))
        if draw(st.booleans()):
            columns["user_id"] = columns["user_id"].dictionary_encode()
        if draw(st.booleans()):
            columns["timestamp"] = columns["timestamp"].cast(pa.timestamp("s"))
        group = draw(st.integers(1, 50))
        pq.write_table(pa.table(columns), out, row_group_size=group)
        return "t.parquet", out.getvalue()
    objects = [dict(zip(names, row, strict=True)) for row in table]
    if kind in ("jsonl", "json"):
        ascii_only = draw(st.booleans())
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in objects]
        return f"t.{kind}", ("\n".join(lines) if kind == "jsonl" else "[" + ",\n".join(lines) + "]").encode()
    if kind == "python":
        return "t.jsonl", "\n".join(map(repr, objects)).encode()
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter={"csv": ",", "tsv": "\t", "txt": draw(st.sampled_from(";|"))}[kind],
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
    )  # fmt: skip
    order = draw(st.permutations(range(4)))
    writer.writerows([[row[i] for i in order] for row in [names, *table]])
    return f"t.{kind}", draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.getvalue().encode()


@settings(max_examples=120, deadline=None)
@given(st.data(), _ROWS, st.integers(1, 3), st.sampled_from(["time", "leave-one-out"]))
def test_a_table_in_any_form_is_what_pandas_makes_of_it(
    data: st.DataObject, rows: list[tuple[str, str, int]], k: int, by: str
) -> None:
    name, written = _bytes_of(data.draw, rows)
    right = expected(pd.DataFrame(rows, columns=["user", "item", "time"]), k, by)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(written)
        try:
            made = read_raw([Path(folder) / name], PrepareSettings(k_core=k, split_by=by))
        except FosterError as error:
            few = min(len(set(right["user"])), len(set(right["item"]))) < 2
            earlier = right.groupby("user").cumcount() > 0
            cases = Counter(right["split"][earlier])
            assert few or not cases["valid"] or not cases["test"], error
            return
    assert found(made) == list(right[["user", "item", "time", "split"]].itertuples(index=False, name=None))
    assert made.catalogue.texts == [f'The "{item}", {item}' for item in made.catalogue.ids]
    account = made.statistics["rows"]
    assert account["read"] == len(rows) and account["bad"] == account["filtered"] == 0
    assert account["duplicates"] == len(rows) - len({row[:2] for row in rows})
    assert account["read"] == account["duplicates"] + account["cut_by_k_core"] + account["kept"]


_DIRT = ["", "\r", "x", "a,b,1,t,u", '"', ",i,5,t", "u,,5,t", "u,i,never,t", "a,7,6,T"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(_DIRT), max_size=8),
    st.randoms(use_true_random=False), st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_dirty_rows_are_counted_at_their_lines(dirt: list[str], order: Any, end: str) -> None:
    good = [f"u{n % 5},{n // 5},{60 + n},T" for n in range(40)]
    lines = [*good, *dirt]
    order.shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(end.join(["user_id,item_id,timestamp,title", *lines]).encode())
        made = read_raw([path], PrepareSettings(k_core=1, allow_bad=True))
    blank, fine = ("", "\r"), ("a,7,6,T", *good)
    bad = [n for n, line in enumerate(lines, 2) if line not in blank and line not in fine]
    account, again = made.statistics["rows"], max(0, dirt.count("a,7,6,T") - 1)
    assert (account["read"], account["bad"]) == (len([line for line in lines if line not in blank]), len(bad))
    assert (account["duplicates"], account["kept"]) == (
        again,
        len(lines) - sum(map(lines.count, blank)) - len(bad) - again,
    )
    whole = [one for one in made.bad if one.unit == "line"]
    assert {one.line for one in whole} <= set(bad)
    if not any(line in blank for line in lines[:-1]):
        assert sorted(one.line for one in whole) == bad


def _recbole(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """RecBole's loading, re-stated: duplicates are removed by time, then `filter_by_inter_num` takes away all users and
    all items below k at once, and again, until none is below (recbole/data/dataset/dataset.py)."""
    frame = frame.sort_values(["time"], kind="stable").drop_duplicates(["user", "item"], keep="first")
    users, items = Counter(frame["user"]), Counter(frame["item"])
    while True:
        poor_users = {user for user, n in users.items() if n < k}
        poor_items = {item for item, n in items.items() if n < k}
        if not poor_users and not poor_items:
            return frame
        dropped = frame["user"].isin(poor_users) | frame["item"].isin(poor_items)
        users -= Counter(frame["user"][dropped])
        items -= Counter(frame["item"][dropped])
        frame = frame[~dropped]


@pytest.mark.skipif(not _MOVIELENS.exists(), reason="no ../shared/data here")
@pytest.mark.parametrize("k", [5, 20])
def test_movielens_as_recbole_filters_it(k: int) -> None:
    paths = [_MOVIELENS / "ratings.csv", _MOVIELENS / "movies.csv"]
    data = read_raw(paths, PrepareSettings(k_core=k, split_by="leave-one-out", where=("rating>=3",)))
    names = {"userId": "user", "movieId": "item", "timestamp": "time"}
    frame = pd.read_csv(paths[0], dtype={"userId": str, "movieId": str}).rename(columns=names)
    right = _recbole(frame[frame["rating"] >= 3], k)
    rows = found(data)
    assert {row[:3] for row in rows} == set(right[["user", "item", "time"]].itertuples(index=False, name=None))
    assert data.statistics["rows"]["filtered"] == int((frame["rating"] < 3).sum())
    # RecBole's split LS with valid_and_test takes the last two of each user in its order of time
    ends = {(user, split): time for user, _, time, split in rows if split != "train"}
    for user, times in right.sort_values("time").groupby("user")["time"]:
        assert [ends[user, "valid"], ends[user, "test"]] == times.tolist()[-2:]
    splits = Counter(row[3] for row in rows)
    assert splits["valid"] == splits["test"] == right["user"].nunique()
