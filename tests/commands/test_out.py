"""Where commands write: --out that exists, --force, ~, and two commands at once."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from calling import QUICK, Foster, ok, one_line, shop

from foster_cli.bundle import load
from foster_cli.cache import cache_dir
from foster_cli.errors import FosterError
from foster_cli.files import alone, writing, writing_dir

FEW = (*QUICK, "--items", "id", "--width", "16", "--k-core", "1")


def _content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "name"),
    [(("export", "--format", "csv"), "set.csv"), (("export", "--format", "hf"), "set"), (("report",), "page.html")],
)
def test_what_exists_is_replaced_with_force_alone(
    foster: Foster, made: Path, words: tuple[str, ...], name: str
) -> None:
    command = (words[0], made, *words[1:], "--out", name)
    ok(foster(*command))
    one_line(foster(*command), f"--out {name}: exists already", "--force")
    ok(foster(*command, "--force"))


def test_force_replaces_no_other_file(foster: Foster, made: Path, data: Path, tmp_path: Path) -> None:
    notes = Path("notes.txt")
    notes.write_text("mine")
    for words in (("export", made), ("report", made), ("eval", made)):
        one_line(foster(*words, "--out", notes, "--force"), "--force replaces only files named *.")
    full = Path("full")
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    one_line(foster("export", made, "--format", "hf", "--out", full, "--force"), "other files")
    for out in (notes, full):
        one_line(foster("distill", data, *FEW, "--out", out, "--force"), "is no bundle")
    (made / "notes.txt").write_text("mine")
    before = _content(made)
    one_line(foster("distill", data, *FEW, "--out", made, "--force"), "holds notes.txt too")
    link = tmp_path / "link"
    link.symlink_to(made)
    one_line(foster("distill", data, *FEW, "--out", link, "--force"), "is no bundle")
    assert _content(made) == before and notes.read_text() == (full / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("method", ["foster", "random"])
def test_distill_with_force_replaces_a_bundle(
    foster: Foster, data: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", data, *FEW, "--method", method, "--out", "b")
    if method == "random":
        words = tuple(w for w in words if w not in ("--steps", "2", "--student-steps"))
        words = ("distill", data, "--items", "id", "--width", "16", "--k-core", "1", "--budget", "3", "--length", "6",
                 "--epochs", "1", "--method", method, "--out", "b")  # fmt: skip
    ok(foster(*words, "--seed", "1"))
    one_line(foster(*words, "--seed", "2"), "--out b: exists already", "--force to replace the bundle")
    assert load("b").made.seed == 1
    if method == "foster":  # interrupted, the old bundle stays; resumed, it is replaced
        with monkeypatch.context() as m:
            m.setattr("foster_cli.bundle.save", _interrupt)
            assert foster(*words, "--seed", "2", "--force").code == 130
        assert load("b").made.seed == 1
        ok(foster("distill", "--resume", "b"))
    else:
        ok(foster(*words, "--seed", "2", "--force"))
    assert load("b").made.seed == 2 and not Path("b.run").exists()


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["foster", "random"])
def test_a_bundle_made_meanwhile_stays(
    foster: Foster, data: Path, made: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has finished the same --out while this one read its data."""
    before, real = _content(made), None
    place = Path("b")

    def slow(*args: Any) -> Any:
        if not place.exists():
            made.rename(place)
        assert real is not None
        return real(*args)

    from foster_cli.commands import run

    real = run.decided
    monkeypatch.setattr(run, "decided", slow)
    few = FEW if method == "foster" else ("--items", "id", "--k-core", "1", "--budget", "3", "--length", "6",
                                          "--epochs", "1")  # fmt: skip
    said = foster("distill", data, *few, "--method", method, "--out", "b")
    assert said.code == 2 and said.err.splitlines()[-1].startswith("foster: b: another process has made it meanwhile")
    assert _content(place) == before and not Path("b.run").exists()


def test_two_distillations_without_out_take_two_names(
    foster: Foster, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foster_cli.commands import run

    real, out = run.shrink, []

    def other(*args: Any, **more: Any) -> Any:
        out.append(args[2])
        if len(out) == 1:  # before the first has written anything, a second one begins and ends
            ok(foster("distill", data, *FEW))
        return real(*args, **more)

    monkeypatch.setattr(run, "shrink", other)
    assert foster("distill", data, *FEW).code == 0
    assert out == [Path("runs/shop-foster-b3-1"), Path("runs/shop-foster-b3-2")]
    assert sorted(p.name for p in Path("runs").iterdir()) == [p.name for p in out]


def test_home_in_paths_and_in_the_cache(
    foster: Foster, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ok(foster("export", made, "--format", "csv", "--out=~/set.csv"))
    assert (tmp_path / "home" / "set.csv").is_file() and not Path("~").exists()
    for value, expected in (("~/kept", "kept"), ("", ".cache/foster")):
        monkeypatch.setenv("FOSTER_CACHE", value)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cache_dir() == tmp_path / "home" / expected


@pytest.mark.parametrize("kind", [writing, writing_dir])
def test_what_came_meanwhile_is_not_replaced(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "x"
    with pytest.raises(FosterError, match="another process has made it meanwhile"), kind(path, replace=False) as tmp:
        (tmp / "mine" if tmp.is_dir() else tmp).write_text("second")
        path.mkdir()
        (path / "first").write_text("first")
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (path / "first").read_text() == "first"


def test_one_command_at_a_time_fills_a_folder(foster: Foster, data: Path) -> None:
    command = ("compare", data, "--items", "id", "--methods", "random", "--out", "c")
    with alone(Path("c"), "foster compare"):
        said: list[Any] = []
        other = threading.Thread(target=lambda: said.append(_locked(Path("c"))))
        other.start()
        other.join()
        assert said == ["c: another foster compare is at work there"]
        assert foster(*command).err.splitlines()[-1].startswith("foster: c: another foster compare is at work there")
    assert not Path("c").exists()  # nothing was done in it


def _locked(folder: Path) -> str | None:
    try:
        with alone(folder, "foster compare"):
            return None
    except FosterError as error:
        return error.message


def test_a_table_of_other_data_stays(foster: Foster, data: Path) -> None:
    Path("c").mkdir()
    file = Path("c", "compare.json")
    file.write_text(json.dumps({"data": {"hash": "other"}}))
    said = foster("compare", data, "--items", "id", "--methods", "random", "--out", "c")
    assert said.code == 2 and "--out c: exists already, and its compare.json is of other data" in said.err
    assert "--force" in said.err and json.loads(file.read_text()) == {"data": {"hash": "other"}}


def test_the_demo_replaces_nothing_unasked(foster: Foster) -> None:
    Path("demo").mkdir()
    shop().to_csv("demo/shop.parquet")
    before = Path("demo/shop.parquet").read_bytes()
    one_line(foster("demo"), "demo/shop.parquet: exists already", "--force")
    assert Path("demo/shop.parquet").read_bytes() == before


def test_a_prepared_file_of_the_same_data_will_do(foster: Foster, data: Path) -> None:
    """For a bundle that was made from the raw table with options."""
    raw = ("--k-core", "2")
    ok(foster("distill", data, *QUICK, "--items", "id", "--width", "16", *raw, "--out", "b"))
    ok(foster("preprocess", data, *raw, "--out", "p.parquet"))
    assert "the hash is the bundle's" in ok(foster("verify", "b", "--data", "p.parquet"))
    ok(foster("eval", "b", "--data", "p.parquet", "--rows", "popularity"))
    ok(foster("preprocess", data, "--k-core", "1", "--seed", "5", "--user-column", "user_id", "--out", "q.parquet"))
    shop(items=24).to_csv("other.csv", index=False)
    one_line(foster("eval", "b", "--data", "other.csv", "--rows", "popularity"), "other data")
