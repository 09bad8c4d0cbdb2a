"""Ctrl-C: one line, exit code 130, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
from calling import Foster, shop


def test_ctrl_c(foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop().to_parquet(tmp_path / "shop.parquet")

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foster_cli.data.prepare.load_dataset", stop)
    said = foster("distill", str(tmp_path / "shop.parquet"), "--out", str(tmp_path / "bundle"))
    assert said.code == 130
    assert said.out == ""
    assert said.err.startswith("foster: interrupted") and said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(("bundle", ".bundle"))] == []
