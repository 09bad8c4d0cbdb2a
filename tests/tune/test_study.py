"""The study: an interruption, of any kind, changes nothing; the given settings come first; pruning; broken files."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foster_cli.errors import FosterError, NotFinite
from foster_cli.settings import DistillConfig, StudentConfig
from foster_cli.tune.space import space
from foster_cli.tune.study import RANDOM, Outcome, Pruned, Report, Study, Tried, alone

PARAMETERS = space(DistillConfig(outer="bome"), StudentConfig())  # more of them than by default
TRIALS, STEPS = RANDOM + 6, 200


def worth(point: dict[str, Any], step: int) -> float:
    """Best at a point that is not the given one; it grows with the steps."""
    rate = math.log(point["distill.synthetic_lr"] / 3e-3) ** 2 + (point["student.lr"] - 1) ** 2
    return 1.0 / (1.0 + rate) + 1e-4 * step / STEPS


def run(point: dict[str, Any], report: Report) -> Outcome:
    """A trial as `Trial.run` makes it."""
    if point["distill.inner_steps"] == 10:
        return Outcome("not finite", 0.0, 1.0)
    try:
        for step in (0, 100, STEPS):
            report(step, worth(point, step))
    except Pruned:
        return Outcome("pruned", 0.0, 1.0)
    return Outcome("complete", worth(point, STEPS), 1.0)


def opened(folder: Path, seed: int = 0, key: str = "a") -> Study:
    return Study(folder / "study.jsonl", key, PARAMETERS, seed, STEPS)


def one_more(study: Study, how: Any = run) -> None:
    if study.tried:
        study.next(how)
    else:
        study.given(how)


def whole(folder: Path, seed: int = 0) -> list[Tried]:
    study = opened(folder, seed)
    while len(study.tried) < TRIALS:
        one_more(study)
    return study.tried


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    return whole(tmp_path_factory.mktemp("one"))


def test_the_first_trial_is_what_was_given_and_the_sampler_learns(in_one_go: list[Tried], tmp_path: Path) -> None:
    first = in_one_go[0]
    assert first.found == {p.name: p.given for p in PARAMETERS} and first.state == "complete"
    assert first.values == {0: worth(first.found, 0), 100: worth(first.found, 100), STEPS: worth(first.found, STEPS)}
    assert first.best_step == STEPS and first.value == first.values[STEPS]
    assert [t.index for t in in_one_go] == list(range(TRIALS))
    assert len({json.dumps(t.found, sort_keys=True) for t in in_one_go}) == TRIALS
    assert [t.found for t in whole(tmp_path, seed=1)][1:] != [t.found for t in in_one_go][1:]
    states = [t.state for t in in_one_go]
    assert "pruned" in states and states.count("complete") >= 3


def test_stopped_in_every_trial_and_gone_on(in_one_go: list[Tried], tmp_path: Path) -> None:
    """Each trial is first left after its first report, as by Ctrl-C, and the file is opened anew."""

    def stop(point: dict[str, Any], report: Report) -> Outcome:
        report(0, worth(point, 0))
        raise KeyboardInterrupt

    while len(opened(tmp_path).tried) < TRIALS:
        with pytest.raises((KeyboardInterrupt, Pruned)):
            one_more(opened(tmp_path), stop)
        one_more(opened(tmp_path))
    assert opened(tmp_path).tried == in_one_go


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import test_study as t
from pathlib import Path
study = t.opened(Path({folder!r}))
def stop(point, report):
    if len(study.tried) == 8:
        report = killing(report)
    return t.run(point, report)
def killing(report):
    def told(step, value):
        try:
            report(step, value)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return told
for _ in range(9):
    t.one_more(study, stop)
"""


def test_killed_and_gone_on(in_one_go: list[Tried], tmp_path: Path) -> None:
    """SIGKILL in a trial, and a last line that was not finished."""
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    file = tmp_path / "study.jsonl"
    with file.open("a") as f:
        f.write('{"op_code": 4, "worker')
    assert whole(tmp_path) == in_one_go
    for line in file.read_text(encoding="utf-8").splitlines():  # nothing but JSON
        json.loads(line)


def test_a_trial_is_pruned_by_the_median_but_not_at_its_end(tmp_path: Path) -> None:
    study = opened(tmp_path)
    ends: list[int] = []

    def with_values(*values: float) -> Any:
        def trial(point: dict[str, Any], report: Report) -> Outcome:
            steps = dict(zip((0, 100, STEPS), values, strict=True))
            for step, value in steps.items():
                try:
                    report(step, value)
                except Pruned:
                    ends.append(step)
                    return Outcome("pruned", 0.0, 1.0)
            ends.append(-1)
            return Outcome("complete", max(values), 1.0)

        return trial

    for values in ((0.3, 0.5, 0.6), (0.1, 0.2, 0.3), (0.2, 0.4, 0.5)):
        one_more(study, with_values(*values))
    one_more(study, with_values(0.15, 0.9, 0.9))  # below 0.2
    one_more(study, with_values(0.25, 0.3, 0.9))  # above 0.2, then below 0.4
    one_more(study, with_values(0.2, 0.4, 0.4))  # level with the median, worst at the end
    assert ends == [-1, -1, -1, 0, 100, -1]
    assert [t.state for t in study.tried] == ["complete"] * 3 + ["pruned"] * 2 + ["complete"]
    assert [t.value for t in study.tried] == [0.6, 0.3, 0.5, 0.15, 0.3, 0.4]


def test_given_settings_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="given"):
        opened(tmp_path).given(lambda *_: Outcome("not finite", 0.0, 1.0))
    assert opened(tmp_path).tried == []


def test_another_study_or_no_study_in_the_file(tmp_path: Path) -> None:
    one_more(opened(tmp_path))
    with pytest.raises(FosterError, match="holds a study of other data, settings or versions"):
        opened(tmp_path, key="b")
    for content in ('{"hello": 1}\n', "[1, 2]\n", "nothing\nof it\n", '{"op_code": 99, "worker_id": "x"}\n'):
        (tmp_path / "study.jsonl").write_text(content)
        with pytest.raises(FosterError, match="is no study, or was changed"):
            opened(tmp_path)


def test_two_at_once(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
         "print(1, flush=True); sys.stdin.read()", str(tmp_path / "study.lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert held.stdout is not None
    held.stdout.readline()
    try:
        with pytest.raises(FosterError, match="another foster tune is at work"), alone(tmp_path):
            raise AssertionError("both are in")
    finally:
        os.kill(held.pid, signal.SIGKILL)
        held.communicate()
    with alone(tmp_path):  # a process that is gone holds nothing
        pass
