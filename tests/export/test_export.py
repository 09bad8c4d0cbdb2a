"""Exports of a small fake bundle with known probabilities, against independent numpy and hostile titles."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foster_cli.commands.export import command
from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.export import FORMATS, get_format
from foster_cli.export.csv import safe_cell
from foster_cli.export.hard import make_hard
from foster_cli.export.job import Job
from foster_cli.export.view import make_view

FILES = sorted(name for name, f in FORMATS.items() if not f.folder)

HOSTILE = [
    'He said "hi, there',
    "two\nlines\r\nand\u2028three\x85four",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "\u202eevil\u2066 \u200f=1",
    "</script><script>alert(1)</script>",
    "[red]not markup[/red]",
    "Crème Brûlée – Łódź 雪 🏕️",
    "'=quoted",
    "\x00nul \x9b31mred",
    "",
    "plain, with comma",
]


@dataclass
class FakeBundle:
    """What `foster_cli.bundle.Bundle` offers to exporters; `p` is (M, L, n)."""

    item_ids: list[str]
    titles: list[str]
    p: torch.Tensor
    g: torch.Tensor | None = None
    windows: None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def own_goals(self) -> bool:
        return self.g is not None

    def goals(self, rows: slice | None) -> torch.Tensor:
        assert self.g is not None
        return self.g if rows is None else self.g[rows]

    def probabilities(self, rows: slice | None) -> torch.Tensor:
        return self.p if rows is None else self.p[rows]


def fake(users: int = 3, length: int = 6, titles: list[str] | None = None, seed: int = 0) -> FakeBundle:
    titles = HOSTILE if titles is None else titles
    n = len(titles)
    logits = torch.randn(users, length, n, generator=torch.Generator().manual_seed(seed)) * 2
    logits[..., n // 2] += 3.0  # one favourite, so that greedy choice meets repeats
    return FakeBundle([f"id{i}" for i in range(n)], titles, torch.softmax(logits, -1))


def exported(bundle: FakeBundle, name: str, top: int) -> bytes:
    file = io.BytesIO()
    get_format(name).write(Job(bundle, top=top), file)
    return file.getvalue()


def csv_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))


def greedy(p: npt.NDArray[np.float64]) -> list[int]:
    """The hard sequence by brute force: mask what was used, take the argmax."""
    p, out = p.copy(), []
    for row in range(len(p)):
        out.append(int(p[row].argmax()))
        p[:, out[-1]] = -1.0
    return out


@pytest.mark.parametrize("top", [1, 5, len(HOSTILE)])
def test_view_against_numpy(top: int) -> None:
    bundle = fake()
    view, p = make_view(bundle, top), bundle.p.numpy().astype(np.float64)
    order = np.argsort(-p, axis=-1, kind="stable")[..., :top]
    np.testing.assert_array_equal(view.top_index, order)
    np.testing.assert_array_equal(view.top_probability, np.take_along_axis(p, order, -1))
    hard = make_hard(bundle)
    for user in range(len(p)):
        assert hard.items[user].tolist() == greedy(p[user])
        assert len(set(hard.items[user])) == p.shape[1], "no repeats"
        np.testing.assert_array_equal(hard.probability[user], p[user, np.arange(6), hard.items[user]])


def test_ties_in_catalogue_order_and_short_catalogues() -> None:
    bundle = FakeBundle(["a", "b", "c"], ["A", "B", "C"], torch.full((1, 5, 3), 1 / 3))
    view = make_view(bundle, 2)
    assert view.top_index.tolist() == [[[0, 1]] * 5]
    assert make_hard(bundle).items.tolist() == [[0, 1, 2, 0, 1]], "after all three items they may come again"


@pytest.mark.parametrize("top", [0, -1, len(HOSTILE) + 1])
def test_top_out_of_range(top: int) -> None:
    with pytest.raises(FosterError, match=f"--top {top}: this bundle has {len(HOSTILE)} items"):
        make_view(fake(), top)


def test_damaged_bundles() -> None:
    bundle = fake()
    bundle.p[1, 0, 0] = float("nan")
    with pytest.raises(FosterError, match=r"synthetic user 1: .*not finite"):
        make_view(bundle, 2)
    with pytest.raises(FosterError, match="no synthetic users"):
        make_view(FakeBundle(["a"], ["A"], torch.zeros(0, 4, 1)), 1)
    with pytest.raises(FosterError, match="over 1 items, the bundle names 2"):
        make_view(FakeBundle(["a", "b"], ["A", "B"], torch.ones(1, 4, 1)), 1)


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


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if name != "torch" and not f.data])
def test_lone_surrogates_become_question_marks(name: str, tmp_path: Path) -> None:
    bundle = fake(1, 2, ["a\ud800", "b"])
    bundle.item_ids = ["x\udfff", "y"]
    if FORMATS[name].folder:
        FORMATS[name].write(Job(bundle, top=2), tmp_path)
        data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    else:
        data = exported(bundle, name, 2)
    shows = {"rectools": b"x?", "lkpy": b"x?"}
    assert shows.get(name, b"a?") in data


def test_formats() -> None:
    assert list(FORMATS)[:4] == ["jsonl", "parquet", "torch", "csv"]
    assert get_format("JSONL") is FORMATS["jsonl"]
    with pytest.raises(FosterError, match=r"did you mean jsonl.*jsonl, parquet, torch, csv"):
        get_format("json")
    with pytest.raises(FosterError, match="formats are jsonl, parquet, torch, csv"):
        get_format("xyz")


# -- the command ----------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle folder; loading anything gives the fake bundle, and no bundle given means this folder."""
    folder = tmp_path / "runs" / "shop-foster-b20-1"
    folder.mkdir(parents=True)
    (folder / "factors.safetensors").write_bytes(b"factors")

    def resolve_bundle(bundle: Path | None, console: Console) -> Path:
        if bundle is None:
            console.note(f"bundle: {folder}")
        return bundle or folder

    for name, attributes in (
        ("foster_cli.bundle", {"load": lambda path: fake()}),
        (
            "foster_cli.commands.common",
            {"resolve_bundle": resolve_bundle, "bundle_data": None, "spare_data": lambda target, bundle: None},
        ),
    ):
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return folder


def test_default_goes_into_the_bundle(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(bundle=None, format="jsonl", out=None, top=3, json=False)
    lines = (run_dir / "synthetic.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 18
    assert len(json.loads(lines[0])["items"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "shop-foster-b20-1" in printed.err
    assert sorted(p.name for p in run_dir.iterdir()) == ["factors.safetensors", "synthetic.jsonl"]


def test_format_follows_the_ending_of_out(run_dir: Path, tmp_path: Path) -> None:
    command(bundle=run_dir, format=None, out=tmp_path / "x.csv", json=False)
    assert (tmp_path / "x.csv").read_text("utf-8").startswith("synthetic_user,position,item_id")
    command(bundle=run_dir, format=None, out=tmp_path / "x.txt", top=3, json=False)
    assert json.loads((tmp_path / "x.txt").read_text("utf-8").splitlines()[0])["position"] == 0


def test_json_event(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(bundle=run_dir, format="parquet", out=tmp_path / "s.parquet", top=2, json=True)
    event = json.loads(capsys.readouterr().out)
    assert event["out"] == str(tmp_path / "s.parquet")
    assert event["format"] == "parquet"
    assert (event["synthetic_users"], event["positions"], event["top"]) == (3, 6, 2)


@pytest.mark.parametrize("name", FILES)
def test_stdout_carries_nothing_else(run_dir: Path, name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    command(bundle=None, format=name, out=Path("-"), top=2 if FORMATS[name].lists else None, json=True)
    printed = capfdbinary.readouterr()
    assert printed.out == exported(fake(), name, 2)
    assert b"standard output" in printed.err


def test_bad_targets_leave_nothing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FosterError, match="file of the bundle itself"):
        command(bundle=run_dir, format="jsonl", out=run_dir / "factors.safetensors", top=2, json=False)
    with pytest.raises(FosterError, match="is a folder"):
        command(bundle=run_dir, format="jsonl", out=tmp_path, top=2, json=False)
    with pytest.raises(FosterError, match="cannot write"):
        command(bundle=run_dir, format="jsonl", out=run_dir / "factors.safetensors" / "x", top=2, json=False)
    with pytest.raises(FosterError, match="--top 17"):
        command(bundle=run_dir, format="jsonl", out=tmp_path / "x.jsonl", top=17, json=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(FosterError, match="not for a terminal"):
        command(bundle=run_dir, format="parquet", out=Path("-"), top=2, json=False)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["factors.safetensors"]
    assert (run_dir / "factors.safetensors").read_bytes() == b"factors"


def test_goals_of_their_own_stand_beside_what_is_read() -> None:
    rng = np.random.default_rng(3)
    read, goal = (torch.from_numpy(rng.dirichlet(np.ones(7), (2, 3)).astype(np.float32)) for _ in range(2))
    ids = [f"i{k}" for k in range(7)]
    job = Job(FakeBundle(ids, [f"=t{k}" for k in range(7)], read, goal), top=4)
    files = {name: io.BytesIO() for name in ("jsonl", "csv", "parquet")}
    for name, file in files.items():
        FORMATS[name].write(job, file)
    lines = [json.loads(line) for line in files["jsonl"].getvalue().splitlines()]
    hard = list(csv.DictReader(io.StringIO(files["csv"].getvalue().decode())))
    table = pq.read_table(io.BytesIO(files["parquet"].getvalue())).to_pandas()
    assert len(lines) == len(hard) == 6 and len(table) == 24
    for k, line in enumerate(lines):
        g = goal[k // 3, k % 3].numpy().astype(np.float64)
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
        r = read[k // 3, k % 3].numpy()
        assert rows.item_id.tolist() == [ids[i] for i in np.argsort(-r)[:4]]


PIPED = """
import sys, types
import numpy as np
from pathlib import Path
bundle = types.ModuleType("foster_cli.bundle")
class Tensor:  # torch is slow to import
    def __init__(self, a): self.a, self.shape = a, a.shape
    def __getitem__(self, rows): return Tensor(self.a[rows])
    def detach(self): return self
    def cpu(self): return self
    def numpy(self): return self.a
class B:
    own_goals, windows = False, None
    item_ids = [str(i) for i in range(300)]
    titles = ["title " * 100] * 300
    p = Tensor(np.random.default_rng(0).random((30, 20, 300), dtype=np.float32) / 300)
    def probabilities(self, rows): return self.p[rows]
bundle.load = lambda path: B()
common = types.ModuleType("foster_cli.commands.common")
common.resolve_bundle = lambda bundle, console: bundle
common.bundle_data = common.spare_data = None
sys.modules["foster_cli.bundle"], sys.modules["foster_cli.commands.common"] = bundle, common
from foster_cli.commands.export import command
command(bundle=Path("."), format=sys.argv[1], out=Path("-"), top=int(sys.argv[2]) or None, json=False)
"""


@pytest.mark.parametrize(("name", "flags"), [("jsonl", []), ("csv", ["-u"]), ("parquet", [])])
def test_a_closed_pipe_ends_quietly(name: str, flags: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    writer = [sys.executable, *flags, "-c", PIPED, name, {"parquet": "300", "jsonl": "20", "csv": "0"}[name]]
    process = subprocess.Popen(writer, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert errors == b""
