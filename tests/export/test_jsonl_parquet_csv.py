"""jsonl, parquet and csv of bundles with known probabilities: numbers against numpy, hostile text read back."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fakes import HOSTILE, exported, fake, greedy, of_probabilities
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.export.csv import safe_cell
from foster_cli.export.hard import make_hard
from foster_cli.export.view import make_view


def csv_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))


def test_jsonl_numbers_and_hostile_titles() -> None:
    bundle, top = fake(), 5
    text = exported(bundle, "jsonl", top).decode("utf-8")
    assert not {"\u202e", "\u2028", "\x85", "\x9b"} & set(text)
    lines = [json.loads(line) for line in text.splitlines()]
    places = [(x["synthetic_user"], x["position"]) for x in lines]
    assert places == [(m, t) for m in range(3) for t in range(6)]
    for line in lines:
        p = bundle.p[line["synthetic_user"], line["position"]].numpy()
        best = np.argsort(-p, kind="stable")[:top]
        assert [i["item_id"] for i in line["items"]] == [bundle.item_ids[b] for b in best]
        assert [i["title"] for i in line["items"]] == [bundle.titles[b] for b in best]
        assert [np.float32(i["probability"]) for i in line["items"]] == p[best].tolist(), "float32 comes back"
        assert line["mass"] == pytest.approx(p[best].astype(float).sum(), abs=1e-12)
        assert line["mass"] == pytest.approx(sum(i["probability"] for i in line["items"]), abs=1e-7)


def test_mass_of_all_items_is_at_most_one() -> None:
    masses = [json.loads(x)["mass"] for x in exported(fake(), "jsonl", len(HOSTILE)).splitlines()]
    assert masses == pytest.approx([1.0] * len(masses), abs=1e-6)
    assert max(masses) <= 1.0


def test_parquet_numbers() -> None:
    bundle, top = fake(), 4
    table = pq.read_table(io.BytesIO(exported(bundle, "parquet", top))).to_pandas()
    assert list(table) == ["synthetic_user", "position", "rank", "item_id", "title", "probability", "mass"]
    assert len(table) == 3 * 6 * top
    p = bundle.p.numpy().astype(np.float64)
    best = np.argsort(-p, axis=-1, kind="stable")[..., :top]
    values = np.take_along_axis(p, best, -1)
    np.testing.assert_array_equal(table["probability"], values.ravel())
    np.testing.assert_allclose(table["mass"], np.repeat(values.sum(-1).ravel(), top), rtol=1e-12)
    assert table["title"].tolist() == [HOSTILE[i] for i in best.ravel()]
    assert table["rank"].tolist() == list(range(top)) * 18
    assert table["position"].tolist() == [t for _ in range(3) for t in range(6) for _ in range(top)]


def test_csv_is_the_hard_sequence_and_safe() -> None:
    bundle = fake(users=2, length=len(HOSTILE))  # every title appears
    data = exported(bundle, "csv", 1)
    rows = csv_rows(data)
    assert len(data.decode("utf-8").splitlines()) == len(rows) + 1 == 2 * len(HOSTILE) + 1
    p = bundle.p.numpy()
    hard = [i for user in p.astype(np.float64) for i in greedy(user)]
    assert [r["item_id"] for r in rows] == [f"id{i}" for i in hard]
    for k, row in enumerate(rows):
        assert np.float32(row["probability"]) == p[k // len(HOSTILE), k % len(HOSTILE), hard[k]]
        assert row["title"][:1] not in ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\tx", "' x"),
        ("\rx", "' x"),
        ("＝1", "'＝1"),
        ("  =1", "'  =1"),
        ("\x00=1", "' =1"),
        ("\u202e=1", "'\u202e=1"),
        ("'=1", "''=1"),
        ("'Twas", "'Twas"),
        ("a=1", "a=1"),
        ("a\r\nb", "a  b"),
        ("", ""),
    ],
)
def test_safe_cell(text: str, cell: str) -> None:
    assert safe_cell(text) == cell


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(HOSTILE)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(TEXT, min_size=2, max_size=8, unique=True), data=st.data())
def test_any_text_is_read_back(ids: list[str], data: st.DataObject) -> None:
    titles = data.draw(st.lists(TEXT, min_size=len(ids), max_size=len(ids)))
    length = data.draw(st.integers(1, len(ids)))
    bundle = fake(2, length, titles, seed=len(ids))
    bundle.item_ids = ids
    view, hard = make_view(bundle, 2), make_hard(bundle)
    want_ids = [safe_cell(ids[i]) for i in hard.items.ravel()]
    want_titles = [safe_cell(titles[i]) for i in hard.items.ravel()]

    raw = exported(bundle, "csv", 2)
    rows = csv_rows(raw)
    assert [r["item_id"] for r in rows] == want_ids
    assert [r["title"] for r in rows] == want_titles
    frame = pd.read_csv(io.BytesIO(raw), dtype=str, keep_default_na=False, encoding="utf-8")
    assert frame["item_id"].tolist() == want_ids
    assert frame["title"].tolist() == want_titles

    lines = [json.loads(line) for line in exported(bundle, "jsonl", 2).decode("utf-8").splitlines()]
    assert [i["item_id"] for x in lines for i in x["items"]] == [ids[i] for i in view.top_index.ravel()]
    assert [i["title"] for x in lines for i in x["items"]] == [titles[i] for i in view.top_index.ravel()]
    table = pq.read_table(io.BytesIO(exported(bundle, "parquet", 2)))
    assert table["item_id"].to_pylist() == [ids[i] for i in view.top_index.ravel()]


def test_goals_of_their_own_stand_beside_what_is_read() -> None:
    rng = np.random.default_rng(3)
    read, goal = (rng.dirichlet(np.ones(7), (2, 3)).astype(np.float32) for _ in range(2))
    bundle = of_probabilities(read, goal)
    ids, bundle.titles = bundle.item_ids, [f"={title}" for title in bundle.titles]
    lines = [json.loads(line) for line in exported(bundle, "jsonl", 4).splitlines()]
    hard = csv_rows(exported(bundle, "csv", 4))
    table = pq.read_table(io.BytesIO(exported(bundle, "parquet", 4))).to_pandas()
    assert len(lines) == len(hard) == 6 and len(table) == 24
    for k, line in enumerate(lines):
        g = goal[k // 3, k % 3].astype(np.float64)
        order = np.argsort(-g)[:4]
        assert [x["item_id"] for x in line["next"]] == [ids[i] for i in order]
        assert line["next_mass"] == pytest.approx(g[order].sum())
        seen = {row["item_id"] for row in hard[3 * (k // 3) : k + 1]}
        new = next(i for i in np.argsort(-g) if ids[i] not in seen)
        assert (hard[k]["next_item_id"], hard[k]["next_title"]) == (ids[new], f"'=t{new}")
        assert float(hard[k]["next_probability"]) == pytest.approx(g[new])
        rows = table[(table.synthetic_user == k // 3) & (table.position == k % 3)]
        assert rows.next_item_id.tolist() == [ids[i] for i in order]
        np.testing.assert_allclose(rows.next_probability, g[order])
        np.testing.assert_allclose(rows.next_mass, g[order].sum())
        r = read[k // 3, k % 3]
        assert rows.item_id.tolist() == [ids[i] for i in np.argsort(-r)[:4]]
