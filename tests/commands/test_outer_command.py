"""`foster distill --outer`: which outer steps a bundle is made with, and what is refused beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from calling import QUICK, Foster, distilled, ok, one_line, read_json

SMALL = ("--items", "id", "--width", "8")


def _columns(bundle: str) -> set[str]:
    return set(pd.read_csv(Path(bundle, "log.csv")).columns)


def test_students_are_followed_unless_algorithm_2_is_asked_for(foster: Foster, data: Path) -> None:
    """The bundle names its outer steps, and its log has their columns."""
    assert distilled(foster, data, *SMALL, out="follow")["distill"]["outer"] == "follow"
    bome = distilled(foster, data, *SMALL, "--outer", "bome", "--inner-steps", "3", out="bome")["distill"]
    assert (bome["outer"], bome["inner_steps"]) == ("bome", 3)
    assert {"moved", "rank_error", "outer_real", "entropy"} <= _columns("follow")
    assert {"q", "lambda", "inner_before", "outer_real", "entropy"} <= _columns("bome")
    assert not {"q", "lambda"} & _columns("follow") and "moved" not in _columns("bome")
    for name in ("follow", "bome"):
        ok(foster("verify", name))


def test_targets_that_are_the_next_position_are_moved_by_algorithm_2(foster: Foster, data: Path) -> None:
    words = ("--targets", "next", "--init", "rollout")
    assert distilled(foster, data, *SMALL, *words, out="next")["distill"]["outer"] == "bome"
    assert "q" in _columns("next")
    said = foster("distill", data, *QUICK, *words, "--outer", "follow", "--out", "own")
    one_line(said, "--outer follow: needs targets of its own", "use --targets own, or --outer bome")


@pytest.mark.parametrize(
    "option",
    [("--inner-steps", "3"), ("--dh-weight", "0"), ("--eta", "1"), ("--reset", "never"), ("--barrier", "loss")],
)
def test_what_only_algorithm_2_reads_is_refused_beside_students(
    foster: Foster, data: Path, option: tuple[str, str]
) -> None:
    said = foster("distill", data, *QUICK, *option, "--out", "bundle")
    one_line(said, f"{option[0]}: means nothing with --outer follow", "leave it out, or add --outer bome")
    assert not Path("bundle").exists() and not Path("bundle.run").exists()


def test_an_unknown_kind_of_outer_step(foster: Foster, data: Path) -> None:
    one_line(foster("distill", data, "--outer", "bom"), "--outer bom", "bome")


def test_a_settings_file_may_name_them(foster: Foster, data: Path) -> None:
    file = Path("settings.json")
    file.write_text('{"distill": {"outer": "bome", "dh_items": 8}}')
    distilled(foster, data, *SMALL, "--settings", file)
    recorded = read_json(Path("bundle", "bundle.json"))["distill"]
    assert (recorded["outer"], recorded["dh_items"]) == ("bome", 8)
    file.write_text('{"distill": {"dh_items": 8}}')
    said = foster("distill", data, "--settings", file)
    one_line(said, "distill.dh_items: means nothing with --outer follow", "--outer bome")
