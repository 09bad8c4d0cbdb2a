"""Where `foster export` writes: into the bundle, a file, standard output, a closing pipe; whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import exported, fake

from foster_cli import bundle as bundles
from foster_cli.commands import shared
from foster_cli.commands.export import command
from foster_cli.console import Console
from foster_cli.errors import FosterError
from foster_cli.export import FORMATS

FILES = sorted(name for name, f in FORMATS.items() if not f.folder)


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

    monkeypatch.setattr(bundles, "load", lambda path: fake())
    monkeypatch.setattr(shared, "resolve_bundle", resolve_bundle)
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
shared = types.ModuleType("foster_cli.commands.shared")
shared.resolve_bundle = lambda bundle, console: bundle
shared.bundle_data = shared.refuse_own_data = None
sys.modules["foster_cli.bundle"], sys.modules["foster_cli.commands.shared"] = bundle, shared
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
