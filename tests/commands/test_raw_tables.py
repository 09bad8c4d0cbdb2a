"""Tables in a public form, from the command line to a table of results: one city of Yelp, with R@5 as in the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calling import QUICK, Foster, ok, one_line, shop


@pytest.fixture
def yelp(tmp_path: Path) -> tuple[Path, Path]:
    """Reviews and businesses as Yelp's open dataset writes them; every second business is in Nashville."""
    table = shop()
    ids = sorted(set(table["item_id"]))
    business, review = tmp_path / "yelp_academic_dataset_business.json", tmp_path / "yelp_academic_dataset_review.json"
    titles = dict(zip(table["item_id"], table["title"], strict=True))
    business.write_text("".join(json.dumps({
        "business_id": item, "name": titles[item], "city": ("Nashville", "Tampa")[i % 2], "stars": 4.0,
        "attributes": {"BusinessParking": "{'garage': False}"}, "categories": "Food, Bars", "hours": None,
    }) + "\n" for i, item in enumerate(ids)))  # fmt: skip
    review.write_text("".join(json.dumps({
        "review_id": str(i), "user_id": row.user_id, "business_id": row.item_id, "stars": 1.0 + i % 5,
        "text": f"Nice place {i}", "date": f"2017-08-{1 + i % 28:02d} 16:{i // 60 % 60:02d}:{i % 60:02d}",
    }) + "\n" for i, row in enumerate(table.itertuples())))  # fmt: skip
    return review, business


def test_one_city_from_files_to_results(foster: Foster, yelp: tuple[Path, Path], encoder: Path) -> None:
    asked = ("--where", "city=Nashville", "--where", "stars>=2", "--k-core", "1")
    said = foster("distill", *yelp, *asked, *QUICK, "--encoder", encoder, "--width", "16", "--out", "b")
    assert said.code == 0, said.err
    table = shop()
    ids = sorted(set(table["item_id"]))
    inside = [i for i, item in enumerate(table["item_id"]) if ids.index(item) % 2 == 0 and i % 5 >= 1]
    made = json.loads(Path("b", "bundle.json").read_text())
    rows = made["data"]["statistics"]["rows"]
    assert rows["read"] == len(table) and rows["filtered"] == len(table) - len(inside)
    assert made["data"]["statistics"]["interactions"] == len(set(map(tuple, table.iloc[inside, :2].to_numpy())))
    assert f"{len(table) - len(inside):,} left out by --where" in said.err and "not a text" not in said.err
    few = ("--seeds", "1", "--rows", "synthetic,popularity", "--k", "5,10", "--json")
    found = json.loads(ok(foster("eval", "b", *few)))
    assert 0 <= found["rows"]["synthetic"]["R@5"]["mean"] <= found["rows"]["synthetic"]["R@10"]["mean"]


@pytest.mark.usefixtures("untouched")
def test_filters_that_leave_nothing_or_name_nothing(foster: Foster, yelp: tuple[Path, Path]) -> None:
    one_line(foster("distill", *yelp, "--where", "city=Paris"), "no interaction has city=Paris")
    one_line(foster("distill", *yelp, "--where", "citi=Tampa"), "no column citi", "city=Tampa")
    one_line(foster("distill", *yelp, "--where", "city"), "--where city")
    one_line(foster("distill", yelp[0]), "reviews", "table of items")
