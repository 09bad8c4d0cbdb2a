"""The curves hold what log.csv and checks.csv hold, and nothing is drawn of what is not there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from foster_cli.errors import FosterError
from foster_cli.report.content import Chart
from foster_cli.report.curves import curves

MANIFEST = {
    "distill": {"items_per_step": 512, "check_seeds": 2}, "item_factor": {"shape": [100, 8]},
    "metrics": {"full_valid_R@10": 0.3, "untrained_valid_R@10": 0.1},
}  # fmt: skip
FULL = """step,inner_before,inner_after,q,q_sign,lambda,outer_real,outer_feature,outer_dh,entropy,seconds
1.0,2.0,1.5,0.5,1.0,0.0,4.0,0.5,0.0,5.0,1.0
2.0,1.0,1.25,-0.25,-1.0,0.0,3.0,0.25,0.0,4.5,1.0
3.0,0.5,0.25,0.25,1.0,1.5,2.0,0.125,0.0,4.0,1.0
"""
TD3 = "step,outer_real,warm_up,gradient_synthetic,lr,entropy,seconds\n1.0,4.0,1,1,1,2.0,1\n2.0,3.0,1,1,1,1.0,1\n"


def _charts(folder: Path, log: str, checks: str) -> dict[str, Chart]:
    (folder / "log.csv").write_text(log)
    (folder / "checks.csv").write_text(checks)
    return {chart.key: chart for chart in curves(folder, MANIFEST)}


def test_algorithm_2(tmp_path: Path) -> None:
    found = _charts(tmp_path, FULL, "step,R@10,N@10,sd,student_steps\n0.0,0.2,0.1,0.0,9\n3.0,0.25,0.1,0.0,9\n")
    assert list(found) == ["validation", "inner", "q", "lambda", "outer", "entropy"]
    assert [s.y.tolist() for s in found["inner"].series] == [[2.0, 1.0, 0.5], [1.5, 1.25, 0.25]]
    assert found["q"].series[0].y.tolist() == [0.5, -0.25, 0.25]
    assert found["lambda"].series[0].y.tolist() == [0.0, 0.0, 1.5]
    assert [s.label for s in found["outer"].series] == ["on real data", "feature matching"]  # outer_dh is 0 throughout
    assert found["outer"].log_y
    assert all(c.x.tolist() == [1, 2, 3] for key, c in found.items() if key != "validation")
    assert found["validation"].x.tolist() == [0, 3] and found["validation"].series[0].y.tolist() == [0.2, 0.25]
    assert found["validation"].levels == [("full data", 0.3), ("untrained", 0.1)]
    assert found["entropy"].levels == [("even over 100 items", pytest.approx(math.log(100)))]


def test_a_log_without_a_constraint(tmp_path: Path) -> None:
    assert list(_charts(tmp_path, TD3, "\n")) == ["outer", "entropy"]


@pytest.mark.parametrize("log", ["\n", "", "window,user,length\n5,1,7\n9,2,3\n", FULL.split("2.0,1.0")[0]])
def test_nothing_to_draw(tmp_path: Path, log: str) -> None:
    assert _charts(tmp_path, log, "\n") == {}


def test_a_long_run_is_drawn_in_part(tmp_path: Path) -> None:
    log = "step,q,entropy\n" + "".join(f"{k + 1}.0,{k % 7},{k}\n" for k in range(12_345))
    found = _charts(tmp_path, log, "\n")
    x = found["entropy"].x
    assert len(x) == 1000 and (x[0], x[-1]) == (1, 12_345) and set(x[1:] - x[:-1]) == {12, 13}
    assert found["entropy"].series[0].y.tolist() == (x - 1).tolist()
    assert found["q"].note.endswith("1,000 of 12,345 steps are drawn.")


@pytest.mark.parametrize("log", ["step,q\n1,2\n2,<script>\n", '"\n', "step,q\n1,2,3,4\n1\n2,3,4,5,6,7\n"])
def test_broken_files_are_named(tmp_path: Path, log: str) -> None:
    with pytest.raises(FosterError, match=r"log\.csv"):
        _charts(tmp_path, log, "\n")
