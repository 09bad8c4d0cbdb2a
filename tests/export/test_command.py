"""`foster export` on real bundles: options, targets, what is said, and a format added as docs/export.md says.

To run it alone: `pytest tests/export/test_command.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import foster_cli.export as registry
from foster_cli.bundle import load
from foster_cli.export import FORMATS, Format
from foster_cli.export.hard import make_hard

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(call_foster: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`foster export ARGS…` in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda *args: call_foster("export", *args)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["own", "next", "real"])
def test_every_format_goes_into_the_bundle_by_default(
    name: str, kind: str, export: Call, shop_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = shutil.copytree(shop_bundle(kind), tmp_path / "bundle")
    code, out, err = export(bundle, "--format", name, "--json")
    if (name, kind) == ("torch", "real"):
        assert code == 2 and "real sequences" in err and not (bundle / FORMATS[name].default).exists()
        return
    assert code == 0, err
    target = bundle / FORMATS[name].default
    assert target.is_dir() == FORMATS[name].folder
    event = json.loads(out)
    assert event["out"] == str(target) and event["format"] == name
    assert (event["synthetic_users"], event["positions"]) == (3, 7 if kind == "real" else 6)
    hardened = FORMATS[name].hard and kind != "real"
    assert ("one item per position carries" in err) == hardened
    if hardened:
        read, predicted = make_hard(load(bundle)).mass()
        assert f"carries {read:.3f} of what it reads" in err
        assert (f"and {predicted:.3f} of what it predicts" in err) == (kind == "own")
        assert event["mean_probability"] == {"read": read, "predicted": predicted}
    if FORMATS[name].folder:
        record = json.loads((target / "foster-export.json").read_text())
        assert record["format"] == name and ("decode" in record) == hardened
        needed = {path: 0o500 if path.is_dir() else 0o400 for path in target.rglob("*")}
        assert all(path.stat().st_mode & bits == bits for path, bits in needed.items())
        assert export(bundle, "--format", name)[0] == 0, "an export may be replaced"
    assert load(bundle).item_ids, "the bundle is as good as before"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--format", "jsonl", "--decode", "sample"), "--decode: means nothing with --format jsonl"),
        (("--format", "torch", "--copies", "2"), "--copies: means nothing with --format torch"),
        (("--format", "torch", "--top", "2"), "--top: means nothing with --format torch"),
        (("--format", "csv", "--top", "2"), "--top: means nothing with --format csv"),
        (("--format", "csv", "--seed", "2"), "--seed: means nothing without --decode sample"),
        (("--format", "csv", "--seeds", "2"), "--seeds: means nothing without --measure"),
        (("--format", "csv", "--device", "cpu"), "--device: means nothing without --measure"),
        (("--format", "parquet", "--measure"), "--measure: means nothing with --format parquet"),
        (("--format", "csv", "--template", "x"), "--template: means nothing with --format csv"),
        (("--format", "csv", "--data", "x"), "--data: means nothing with --format csv"),
        (("--format", "csv", "--copies", "2"), "--copies 2: argmax gives the same"),
        (("--format", "csv", "--copies", "0"), "--copies 0: out of range"),
        (("--format", "csv", "--decode", "best"), "--decode best: unknown"),
        (("--format", "hf", "--out", "-"), "--out -: hf writes a folder"),
        (("--format", "csv", "--measure", "--out", "-"), "--measure: prints a table"),
        (("--format", "hf", "--out", "."), "--out .: hf names a folder"),
        (("--format", "hf", "--out", "full"), "--out full: a folder with other files"),
        (("--format", "hf", "--out", "file"), "--out file is a file, hf writes a folder"),
        (("--format", "csv", "--out", "full"), "--out full is a folder; give a file, such as full/synthetic.csv"),
        (("--format", "recbole-split", "--data", "no.csv"), "no.csv: no such file"),
        (("--format", "csv", "--measure", "--data", "no.csv"), "no.csv: no such file"),
        (("--format", "csv", "--template-out", "x"), "--template-out: csv has no prompts; give --format: alpaca, chat"),
        (("--format", "chat", "--template-out", "file"), "--template-out file: exists already"),
        (("--format", "chat", "--template", "bad"), r"bad: unknown placeholder $nobody in [user]"),
        (("--format", "llamafactory", "--template", "bad"), "bad, line 3: unknown section [user]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals_are_one_line_and_leave_nothing(
    args: tuple[str, ...], said: str, export: Call, shop_bundle: Callable[..., Path]
) -> None:
    here = Path.cwd()
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    (here / "file").write_text("mine")
    (here / "bad").write_text("[item]\nx\n[user]\n$nobody\n[assistant]\n")
    default = ("--out", "out") if "--out" not in args else ()
    code, out, err = export(shop_bundle("own"), *args, *default)
    assert (code, out) == (2, "")
    assert said in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(path.name for path in here.rglob("*")) == ["bad", "file", "full", "mine.txt"]
    assert {p.read_text() for p in (here / "file", here / "full" / "mine.txt")} == {"mine"}


def test_nothing_is_measured_for_real_sequences(export: Call, shop_bundle: Callable[..., Path]) -> None:
    code, _, err = export(shop_bundle("real"), "--format", "csv", "--measure", "--out", "x.csv")
    assert code == 2 and "real sequences, nothing was hardened" in err and not Path("x.csv").exists()


def test_measure_prints_and_keeps_the_cost(export: Call, shop_bundle: Callable[..., Path], shop_file: Path) -> None:
    code, out, err = export(
        shop_bundle("own"), "--format", "csv", "--out", "x.csv", "--measure", "--seeds", "1", "--data", shop_file
    )
    assert code == 0, err
    cost = json.loads(Path("x.csv.cost.json").read_text())
    for name in ("soft", "hard", "untrained"):
        values = [f"{cost[name][metric]['mean']:.4f}" for metric in ("R@10", "N@10")]
        assert re.search(rf"^{name} +{' +'.join(values)}$", out, re.MULTILINE), out
    assert cost["seeds"] == [0] and "machine" in cost


def test_a_moved_file_is_named_in_one_line(
    export: Call, shop_bundle: Callable[..., Path], shop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copy(shop_file, tmp_path / "elsewhere.parquet")
    shop_file.rename(shop_file.with_suffix(".gone"))
    try:
        code, _, err = export(shop_bundle("own"), "--format", "recbole-split", "--out", "x")
        assert code == 2 and "no such file" in err and "--data FILE" in err and not Path("x").exists()
        assert export(shop_bundle("own"), "--format", "recbole-split", "--out", "x", "--data", moved)[0] == 0
    finally:
        shop_file.with_suffix(".gone").rename(shop_file)
    other = tmp_path / "other.csv"
    other.write_text("user_id,item_id,timestamp,title\n" + "".join(f"u{k % 9},i{k % 7},{k},t\n" for k in range(200)))
    code, _, err = export(shop_bundle("own"), "--format", "recbole-split", "--out", "y", "--data", other)
    assert code == 2 and "the hashes differ" in err and not Path("y").exists()


def test_a_template_makes_the_round(export: Call, shop_bundle: Callable[..., Path]) -> None:
    code, _, err = export("--format", "chat", "--template-out", "mine.txt")
    assert code == 0 and "mine.txt" in err
    args = (shop_bundle("own"), "--format", "chat")
    assert export(*args, "--out", "a.jsonl")[0] == export(*args, "--out", "b.jsonl", "--template", "mine.txt")[0] == 0
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    mine = Path("mine.txt")
    mine.write_text(mine.read_text(encoding="utf-8").replace("I have chosen", "J'ai choisi"), encoding="utf-8")
    assert export(*args, "--out", "b.jsonl", "--template", "mine.txt", "--force")[0] == 0
    first = json.loads(Path("b.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["messages"][1]["content"].startswith("J'ai choisi")


def test_copies_on_the_command_line(export: Call, shop_bundle: Callable[..., Path]) -> None:
    args = (shop_bundle("own"), "--format", "csv", "--decode", "sample")
    assert export(*args, "--copies", "2", "--out", "a.csv")[0] == 0
    code, out, _ = export(*args, "--copies", "2", "--seed", "0", "--out", "-")
    assert code == 0 and out == Path("a.csv").read_text(encoding="utf-8")
    assert export(*args, "--copies", "2", "--seed", "1", "--out", "-")[1] != out
    head, *rows = out.splitlines()
    assert head.startswith("synthetic_user,copy,position,item_id")
    assert [row.split(",")[:3] for row in rows] == [
        [str(m), str(c), str(t)] for m in range(3) for c in range(2) for t in range(6)
    ]


def test_a_format_added_as_the_docs_say(
    export: Call, shop_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCS.read_text(encoding="utf-8").split("## How to add a format")[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    entry = re.search(r"```\n(Format\(.*?\)),\n```", text, re.DOTALL)
    assert code is not None and entry is not None
    arrows: Any = ModuleType("arrows")
    exec(code.group(1), vars(arrows))
    added: Format = eval(entry.group(1), {"Format": Format, "arrows": arrows})
    monkeypatch.setitem(registry.FORMATS, added.name, added)
    bundle = shop_bundle("own")
    code_, out, err = export(bundle, "--format", "arrows", "--out", "-")
    assert code_ == 0 and "one item per position carries" in err
    hard = make_hard(load(bundle))
    ids = hard.item_ids
    want = "".join(f"{' '.join(ids[i] for i in e.history)} -> {ids[e.target]}\n" for e in hard.examples())
    assert out == want


def test_the_docs_name_every_format() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in FORMATS:
        assert f"\n## {name}\n" in text and f"[`{name}`](#{name})" in text
