"""The command: what it writes, what it prints, what it refuses before it reads anything."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foster_cli.commands.preprocess import command
from foster_cli.data.store import read_prepared
from foster_cli.errors import FosterError


@pytest.fixture
def words_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose tokens are words, in place of the modules that need torch."""

    def tokenizer(texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [[0] * len(text.split()) for text in texts]}

    encoder = SimpleNamespace(load_tokenizer=lambda source: tokenizer)
    monkeypatch.setitem(sys.modules, "foster_cli.models.pretrained", encoder)
    monkeypatch.setitem(sys.modules, "foster_cli.models.source", SimpleNamespace(find_encoder=str))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "raw.csv"
    lines = [f"u{u},{i},{100 * i + u},Item [red] {i}" for u in range(6) for i in range(10, 20)]
    path.write_text("\n".join(["user,item,time,title", *lines]))
    return path


@pytest.mark.usefixtures("words_for_tokens")
def test_writes_the_dataset_and_prints_its_statistics(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shop.parent / "small.parquet"
    command(inputs=[shop], out=out)
    data = read_prepared(out)
    assert (data.name, len(data.interactions)) == ("small", 60)
    printed = capsys.readouterr().out
    assert "48" in printed and "3.0, 3, 3" in printed


@pytest.mark.usefixtures("words_for_tokens")
def test_json_is_one_object(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(inputs=[shop], out=shop.parent / "small.parquet", json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["interactions"] == 48
    assert found["text_tokens"]["max"] == 3


def test_refused_before_anything_is_read(tmp_path: Path) -> None:
    raw = tmp_path / "a.parquet"
    raw.write_bytes(b"x")
    (tmp_path / "dir.parquet").mkdir()
    for out, words in (
        (tmp_path / "a.csv", "does not end in .parquet"),
        (raw, "would overwrite an input"),
        (tmp_path / "dir.parquet" / ".." / "a.parquet", "would overwrite an input"),
        (tmp_path / "dir.parquet", "is a folder"),
    ):
        with pytest.raises(FosterError, match=words):
            command(inputs=[raw], out=out)
    assert raw.read_bytes() == b"x"


def test_importing_the_command_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'pyarrow', 'transformers'}"
    code = f"import sys, foster_cli.commands.preprocess; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("words_for_tokens")
def test_bad_rows_are_shown_and_written(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shop.read_text().splitlines()
    more = [f"u{u},{i},{100 * i + u},Item {i}" for u in range(6, 40) for i in range(10, 20)]
    lines = [*lines, *more]
    lines[5] = lines[5].replace("u", "", 1).replace("0,", ",", 1)
    lines[7] = "u0,16,=SUM(A1),x"
    shop.write_text("\n".join(lines) + "\n")
    rejects, out = shop.parent / "bad.csv", shop.parent / "small.parquet"
    command(inputs=[shop], out=out, rejects=rejects)
    rows = list(csv.DictReader(rejects.open(encoding="utf-8")))
    assert [(Path(row["file"]).name, row["line"], row["text"]) for row in rows] == [
        ("raw.csv", "6", ""), ("raw.csv", "8", "=SUM(A1)")
    ]  # fmt: skip
    told = capsys.readouterr().err
    assert "2 cannot be read" in told and "line 8" in told
    with pytest.raises(FosterError, match="exists already"):
        command(inputs=[shop], out=shop.parent / "other.parquet", rejects=rejects)
    assert not (shop.parent / "other.parquet").exists()


def test_checking_writes_nothing(shop: Path) -> None:
    before = sorted(shop.parent.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "foster_cli", "preprocess", shop, "--check", "--json"], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"]["read"] == 60 and found["needs"]["memory_bytes"] > 0 < found["needs"]["seconds"]
    assert sorted(shop.parent.iterdir()) == before


def test_what_is_there_is_not_replaced(shop: Path, words_for_tokens: None) -> None:
    out = shop.parent / "small.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(FosterError, match="exists already"):
        command(inputs=[shop], out=out)
    assert out.read_bytes() == b"mine"
    command(inputs=[shop], out=out, force=True)
    assert len(read_prepared(out).interactions) == 60
