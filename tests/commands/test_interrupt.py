"""Ctrl-C: one line, exit code 130, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import Foster, shop

from foster_cli.__main__ import main


def test_ctrl_c_while_it_starts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands are still being imported."""

    class Stop:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "foster_cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "foster_cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Stop(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 130 and said.err.startswith("foster: interrupted") and said.err.count("\n") == 1


def test_ctrl_c(foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop().to_parquet(tmp_path / "shop.parquet")

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foster_cli.commands.run.read_data", stop)
    said = foster("distill", str(tmp_path / "shop.parquet"), "--out", str(tmp_path / "bundle"))
    assert said.code == 130
    assert said.out == ""
    assert said.err.startswith("foster: interrupted") and said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(("bundle", ".bundle"))] == []


def test_ctrl_c_twice(tmp_path: Path) -> None:
    """An impatient second Ctrl-C, 20 ms later, is the same wish: it breaks into no tidying and shows no traceback."""
    shop().to_parquet(tmp_path / "shop.parquet")
    words = ["--items", "id", "--width", "8", "--epochs", "1000", "--patience", "1000", "--out", "bundle"]
    call = [sys.executable, "-m", "foster_cli", "distill", "shop.parquet", *words]
    environment = {**os.environ, "FOSTER_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    ) as child:  # fmt: skip
        assert child.stderr is not None
        assert any("interactions" in line for line in child.stderr)
        time.sleep(1)
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            time.sleep(0.02)
        last = [line for line in child.stderr if not line.startswith("training on the full data")]
        # CPython ends itself by the signal where Ctrl-C came into text under `exec`; to a shell both are 130
        assert child.wait(60) in (130, -signal.SIGINT)
    assert last[-1].startswith("foster: interrupted") and not any("Traceback" in line for line in last)
