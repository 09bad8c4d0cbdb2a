"""`foster report`, what `foster eval` keeps for it, and `foster distill` with its views, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
import webbrowser
from pathlib import Path

import pytest
from calling import Foster

from foster_cli.bundle import load
from foster_cli.console import Console
from foster_cli.evaluate.bundle_rows import Evaluation
from foster_cli.settings import ModelConfig

QUICK = ("--budget", "3", "--length", "6", "--steps", "4", "--epochs", "1", "--draws", "2", "--student-steps", "10",
         "--check-seeds", "1", "--check-every", "2")  # fmt: skip


#: What is typed, the columns of a step with their tags, and the figure of the report that only these steps have.
FOLLOW = ((), {"moved": "synthetic/moved"}, set[str]())
BOME = (("--outer", "bome", "--inner-steps", "1"), {"q": "constraint/q"}, {"inner"})


@pytest.mark.parametrize(("typed", "own", "figures"), [FOLLOW, BOME], ids=["follow", "bome"])
def test_distill_eval_report(
    foster: Foster, data: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...],
    own: dict[str, str], figures: set[str],
) -> None:  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("distill", data, *QUICK, *typed, "--encoder", encoder, "--live")
    said = foster(*words, "--out", "plain")
    assert said.code == 0 and "--live draws on a terminal only" in said.err
    with monkeypatch.context() as patch:
        patch.setattr(Console, "interactive", True)
        said = foster(*words, "--out", "seen", "--tensorboard", "tb")
    assert said.code == 0, said.err
    assert "outer step 4 of 4" in said.err and "random real" in said.err and "validation R@10" in said.err
    for name in ("factors.safetensors", "item_factor.safetensors", "checks.csv"):  # who watches changes nothing
        assert Path("seen", name).read_bytes() == Path("plain", name).read_bytes()
    found = EventAccumulator("tb").Reload()
    with Path("seen", "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for column, tag in {**own, "outer_real": "outer/real", "entropy": "synthetic/entropy"}.items():
        assert [e.value for e in found.Scalars(tag)] == pytest.approx([float(r[column]) for r in rows], rel=1e-6)
    with Path("seen", "checks.csv").open() as file:
        checks = [(float(r["step"]), float(r["R@10"])) for r in csv.DictReader(file)]
    written = found.Scalars("validation/R@10")
    assert [e.step for e in written] == [step for step, _ in checks] == [0, 2, 4]
    assert [e.value for e in written] == pytest.approx([value for _, value in checks])
    assert len(found.Scalars("start/R@10")) == 2 and len(found.Scalars("validation/random")) == 1

    said = foster("eval", "seen", "--seeds", "1")
    assert said.code == 0 and "next: foster report seen" in said.err
    assert json.loads(Path("seen", "eval.json").read_text())["rows"].keys() >= {"synthetic", "full"}

    said = foster("report", "seen", "--json", "--figures", "figures")
    event = json.loads(said.out)
    assert said.code == 0 and event["evaluated"] and event["bytes"] == Path("seen", "report.html").stat().st_size
    assert sorted(event["figures"]) == sorted(str(path) for path in Path("figures").iterdir())
    names = {Path(name).name for name in event["figures"]}
    assert {f"{n}.{e}" for n in {"result", "validation", "outer", "popularity", "map", *figures}
            for e in ("png", "svg")} <= names  # fmt: skip
    assert ("inner.svg" in names) == ("inner" in figures)
    text = Path("seen", "report.html").read_text(encoding="utf-8")
    assert "3 synthetic − full data" in text and "Not evaluated yet" not in text
    load("seen")  # nothing in it was harmed


def test_eval_keeps_a_whole_table(foster: Foster, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(bundles: object, data: object, asked: Evaluation, session: object) -> dict[str, object]:
        other = asked.other
        used = {"distilled": "sasrec", "evaluated": other.backbone or "sasrec"}
        texts = [{"name": name, "hash": name, "train_layers": "none"} for name in ("minilm", other.encoder or "minilm")]
        return {"data": {"name": "shop"}, "method": "foster", "backbone": used, "rows": {}, "paired": {}, "cases": 3,
                "encoder": dict(zip(used, texts, strict=True)), "seeds": [0], "economics": None,
                "sets": [{}]}  # fmt: skip

    monkeypatch.setattr("foster_cli.evaluate.bundle_rows.evaluate_bundles", evaluate)
    kept = made / "eval.json"
    for part in (("--rows", "untrained"), ("--no-mask-seen",), ("--backbone", "narm"), ("--out", "mine.json"),
                 ("--encoder", "other"), ("--width", "8"), ("--precision", "bf16"), ("--validate",),
                 ("--student-steps", "7")):  # fmt: skip
        assert foster("eval", made, *part).code == 0
        assert not kept.exists()  # not the bundle's whole table, or kept elsewhere
    assert json.loads(Path("mine.json").read_text())["cases"] == 3
    for part in ((), ("--backbone", ModelConfig.backbone), ("--json",)):
        said = foster("eval", made, *part)
        assert said.code == 0 and f"next: foster report {made}" in " ".join(said.err.split())
        assert json.loads(kept.read_text())["cases"] == 3
        kept.unlink()
    monkeypatch.setattr("foster_cli.evaluate.bundle_rows.evaluate_bundles", lambda *args: {
        **evaluate(*args), "data": {"name": "\x1b]0;pwn\x07\x1b[2J\u202eshop"}})  # fmt: skip
    said = foster("eval", made, "--out", "mine.json")
    assert said.code == 2 and "--out mine.json: exists already; give another name, or --force" in said.err
    said = foster("eval", made, "--out", "mine.json", "--force")
    assert said.code == 0 and "]0;pwn [2J shop: 3 test cases" in said.out
    assert not set(said.out) & {"\x1b", "\x07", "\u202e"}
    monkeypatch.setattr("foster_cli.evaluate.bundle_rows.evaluate_bundles", evaluate)
    kept.mkdir()  # cannot be written: the table is printed all the same
    said = foster("eval", made)
    assert said.code == 0 and "3 test cases" in said.out and "is not stored in the bundle" in said.err


def test_report_alone(foster: Foster, made: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: shown.append(uri) or True)
    said = foster("report", made, "--out", "page.html", "--open")
    assert said.code == 0 and said.out.startswith("page.html: ")
    assert "not evaluated yet: foster eval" in said.err
    assert shown == [(tmp_path / "work" / "page.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda uri: False)
    said = foster("report", made, "--out", "page.html")
    assert said.code == 2 and "exists already" in said.err and "--force" in said.err
    assert "no browser was found" in foster("report", made, "--out", "page.html", "--force", "--open").err
    moved = data.rename(tmp_path / "elsewhere.csv")
    said = foster("report", made)
    assert said.code == 0 and "shop.csv: no such file" in said.err
    assert "The real data is not shown" in (made / "report.html").read_text(encoding="utf-8")
    said = foster("report", made, "--data", moved)
    assert said.code == 0
    assert "The real data is not shown" not in (made / "report.html").read_text(encoding="utf-8")


def test_the_data_are_not_written_over(foster: Foster, made: Path, data: Path) -> None:
    before = data.read_bytes()
    for command in (("report", made), ("export", made, "--format", "jsonl"), ("eval", made)):
        said = foster(*command, "--out", data)
        assert said.code == 2 and "is the data that the bundle was made from; give another name" in said.err
    assert data.read_bytes() == before


def test_no_file_of_another_bundle_is_written_over(foster: Foster, made: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(made, other)
    before = {p.name: p.read_bytes() for p in other.iterdir()}
    for command in (("report", made), ("export", made, "--format", "csv"), ("eval", made, "--rows", "untrained")):
        for name in ("bundle.json", "log.csv", "SHA256SUMS"):
            said = foster(*command, "--out", other / name)
            assert said.code == 2 and "is a file of a bundle; give another name" in said.err
    assert {p.name: p.read_bytes() for p in other.iterdir()} == before


def test_what_report_refuses(foster: Foster, made: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    for args, words in (
        ((made, "--out", tmp_path / "folder"), ("is a folder", "report.html")),
        ((made, "--out", made / "bundle.json"), ("is a file of the bundle itself",)),
        ((made, "--figures", tmp_path / "file"), ("is a file", "folder")),
        ((made, "--out", tmp_path / "file" / "x.html"), ("cannot write", "--out")),
        ((made, "--data", tmp_path / "none.csv"), ("no such file", "--data")),
        ((made, "--eval", tmp_path / "none.json"), ("none.json", "foster eval")),
        ((made, "--eval", tmp_path / "file"), ("no JSON", "foster eval")),
        ((tmp_path / "folder",), ("no bundle (it holds no SHA256SUMS)",)),
        ((), ("no bundle in runs/",)),
    ):  # fmt: skip
        said = foster("report", *args)
        assert said.code == 2 and said.out == "" and said.err.count("\n") == 1, said
        assert all(word in said.err for word in words), said.err
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before


def test_views_mean_nothing_where_nothing_is_learned(foster: Foster, data: Path) -> None:
    for option in (("--live",), ("--tensorboard", "tb")):
        said = foster("distill", data, "--method", "random", *option)
        assert said.code == 2 and f"{option[0]}: means nothing with --method random" in said.err
