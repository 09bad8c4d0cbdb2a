"""Settings that validation chooses, from the command line: what is recorded, and when nothing is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calling import QUICK, Foster, distilled, ok, one_line

from foster_cli.bundle import load
from foster_cli.settings import Settings
from foster_cli.train import trials


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The dimensions that are tried; none is the best."""
    found: list[int] = []

    def trial(settings: Settings, *rest: Any) -> float:
        found.append(settings.model.lexical)
        return 0.2 if settings.model.lexical == 0 else 0.1

    monkeypatch.setattr(trials, "trial", trial)
    return found


def test_a_bundle_records_what_was_chosen(foster: Foster, data: Path, encoder: Path, tried: list[int]) -> None:
    options = ("--encoder", encoder, "--width", "8")
    said = foster("distill", data, *QUICK, *options, "--out", "bundle")
    ok(said)
    assert tried == [256, 0]
    assert "lexical 0 is best on validation after short trainings (256: 0.1000, 0: 0.2000)" in said.err
    assert load(Path("bundle")).made.model.lexical == 0
    assert distilled(foster, data, *options, "--lexical", "5", out="given")["model"]["lexical"] == 5
    file = Path("settings.json")
    file.write_text('{"model": {"lexical": 256}}')
    assert distilled(foster, data, *options, "--settings", file, out="file")["model"]["lexical"] == 256
    assert distilled(foster, data, "--items", "id", "--width", "8", out="ids")["model"]["lexical"] == 256
    assert tried == [256, 0]


@pytest.mark.parametrize("command", ["distill", "compare", "tune"])
def test_a_budget_that_the_data_do_not_have_is_refused_first(
    foster: Foster, data: Path, tried: list[int], command: str
) -> None:
    said = foster(command, data, "--budget", "100000")
    one_line(said, "--budget 100000")
    assert not tried
