"""`foster distill --resume`: real processes, really killed; what is refused; more steps.

It takes half a minute or more; alone: `pytest tests/commands/test_resume_command.py`.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Foster, one_line, shop
from spying import spy

import foster_cli
from foster_cli.bundle import FILES, STATE_FILES, SUMS, load
from foster_cli.distill.follow import Following

CONFIG = ("--items", "id", "--width", "16", "--budget", "3", "--length", "5", "--steps", "8", "--check-every", "4",
          "--reset-every", "5", "--student-steps", "40", "--epochs", "1", "--draws", "2", "--items-per-step", "12",
          "--rank-user", "2", "--check-seeds", "1", "--keep-state")  # fmt: skip
#: All of a bundle that holds no time.
EQUAL = ("factors.safetensors", "item_factor.safetensors", "items.parquet", "checks.csv", "state.safetensors")


def _sums(bundle: Path) -> dict[str, str]:
    return {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in EQUAL}


@pytest.fixture
def whole(foster: Foster, data: Path, tmp_path: Path) -> Path:
    """The bundle of an uninterrupted run; the teacher is in the cache from here on."""
    said = foster("distill", data, "--out", "whole", *CONFIG)
    assert said.code == 0, said.err
    log = (tmp_path / "work" / "whole" / "log.csv").read_text(encoding="utf-8").splitlines()
    assert "moved" in log[0] and len(log) == 9  # its steps follow students, the second of them from step 5 on
    return tmp_path / "work" / "whole"


def _killed(work: Path, cache: Path, args: list[str], after: float) -> bool:
    """Runs `foster ARGS…` and kills it after so many seconds; whether it had ended before."""
    command = [sys.executable, "-m", "foster_cli", *args]
    process = subprocess.Popen(
        command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FOSTER_CACHE": str(cache), "PYTHONPATH": str(Path(foster_cli.__file__).parents[1]),
             "OMP_NUM_THREADS": str(torch.get_num_threads())},  # as this process, which other tests may have set
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=after)
        assert process.returncode == 0, said
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False


def _until_done(data: Path, work: Path, cache: Path, out: str, kills: int, most: float, seed: int) -> int:
    """Kills a distillation into `out` at random times, `kills` times or as often as it lives; then lets it end."""
    rng = random.Random(seed)
    begin, done = ["distill", str(data), "--out", out, *CONFIG], 0
    while done < kills:
        kept = list((work / f"{out}.run").glob("run-*.json"))
        if (work / out).exists() and not kept:
            break  # killed after its last word: all is done
        if _killed(work, cache, ["distill", "--resume", out] if kept else begin, rng.uniform(0.5, most)):
            break
        done += 1
    if not (work / out).exists() or (work / f"{out}.run").exists():
        kept = list((work / f"{out}.run").glob("run-*.json"))
        assert _killed(work, cache, ["distill", "--resume", out] if kept or (work / out).exists() else begin, 600)
    return done


def test_killed_at_random_times(data: Path, whole: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    began = time.perf_counter()
    assert _killed(work, tmp_path / "other", ["distill", str(data), "--out", "alone", *CONFIG], 600)
    most = time.perf_counter() - began
    assert _sums(work / "alone") == _sums(whole)
    done = 0
    for seed in range(2):
        done += _until_done(data, work, tmp_path / f"cache{seed}", f"b{seed}", 1, most, seed)
        assert _sums(work / f"b{seed}") == _sums(whole)
    assert done > 0
    assert not [p for p in work.iterdir() if p.name.endswith(".run") or p.name.startswith(".")]


@pytest.mark.slow
def test_killed_twenty_times(data: Path, whole: Path, tmp_path: Path) -> None:
    """`make test-kill`."""
    work, done, number = tmp_path / "work", 0, 0
    while done < 20:
        done += _until_done(data, work, tmp_path / f"cache{number}", f"b{number}", 20 - done, 8.0, number)
        assert _sums(work / f"b{number}") == _sums(whole)
        number += 1


@pytest.fixture
def cut(foster: Foster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distillation that Ctrl-C ended after six steps."""

    def stop(given: dict[str, Any]) -> None:
        if given["k"] == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        spy(m, Following, "step", stop)
        said = foster("distill", data, "--out", "cut", *CONFIG)
    assert said.code == 130 and "continue with: foster distill --resume cut" in said.err
    assert "Traceback" not in said.err and not (tmp_path / "work" / "cut").exists()
    return tmp_path / "work" / "cut"


def test_ctrl_c_and_on(foster: Foster, data: Path, whole: Path, cut: Path) -> None:
    said = foster("distill", data, "--out", "cut", *CONFIG)
    assert said.code == 2 and "--resume cut" in said.err
    for options, words in (
        (("--steps", "13"), ("--steps 13", "began with 8")), (("--items", "text"), ("--items text", "id")),
        (("--student-items", "all"), ("--student-items all",)), (("--lr", "0.5"), ("--lr 0.5", "began with 0.003")),
        (("--k-core", "2"), ("--k-core 2", "None")), (("--method", "td3"), ("--method td3", "foster")),
        (("--out", "x"), ("--out",)), (("--extend", "2"), ("not finished",)), (("--no-cache",), ("--cache",)),
        (("--outer", "bome"), ("--outer bome", "began with follow")),
        (("--seed", "1"), ("--seed 1", "began with 0")),
    ):  # fmt: skip
        said = foster("distill", "--resume", "cut", *options)
        assert said.code == 2 and all(word in said.err for word in words), (options, said.err)
        assert said.err.count("\n") == 1
    said = foster("distill", data, "--resume", "cut", "--steps", "8", "--rank-user", "2")  # what it began with
    assert said.code == 0, said.err
    assert "continuing after outer step" in said.err
    assert _sums(cut) == _sums(whole) and not cut.with_name("cut.run").exists()
    for options in (("--steps", "8", "--no-cache"), ("--device", "cuda:99")):  # nothing will run, on no device
        said = foster("distill", "--resume", "cut", *options)
        assert said.code == 0 and "finished already" in said.out
    said = foster("distill", "--resume", "cut", "--settings", "any.json")
    assert said.code == 2 and "--settings" in said.err
    for options, words in ((("--steps", "13"), "began with 8"), (("--seed", "1"), "began with 0")):
        said = foster("distill", "--resume", "cut", *options)
        assert said.code == 2 and words in said.err and said.err.count("\n") == 1


def test_another_table_or_other_files_are_refused(foster: Foster, data: Path, cut: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    shop(items=24).to_csv(other, index=False)
    said = foster("distill", other, "--resume", "cut")
    one_line(said, "cut began with other data than", "other.csv (the hashes differ)")
    shop(items=24).to_csv(data, index=False)
    one_line(foster("distill", "--resume", "cut"), "cut began with other data than", "shop.csv")
    data.unlink()
    said = foster("distill", "--resume", "cut")
    one_line(said, "shop.csv: no such file", "if it was moved, name it: foster distill --resume cut FILE")
    for args in (("--resume", "nowhere"), (), ("--extend", "3"), ("--resume", "cut", "--extend", "0")):
        assert foster("distill", *args).code == 2


def test_data_that_were_moved(foster: Foster, data: Path, whole: Path, cut: Path, tmp_path: Path) -> None:
    """The same data elsewhere continue the run, and the bundle names where they are now."""
    moved = data.rename(tmp_path / "moved.csv")
    assert foster("distill", "--resume", "cut").code == 2
    said = foster("distill", "--resume", "cut", moved)
    assert said.code == 0 and "continuing after outer step" in said.err, said.err
    assert _sums(cut) == _sums(whole)
    assert load(cut).manifest["data"]["path"] == [str(moved)]
    said = foster("distill", "--resume", "cut", "--extend", "2", "--out", "more", tmp_path / "moved.csv")
    assert said.code == 0, said.err


def test_more_steps_on_changed_data(foster: Foster, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen before a teacher is trained, and nothing is left that would stop the next try."""
    before = data.read_text()
    data.write_text(before[: before.rindex("u29")])
    words = ("distill", "--resume", "whole", "--extend", "2", "--out", "longer")
    with monkeypatch.context() as m:
        m.setattr("foster_cli.distill.pipeline.full_teacher", lambda *_, **__: pytest.fail("a teacher"))
        one_line(foster(*words), "whole began with other data than", "FILE --extend 2 --out longer")
    assert not Path("longer.run").exists() and not Path("longer").exists()
    data.write_text(before)
    assert foster(*words).code == 0


def test_another_teacher_leaves_nothing_that_stops_the_next_try(
    foster: Foster, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", "--resume", "whole", "--extend", "2", "--no-cache", "--out", "longer")
    with monkeypatch.context() as m:
        m.setattr("foster_cli.distill.run_folder.digest", lambda x: "another")
        one_line(foster(*words), "other item vectors")
    assert not Path("longer.run").exists()
    assert foster(*words).code == 0


def test_commands_on_a_bundle_that_is_not_finished_name_resume(foster: Foster, cut: Path) -> None:
    for command in ("eval", "export", "report", "verify"):
        one_line(foster(command, "cut"), "cut: is not finished", "foster distill --resume cut")


def test_a_damaged_run_is_one_line(foster: Foster, cut: Path) -> None:
    for file in cut.with_name("cut.run").glob("run-*.json"):
        file.write_text("{}")
    said = foster("distill", "--resume", "cut")
    assert said.code == 2 and said.err.startswith("foster: cut") and said.err.count("\n") == 1


@pytest.mark.parametrize("typed", [(), ("--outer", "bome", "--inner-steps", "2")], ids=["follow", "bome"])
def test_more_steps(foster: Foster, data: Path, tmp_path: Path, typed: tuple[str, ...]) -> None:
    """A student is moved at step 8, where the longer run begins, and made anew at step 10."""
    work, whole = tmp_path / "work", tmp_path / "work" / "whole"
    longer = [v if CONFIG[i - 1] != "--steps" else "12" for i, v in enumerate(CONFIG)]
    for out, words in (("whole", CONFIG), ("long", longer)):
        assert foster("distill", data, "--out", out, *words, *typed).code == 0
    before = _sums(whole)
    said = foster("distill", "--resume", "whole", "--extend", "4", "--out", "more")
    assert said.code == 0 and "from the cache" in said.err, said.err
    assert _sums(work / "more") == _sums(work / "long") != before == _sums(whole)
    assert load(work / "more").manifest["distill"] == load(work / "long").manifest["distill"]
    said = foster("distill", "--resume", "whole", "--extend", "4", "--no-cache")  # in its place, with a new teacher
    assert said.code == 0 and "from the cache" not in said.err and _sums(whole) == _sums(work / "long")
    assert foster("distill", "--resume", "whole", "--extend", "1", "--out", "more").code == 2
    assert sorted(p.name for p in work.iterdir()) == ["long", "more", "whole"]


def test_a_bundle_without_its_state_takes_no_more(foster: Foster, data: Path, whole: Path, tmp_path: Path) -> None:
    """By default nothing of the state is there, and all else is as with it; what to type is said in one line."""
    bundle = tmp_path / "work" / "plain"
    few = [word for word in CONFIG if word != "--keep-state"]
    assert foster("distill", data, "--out", "plain", *few).code == 0
    assert {p.name for p in bundle.iterdir()} == {*FILES, SUMS}
    assert {p.name for p in whole.iterdir()} == {*FILES, *STATE_FILES, SUMS}
    for name in set(EQUAL) - {*STATE_FILES}:
        assert (bundle / name).read_bytes() == (whole / name).read_bytes()
    before = (bundle / SUMS).read_bytes()
    for out in ((), ("--out", "more")):
        said = foster("distill", "--resume", "plain", "--extend", "2", *out)
        one_line(said, "plain: does not hold where its last step ended", "distill with", "--keep-state")
    assert (bundle / SUMS).read_bytes() == before and not (tmp_path / "work" / "more").exists()
    assert not list((tmp_path / "work").glob("*.run"))
    said = foster("distill", "--resume", "plain")
    assert said.code == 0 and "finished already" in said.out
    words = ("state.json", "goes on after outer step 8")
    for path, there in ((bundle, False), (whole, True)):
        said = foster("verify", path)
        assert said.code == 0 and [word in said.out for word in words] == [there] * 2


def test_what_has_no_outer_steps_takes_no_more(foster: Foster, data: Path) -> None:
    few = ("--items", "id", "--width", "16", "--budget", "3", "--length", "5", "--epochs", "1")
    for method in ("rollout", "random"):
        own = (*few, "--student-steps", "5") if method == "rollout" else few
        said = foster("distill", data, "--out", method, "--method", method, *own)
        assert said.code == 0, said.err
        said = foster("distill", "--resume", method, "--extend", "2")
        assert said.code == 2 and "--method foster" in said.err
