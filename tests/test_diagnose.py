"""`foster doctor`: each thing that can be broken is called broken, and only that."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from foster_cli import diagnose
from foster_cli.app import app
from foster_cli.ops import native

runner = CliRunner()


def _states(found: list[diagnose.Finding]) -> dict[str, str]:
    return {f.name: f.state for f in found}


def test_this_installation_is_whole() -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.stdout
    assert {"python", "torch", "extension", "encoder minilm", "cache", "here"} <= {row["name"] for row in rows}
    assert {row["state"] for row in rows} <= {"ok", "note"}
    lines = runner.invoke(app, ["doctor"]).stdout.splitlines()
    assert len(lines) == len(rows) and all(line.startswith(("ok", "note")) for line in lines)


@pytest.mark.skipif(native.built_against() is None, reason="the extension was left out of this installation")
def test_an_op_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(error < 1e-5 for error in diagnose.op_errors(torch.device("cpu")).values())
    monkeypatch.setattr(diagnose.reference, "soft_kl", lambda *args: args[0].sum(-1))
    monkeypatch.setattr(diagnose.reference, "rank_counts", lambda H, E, target: (target, target))
    states = _states(diagnose.extension())
    assert tuple(states[f"cpu {op}"] for op in ("soft_embed", "soft_kl", "rank_counts")) == ("ok", "broken", "broken")


def test_an_extension_for_another_torch_is_broken_and_none_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.delenv("FOSTER_OPS", raising=False)
    try:
        native.load.cache_clear()
        assert _states(diagnose.extension()) == {"extension": "note"}
        (tmp_path / "_C.json").write_text('{"torch": "1.0"}')
        native.load.cache_clear()
        assert _states(diagnose.extension()) == {"extension": "broken"}
        monkeypatch.setenv("FOSTER_OPS", "quick")
        assert "FOSTER_OPS=quick" in diagnose.extension()[0].text
    finally:
        native.load.cache_clear()


def test_a_missing_encoder_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foster_cli.models.source.MINILM_PACKAGE", "no_such_package")
    assert _states(diagnose.encoders())["encoder minilm"] == "broken"


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOSTER_CACHE", str(tmp_path / "not" / "yet"))
    assert _states(diagnose.folders()) == {"cache": "ok", "here": "ok"}
    monkeypatch.setattr(diagnose.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert _states(diagnose.folders()) == {"cache": "broken", "here": "broken"}

    def refuse(**given: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(diagnose.tempfile, "TemporaryFile", refuse)
    found = diagnose.folders()
    assert "FOSTER_CACHE" in found[0].text and {f.state for f in found} == {"broken"}
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1 and "broken  cache" in done.stdout
