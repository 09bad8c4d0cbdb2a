"""The command: what it writes, what it prints, what it refuses before it reads anything."""

from __future__ import annotations

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
