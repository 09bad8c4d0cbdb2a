"""`foster cache`: what is listed and removed, and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import Foster

from foster_cli import cache as module
from foster_cli.cache import cache_lock

KEYS = [c * 64 for c in "abc"]


@pytest.fixture
def kept(tmp_path: Path, foster: Foster) -> Path:
    """A teacher, an unfinished one, texts, what killed processes left, and things that are not foster's."""
    root = tmp_path / "cache"
    teacher = root / "teachers" / KEYS[0]
    teacher.mkdir(parents=True)
    (teacher / "teacher.json").write_text("{}")
    (teacher / "best.safetensors").write_bytes(b"x" * 1_000_000)
    about = {"data": "a\x1b[31m shop", "encoder": "minilm", "backbone": "sasrec", "seed": 0}
    (root / "teachers" / f"{KEYS[0]}.about.json").write_text(json.dumps(about))
    (root / "teachers" / f"{KEYS[1]}.run").mkdir()
    (root / "teachers" / f"{KEYS[1]}.run" / "state-00000001.json").write_bytes(b"x" * 500_000)
    (root / "teachers" / f".{KEYS[1]}.abcd").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / f"{KEYS[2]}.safetensors").write_bytes(b"x" * 250_000)
    (root / "texts" / f".{KEYS[2]}.safetensors.zzzz").write_bytes(b"x" * 250_000)
    (root / "mine.txt").write_text("mine")
    (root / "teachers" / "mine").mkdir()
    old = time.time() - 40 * 86400
    os.utime(root / "texts" / f"{KEYS[2]}.safetensors", (old, old))
    os.utime(root / "texts" / f".{KEYS[2]}.safetensors.zzzz", (old, old))
    return root


def _left(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.suffix != ".lock"}


def test_list(foster: Foster, kept: Path) -> None:
    before = _left(kept)
    said = foster("cache", "list", "--json")
    rows = {row["key"]: row for row in map(json.loads, said.out.splitlines())}
    assert said.code == 0 and set(rows) == set(KEYS)
    assert [rows[k]["state"] for k in KEYS] == ["whole", "unfinished", "whole"]
    assert rows[KEYS[0]]["bytes"] == 1_000_002 + (kept / "teachers" / f"{KEYS[0]}.about.json").stat().st_size
    assert rows[KEYS[1]]["bytes"] == 500_000 and rows[KEYS[2]]["bytes"] == 500_000
    assert rows[KEYS[0]]["about"]["encoder"] == "minilm"
    said = foster("cache", "list")
    assert "3 entries, 2.0 MB" in said.out and "minilm, sasrec, seed 0" in said.out and "6 w" in said.out
    assert "\x1b" not in said.out and _left(kept) == before
    assert foster("cache", "list", "--kind", "texts").out.count("\n") == 4
    assert "1 entries" in foster("cache", "list", "--older-than", "30d").out
    assert "0 entries" in foster("cache", "list", "--older-than", "50d").out


def test_an_empty_cache(foster: Foster) -> None:
    assert "0 entries" in foster("cache", "list").out
    assert "removed 0 entries" in foster("cache", "clear").out


def test_clear_asks(foster: Foster, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _left(kept)
    said = foster("cache", "clear")
    assert said.code == 2 and "--yes" in said.err and "3 entries of 2.0 MB" in said.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *a, **k: False)
    assert "nothing was removed" in foster("cache", "clear").err
    assert _left(kept) == before


def test_clear_by_kind_age_and_key(foster: Foster, kept: Path) -> None:
    assert "removed 1 entries, 0.5 MB" in foster("cache", "clear", "--older-than", "30d", "--yes").out
    assert not any(KEYS[2] in name for name in _left(kept))
    assert foster("cache", "clear", "bbbb", "--yes").code == 0
    assert not any(KEYS[1] in name for name in _left(kept)) and any(KEYS[0] in name for name in _left(kept))
    assert foster("cache", "clear", "--kind", "teachers", "--yes", "--json").code == 0
    assert _left(kept) == {"mine.txt", "teachers", "texts", "teachers/mine"}
    for args in (("dddd",), ("--kind", "models"), ("--older-than", "soon"), ("--older-than", "-3d")):
        said = foster("cache", "clear", "--yes", *args)
        assert said.code == 2 and said.err.count("\n") >= 1


def test_what_is_in_use_stays(foster: Foster, kept: Path) -> None:
    """The lock is held by another process, as while it trains."""
    code = (
        "import sys; from pathlib import Path; from foster_cli.cache import cache_lock\n"
        "with cache_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(kept / "teachers" / KEYS[0])]
    env = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert "in use" in foster("cache", "list").out
        said = foster("cache", "clear", "--yes")
        assert "is in use and stays" in said.err and "removed 2 entries" in said.out
        assert f"teachers/{KEYS[0]}/best.safetensors" in _left(kept)
        other.kill()  # the system frees the lock of a killed process
        other.wait()
        assert "removed 1 entries" in foster("cache", "clear", "--yes").out


def test_it_lists_what_foster_really_keeps(foster: Foster, data: Path, encoder: Path) -> None:
    few = ("--budget", "2", "--length", "5", "--steps", "0", "--epochs", "1", "--student-steps", "1", "--draws", "1")
    said = foster("distill", data, "--out", "b", "--encoder", encoder, *few)
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in foster("cache", "list", "--json").out.splitlines()]
    assert {(r["kind"], r["state"]) for r in rows} == {("teachers", "whole"), ("texts", "whole")}
    about = {r["kind"]: r["about"] for r in rows}
    assert about["teachers"]["data"] == "shop" and about["texts"]["texts"] == 25
    assert foster("cache", "clear", "--yes").code == 0
    with cache_lock(Path(rows[0]["path"])):
        pass
    assert "0 entries" in foster("cache", "list").out
