"""The generated shop: shape, determinism, and that neither popularity nor titles alone solve it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from foster_cli.commands.sample import command
from foster_cli.data import sample
from foster_cli.data.prepare import prepare
from foster_cli.data.sample import ShopBlocks, generate_shop, plain, write_blocks
from foster_cli.data.schema import Dataset
from foster_cli.errors import FosterError
from foster_cli.runtime import stream_seed
from foster_cli.settings import PrepareSettings

COLUMNS = ["user_id", "item_id", "timestamp", "title", "categories"]
Scores = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def shop() -> pd.DataFrame:
    return generate_shop(5000, 2000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def hits(shop: pd.DataFrame) -> dict[str, float]:
    return simple_rules(shop)


def simple_rules(shop: pd.DataFrame) -> dict[str, float]:
    """Hit@10 in the last tenth of time, ranked among all items, of simple rules fitted on the first 8/10."""
    items = shop.drop_duplicates("item_id").sort_values("item_id").reset_index(drop=True)
    n = len(items)
    number = pd.Series(items.index, index=items["item_id"])
    group, kinds = pd.factorize(items["categories"])  # product types: what shows of the hidden groups
    group_words = [kind.split(" > ")[1] for kind in items["categories"]]
    other_words = [t.replace(k, "") for t, k in zip(items["title"], group_words, strict=True)]
    bag = normalize(CountVectorizer().fit_transform(items["title"]).astype(float))
    has = CountVectorizer(binary=True).fit_transform(other_words).toarray().astype(float)

    table = shop.assign(item=shop["item_id"].map(number).to_numpy())
    table["period"] = np.minimum(np.arange(len(table)) * 10 // len(table), 9)  # rows are in order of time
    table = table.sort_values(["user_id", "timestamp"], kind="stable")
    same = table["user_id"].to_numpy()[1:] == table["user_id"].to_numpy()[:-1]
    item, period = table["item"].to_numpy(), table["period"].to_numpy()

    popularity = np.bincount(item[period < 8], minlength=n).astype(float)
    pairs = same & (period[1:] < 8)
    before, after = item[:-1][pairs], item[1:][pairs]
    moves = np.zeros((len(kinds), len(kinds)))
    np.add.at(moves, (group[before], group[after]), 1.0)
    share = np.bincount(group, popularity) / popularity.sum()
    moves = (moves + 20 * share) / (moves.sum(1, keepdims=True) + 20)
    within = (popularity + 1) / np.bincount(group, popularity + 1)[group]
    # How much likelier a word of the last title is in the next one than in any.
    lift = np.log((has[before] * has[after]).sum(0) + 5) - np.log(has[before].sum(0) * has[after].mean(0) + 5)

    at = np.flatnonzero(same & (period[1:] == 9))
    last, target = item[at], item[at + 1]

    def hit(score: Scores) -> float:
        """Ties count half."""
        goal = score[np.arange(len(target)), target][:, None]
        above, tied = (score > goal).sum(1), (score == goal).sum(1) - 1
        return float((above + tied / 2 < 10).mean())

    nearest = (bag[last] @ bag.T).toarray()
    nearest[np.arange(len(last)), last] = -1.0
    next_group = moves[group[last]][:, group] * within
    return {
        "cases": float(len(target)),
        "popularity": hit(np.broadcast_to(popularity, nearest.shape)),
        "text": hit(nearest),
        "transitions": hit(next_group),
        "both": hit(next_group * np.exp((has[last] * lift) @ has.T)),
    }


def test_columns_and_shape(shop: pd.DataFrame) -> None:
    assert list(shop.columns) == COLUMNS
    assert shop["timestamp"].dtype == np.int64
    assert not shop.isna().any().any()
    assert shop["timestamp"].is_monotonic_increasing
    lengths = shop.groupby("user_id").size()
    assert len(lengths) == 5000
    assert lengths.min() >= 5
    assert 8 <= lengths.mean() <= 12
    counts = shop["item_id"].value_counts()
    assert len(counts) > 1950
    assert (counts >= 5).mean() > 0.9, "the 5-core keeps most items"


def test_titles_are_unique_readable_and_some_awkward(shop: pd.DataFrame) -> None:
    titles = shop.drop_duplicates("item_id")["title"]
    assert titles.is_unique
    assert shop.groupby("item_id")["title"].nunique().max() == 1
    for character in ('"', "&", "'", "é", "Å"):
        assert titles.str.contains(character, regex=False).any(), character
    assert titles.str.split().str.len().between(4, 14).all()


def test_timestamps_have_rhythm_and_bursts(shop: pd.DataFrame) -> None:
    moment = pd.to_datetime(shop["timestamp"], unit="ms")
    assert moment.min() >= pd.Timestamp("2022-01-01")
    assert moment.max() < pd.Timestamp("2024-02-01")
    weekend = moment.map(lambda m: m.weekday() >= 5).mean()
    assert 0.4 < weekend < 0.6
    hours = moment.dt.hour.value_counts(normalize=True)
    assert hours[20] > 5 * hours[3]
    gaps = shop.sort_values(["user_id", "timestamp"]).groupby("user_id")["timestamp"].diff().dropna()
    assert 0.25 < (gaps < 3_600_000).mean() < 0.65
    assert (gaps > 5 * 86_400_000).mean() > 0.3


def test_popularity_is_a_power_law(shop: pd.DataFrame) -> None:
    counts = shop["item_id"].value_counts().to_numpy()
    slope = np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0]
    assert -1.6 < slope < -0.4


def test_items_are_introduced_over_time(shop: pd.DataFrame) -> None:
    first = shop.groupby("item_id")["timestamp"].min()
    start, end = shop["timestamp"].iloc[[0, -1]]
    late = (first > start + 0.4 * (end - start)).mean()
    assert 0.1 < late < 0.4


def test_neither_popularity_nor_titles_nor_transitions_alone_solve_it(hits: dict[str, float]) -> None:
    assert hits["cases"] > 3000
    assert 0.015 < hits["popularity"] < 0.045
    assert 0.03 < hits["text"] < 0.08
    assert hits["both"] > 0.15
    for alone in ("popularity", "text", "transitions"):
        assert hits["both"] >= 1.3 * hits[alone], hits


def test_tastes_drift(shop: pd.DataFrame) -> None:
    """Departments of a user's first and last third differ more than those of odd and even positions."""
    table = shop.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)
    table["department"] = table["categories"].str.split(" > ").str[0]
    by_user = table.groupby("user_id")
    size, position = by_user["item_id"].transform("size"), by_user.cumcount()
    table, position, size = table[size >= 12], position[size >= 12], size[size >= 12]

    def distance(half: pd.Series) -> float:
        counts = table.groupby([table["user_id"], half])["department"].value_counts(normalize=True)
        wide = counts.unstack(level=1).fillna(0.0)
        return float((wide[0] - wide[1]).abs().groupby(level=0).sum().mean() / 2)

    rng = np.random.default_rng(0)
    noise = pd.Series(rng.random(len(table)), index=table.index)
    shuffled = noise.groupby(table["user_id"]).rank() > size / 2
    early_late = distance((position >= size / 2).astype(int))
    by_chance = distance(shuffled.astype(int))
    assert early_late > by_chance + 0.03, (early_late, by_chance)


def test_same_seed_same_bytes_other_seed_other_shop(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        command(out=tmp_path / f"{name}.parquet", users=60, items=50, seed=seed, json=False)
    a, b, c = ((tmp_path / f"{name}.parquet").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.parquet"]
    assert pq.read_schema(tmp_path / "a.parquet").names == COLUMNS


def test_json_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(out=tmp_path / "s.parquet", users=20, items=30, seed=0, json=True)
    result = json.loads(capsys.readouterr().out)
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert result["interactions"] == len(table)
    assert result["users"] == 20
    assert result["items_bought"] == table["item_id"].nunique()


@pytest.mark.parametrize(("users", "items"), [(10, 20), (11, 2000), (300, 20), (40, 8000)])
def test_odd_sizes(users: int, items: int) -> None:
    shop = generate_shop(users, items, np.random.default_rng(1))
    assert shop["user_id"].nunique() == users
    assert shop["item_id"].nunique() <= items
    assert shop.drop_duplicates("item_id")["title"].is_unique


def _prepared(users: int, items: int, turnover: float, seed: int = 0) -> Dataset:
    shop = generate_shop(users, items, np.random.default_rng(seed), turnover)
    return prepare(shop, None, PrepareSettings(), "shop")


def _new(data: Dataset, split: int) -> float:
    """The share of a split's targets that train lacks."""
    rows = data.interactions
    return float((~np.isin(rows.item[rows.split == split], rows.item[rows.split == 0])).mean())


def _rank_by_popularity(data: Dataset) -> float:
    """Mean rank of test's targets by their number in train, from 0 (best) to 1. Ties count half."""
    rows = data.interactions
    count = np.bincount(rows.item[rows.split == 0], minlength=len(data.catalogue))
    order = np.sort(count)
    goal = count[rows.item[rows.split == 2]]
    below = (np.searchsorted(order, goal, "left") + np.searchsorted(order, goal, "right")) / 2
    return float(1 - (below / len(order)).mean())


def test_without_turnover_the_bytes_are_those_of_before_there_was_one() -> None:
    found = {}
    for users, items, seed in ((10, 20, 0), (300, 120, 1)):
        table = generate_shop(users, items, np.random.default_rng(seed), 0.0).to_csv(index=False)
        found[users, items, seed] = hashlib.sha256(table.encode()).hexdigest()[:20]
    assert found == {
        (10, 20, 0): "aedfb0d4d88fe63373e9",
        (300, 120, 1): "85504812f165c49d6b1e",
    }
    table = generate_shop(300, 120, np.random.default_rng(1), 0.5).to_csv(index=False)
    assert hashlib.sha256(table.encode()).hexdigest()[:20] == "1fed346e3489b8d822ea", "nor do blocks change it with one"


@pytest.mark.parametrize(("users", "items"), [(2000, 800), (6000, 3000), (1500, 2000)])
def test_turnover_is_the_share_of_validation_targets_that_train_lacks(users: int, items: int) -> None:
    still = _rank_by_popularity(_prepared(users, items, 0.0))
    for turnover in (0.2, 0.5, 0.7):
        for seed in range(2):
            data = _prepared(users, items, turnover, seed)
            assert _new(data, 1) == pytest.approx(turnover, abs=0.1)
            assert _new(data, 2) >= _new(data, 1)
            assert _rank_by_popularity(data) > still + 0.2


def test_with_turnover_demand_rises_and_fades_and_old_best_sellers_are_gone() -> None:
    shop = generate_shop(5000, 2000, np.random.default_rng(0), 0.5)
    share = np.arange(len(shop)) / len(shop)  # the shop's clock: its interactions, in order of time
    first = shop["item_id"].iloc[: len(shop) * 4 // 10].value_counts().index[:100]
    late = shop["item_id"].iloc[len(shop) * 8 // 10 :]
    assert late.isin(first).mean() < 0.01
    by_item = pd.Series(share).groupby(shop["item_id"].to_numpy())
    often = by_item.size() >= 20
    life = (by_item.quantile(0.95) - by_item.quantile(0.05))[often]
    assert 0.05 < life.median() < 0.3
    start, middle = by_item.min()[often], by_item.median()[often]
    later = start[start > 0.1].index
    assert ((middle - start)[later] > 0.2 * life[later]).mean() > 0.9, "demand rises: the first purchases are few"


def test_with_turnover_texts_carry_over_to_new_items() -> None:
    """Moves between product types, counted in train, and the brand rank the new items of validation."""
    data = _prepared(6000, 3000, 0.5)
    kind, names = pd.factorize(np.array([text.split(" > ")[-1] for text in data.catalogue.texts]))
    brand = np.array([title.split()[0] for title in data.catalogue.titles])
    rows = data.interactions
    at = np.flatnonzero(rows.user[1:] == rows.user[:-1])
    before, after, split = rows.item[at], rows.item[at + 1], rows.split[at + 1]
    moves = np.ones((2, len(names), len(names)))  # in train, in validation
    for i in range(2):
        np.add.at(moves[i], (kind[before[split == i]], kind[after[split == i]]), 1.0)
    moves *= 1 - np.eye(len(names))
    assert (moves[0].argmax(1) == moves[1].argmax(1)).mean() > 0.9, "complements stay"
    moves[0] += np.eye(len(names)) * moves[0].max(1)

    new = np.flatnonzero(np.bincount(rows.item[rows.split == 0], minlength=len(kind)) == 0)
    cases = (split == 1) & np.isin(after, new)
    last, target = before[cases], after[cases]
    score, goal = moves[0][kind[last]][:, kind[new]], moves[0][kind[last], kind[target]][:, None]
    rank = ((score > goal).mean(1) + (score == goal).mean(1) / 2).mean()
    assert rank < 0.3, "0.5 is chance"
    by_chance = (brand[last][:, None] == brand[new]).mean()
    assert (brand[last] == brand[target]).mean() > 1.5 * by_chance


@pytest.mark.parametrize(
    ("users", "items", "turnover"), [(10, 20, 0.5), (11, 2000, 0.8), (300, 20, 0.8), (300, 120, 1e-6)]
)
def test_odd_sizes_with_turnover(users: int, items: int, turnover: float) -> None:
    a, b = (generate_shop(users, items, np.random.default_rng(1), turnover) for _ in range(2))
    assert a.equals(b)
    assert a["user_id"].nunique() == users and list(a.columns) == COLUMNS
    plain = generate_shop(users, items, np.random.default_rng(1))
    assert set(a["title"]) & set(plain["title"]), "the stock is the same, only its times differ"


@pytest.mark.parametrize("turnover", ["-0.1", "0.81", "1", "nan", "inf"])
def test_a_turnover_out_of_range_is_one_line_with_a_hint(
    call_foster: Callable[..., tuple[int, str, str]], turnover: str, tmp_path: Path
) -> None:
    code, out, err = call_foster("sample", "--turnover", turnover, "--out", tmp_path / "shop.parquet")
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith(f"foster: --turnover {turnover}: ")
    assert "from 0 to 0.8" in err and "such as 0.5" in err
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(FosterError, match="--users 9"):
        generate_shop(9, 100, rng)
    with pytest.raises(FosterError, match="--items 19"):
        generate_shop(100, 19, rng)
    with pytest.raises(FosterError, match=r"shop\.parquet"):
        command(out=tmp_path / "shop.txt", users=20, items=30, seed=0, json=False)
    (tmp_path / "dir.parquet").mkdir()
    with pytest.raises(FosterError, match="folder"):
        command(out=tmp_path / "dir.parquet", users=20, items=30, seed=0, json=False)
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(FosterError, match="exists already"):
        command(out=tmp_path / "mine.parquet", users=20, items=30, seed=0, json=False)
    assert (tmp_path / "mine.parquet").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(FosterError, match="cannot write"):
        command(out=tmp_path / "file" / "shop.parquet", users=20, items=30, seed=0, json=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.parquet", "file", "mine.parquet"]


def blocks_of(rows: int, users: int | None, items: int, turnover: float = 0.0, seed: int = 0) -> list[pd.DataFrame]:
    blocks = ShopBlocks(rows, users, items, np.random.default_rng(seed), turnover)
    return [plain(table).to_pandas() for table in blocks]


@pytest.fixture(scope="module")
def large() -> list[pd.DataFrame]:
    """Blocks of a shop with a mean of 50 interactions per user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "BLOCK", 50_000)
        return blocks_of(150_000, 3000, 2000)


def test_blocks_have_the_rows_and_the_users_that_were_asked_for(large: list[pd.DataFrame]) -> None:
    assert len(large) == 3
    for block in large:
        assert list(block.columns) == COLUMNS and block["timestamp"].dtype == np.int64
        assert block["timestamp"].is_monotonic_increasing
        assert not block.isna().any().any()
    users = [set(block["user_id"]) for block in large]
    assert sum(map(len, users)) == len(set.union(*users)) == 3000
    table = pd.concat(large)
    assert len(table) == pytest.approx(150_000, rel=0.002)
    lengths = table.groupby("user_id").size()
    assert 5 <= lengths.min() < 8 and 150 < lengths.max() <= 200
    assert not table.duplicated(["user_id", "item_id"]).any()
    assert table.groupby("item_id")["title"].nunique().max() == 1
    assert table.drop_duplicates("item_id")["title"].is_unique
    assert table.groupby("item_id")["categories"].nunique().max() == 1
    spans = [block["timestamp"].iloc[[0, -1]].tolist() for block in large]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)


def test_blocks_by_default_have_a_user_per_ten_rows_like_the_shop_that_is_made_at_once() -> None:
    (table,) = blocks_of(3000, None, 200)
    assert len(table) == pytest.approx(3000, rel=0.01)
    lengths = table.groupby("user_id").size()
    assert len(lengths) == 300 and lengths.min() >= 5 and lengths.max() <= 40
    (shortest,) = blocks_of(1000, 200, 200)
    assert (shortest.groupby("user_id").size() == 5).all() and len(shortest) == 1000


def test_blocks_are_as_hard_as_the_shop_that_is_made_at_once(
    hits: dict[str, float], shop: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "BLOCK", 25_000)
    blocks = blocks_of(50_000, 5000, 2000)
    assert len(blocks) == 2
    table = pd.concat(blocks).sort_values("timestamp", kind="stable").reset_index(drop=True)
    found = simple_rules(table)
    for rule in ("popularity", "text", "transitions", "both"):
        assert found[rule] == pytest.approx(hits[rule], rel=0.25, abs=0.01), rule
    # the same stock, and about the same share of each item
    assert set(table["title"]) & set(shop["title"])
    counts = pd.concat([t["title"].value_counts().rename(k) for k, t in (("a", shop), ("b", table))], axis=1).fillna(0)
    assert np.corrcoef(counts["a"], counts["b"])[0, 1] > 0.9


def test_few_items_are_bought_again_only_at_the_end() -> None:
    """Histories of up to half of all items, in four groups."""
    (table,) = blocks_of(200, 20, 80)
    assert not table.duplicated(["user_id", "item_id"]).any()


@pytest.mark.parametrize("turnover", [0.0, 0.5])
def test_the_same_seed_gives_the_same_blocks(turnover: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "BLOCK", 1000)
    made = ShopBlocks(3000, 100, 400, np.random.default_rng(7), turnover)
    first, again = list(made), list(made)
    other = list(ShopBlocks(3000, 100, 400, np.random.default_rng(7), turnover))
    assert len(first) == len(made) == 3
    assert first == again == other
    assert first != list(ShopBlocks(3000, 100, 400, np.random.default_rng(8), turnover))
    assert made.bought.sum() == len({item for table in first for item in table["item_id"].to_pylist()})


@pytest.mark.parametrize("searched", [sample.SEARCHED, 1000])
def test_turnover_of_blocks(searched: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the age at the peak is searched on a third of the items."""
    monkeypatch.setattr(sample, "BLOCK", 30_000)
    monkeypatch.setattr(sample, "SEARCHED", searched)
    for turnover in (0.2, 0.5):
        data = prepare(pd.concat(blocks_of(60_000, None, 3000, turnover)), None, PrepareSettings(), "shop")
        assert _new(data, 1) == pytest.approx(turnover, abs=0.1)
        assert _new(data, 2) >= _new(data, 1)


def test_files_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sample, "BLOCK", 1000)
    for name in ("a.parquet", "b.parquet", "a.csv", "b.csv"):
        command(out=tmp_path / name, rows=5000, users=100, items=500, seed=2, json=True)
        result = json.loads(capsys.readouterr().out)
        assert (result["interactions"], result["users"]) == (5000, 100)
    for ending in ("parquet", "csv"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == 5 and file.schema_arrow.names == COLUMNS
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["user_id"].dtype != "category", "strings to readers"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), table)
    assert result["items_bought"] == table["item_id"].nunique()
    assert len(list(tmp_path.iterdir())) == 4


def test_csv_without_rows_is_the_parquet(tmp_path: Path) -> None:
    for name in ("shop.parquet", "shop.csv"):
        command(out=tmp_path / name, users=60, items=50, seed=3, json=False)
    made = generate_shop(60, 50, np.random.default_rng(stream_seed(3, "sample")))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "shop.csv"), pd.read_parquet(tmp_path / "shop.parquet"))
    assert pd.read_csv(tmp_path / "shop.csv").to_csv() == made.to_csv()


def test_what_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(blocks: ShopBlocks, path: Path, as_csv: bool, done: Callable[[int], None]) -> int:
        def stop(number: int) -> None:
            assert path.stat().st_size > 0
            raise KeyboardInterrupt

        return write_blocks(blocks, path, as_csv, stop)

    monkeypatch.setattr(sample, "write_blocks", interrupted)
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(KeyboardInterrupt):
            command(out=tmp_path / name, rows=1000, items=200, json=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (("--rows", 99), "--rows 99: too few for a shop", "give 100 or more"),
        (("--rows", 1000, "--users", 9), "--users 9: too few for a shop", "give 10 or more"),
        (("--rows", 1000, "--users", 201), "--rows 1000: too few for 201 users", "give --users 200 or fewer"),
        (("--rows", 1000, "--users", 10), "--items 500: too few for users who have up to 400", "--users 16 or more"),
        (("--rows", 1000, "--items", 79), "--items 79: too few for users who have up to 40", "give --items 80 or more"),
        (("--rows", 1000, "--turnover", 0.9), "--turnover 0.9: not a share", "such as 0.5"),
    ],
)
def test_bad_numbers_of_rows_are_one_line_with_a_hint(
    call_foster: Callable[..., tuple[int, str, str]], options: tuple[object, ...], said: str, hint: str, tmp_path: Path
) -> None:
    code, out, err = call_foster("sample", "--items", 500, *options, "--out", tmp_path / "shop.csv")
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith(f"foster: {said}")
    assert hint in err
    assert not list(tmp_path.iterdir())


def test_the_numbers_of_a_hint_are_accepted() -> None:
    for rows, users, items in ((1000, 16, 500), (1000, 10, 800), (1000, 200, 500), (1000, None, 80)):
        ShopBlocks(rows, users, items, np.random.default_rng(0))


def test_command_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, foster_cli.commands.sample, foster_cli.commands.export; "
        "sys.stdout.write(' '.join({'numpy', 'pandas', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
