"""`foster bench distill` and `foster bench train` on generated data: what is measured, how often, and the files.

It takes half a minute or more; alone: `pytest tests/commands/made_once/test_bench_command.py`.
"""

from __future__ import annotations

import csv
import json
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from calling import Foster
from spying import stopped

from foster_cli.bench import child, rows
from foster_cli.bench import distill as bench_distill
from foster_cli.bench import train as bench_train
from foster_cli.console import SILENT
from foster_cli.errors import FosterError
from foster_cli.runtime import machine
from foster_cli.session import Session
from foster_cli.settings import PrepareSettings, Settings

SIZE = ("--budget", "3", "--length", "6", "--width", "8", "--k-core", "2")
ALL = "td3-all-last,foster-all-last,td3-few-last,foster-few-last,td3-few-all,foster-few-all"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows are answered in this process, as their own would; the requests, in order."""
    asked: list[dict[str, Any]] = []
    measures = {"distill": bench_distill.measure, "train": bench_train.measure}

    def ask(request: dict[str, Any], limit: float | None) -> dict[str, Any]:
        asked.append(json.loads(json.dumps(request)))
        row = rows._row(0, json.dumps(child.answer(asked[-1], measures[request["bench"]])))
        return {**row, "load": [0.5, 1.25], "machine": rows.machine()}

    monkeypatch.setattr(rows, "ask", ask)
    return asked


def test_all_six_rows(
    foster: Foster,
    shop: Path,
    folder: Path,
    mean_encoder: Path,
    here: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each method's own step, counted, over as many items and with as much of the encoder as its row says."""
    seen: list[dict[str, Any]] = []
    foster_step, td3_step = bench_distill.outer_step, bench_distill.td3_step

    def note(method: str, problem: Any, phi: Any, inner: tuple[int, ...], k: int) -> None:
        learning = sum(p.numel() for name, p in phi.named_parameters() if p.requires_grad and name.startswith("text."))
        items = len(problem.subset(torch.Generator()))
        seen.append({"method": method, "k": k, "items": items, "learning": learning, "inner": inner,
                     "batch": problem.config.real_batch})  # fmt: skip

    def one(problem: Any, state: Any, k: int) -> Any:
        row = foster_step(problem, state, k)
        assert all(np.isfinite(value) for value in row.values())
        note("foster", problem, state.phi, (problem.config.inner_steps,), k)
        return row

    def two(problem: Any, settings: Any, state: Any, k: int, warm_up: int) -> Any:
        row = td3_step(problem, settings, state, k, warm_up)
        assert all(np.isfinite(value) for value in row.values())
        assert settings.real_batch == problem.config.real_batch and row["warm_up"] == warm_up
        note("td3", problem, state.learner, (warm_up, settings.window), k)
        return row

    monkeypatch.setattr(bench_distill, "outer_step", one)
    monkeypatch.setattr(bench_distill, "td3_step", two)
    out = folder / "six"
    common = ("bench", "distill", shop, *SIZE, "--encoder", mean_encoder, "--steps", "2", "--items-per-step", "7",
              "--real-batch", "16", "--td3-steps", "7", "--td3-window", "3", "--out", out)  # fmt: skip
    code, text, err = foster(*common, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert [row["row"] for row in found["rows"]] == ALL.split(",")
    n = found["data"]["statistics"]["items"]
    assert len(seen) == 18 and [s["k"] for s in seen] == [0, 1, 2] * 6
    layer = seen[0]["learning"]
    assert layer > 0
    for i, row in enumerate(found["rows"]):
        method, items, layers = row["row"].split("-")
        inner = (5,) if method == "foster" else (2, 3)
        assert row["status"] == "done" and row["items"] == (None if items == "all" else 7)
        for s in seen[3 * i : 3 * i + 3]:
            assert (s["method"], s["items"], s["inner"], s["batch"]) == (method, n if items == "all" else 7, inner, 16)
            assert s["learning"] == layer if layers == "last" else s["learning"] > 4 * layer  # four layers and words
        assert len(row["seconds"]) == 2 and row["median_s"] == pytest.approx(np.mean(row["seconds"]))
        assert row["min_s"] == min(row["seconds"]) and row["peak_mb"] > 0 and row["machine"]["cpu"]
        assert row["epoch_s"] == pytest.approx(row["median_s"] * row["steps_per_epoch"])
    lines = list(csv.DictReader((out / "bench.csv").read_text(encoding="utf-8").splitlines()))
    assert [(x["method"], x["items"], x["layers"]) for x in lines] == [
        ("td3", "all", "last"), ("foster", "all", "last"), ("td3", "7", "last"), ("foster", "7", "last"),
        ("td3", "7", "all"), ("foster", "7", "all"),
    ]  # fmt: skip
    assert [float(x["median_s"]) for x in lines] == [row["median_s"] for row in found["rows"]]
    assert all(x["torch"] == torch.__version__ and x["load_after"] == "1.25" and x["cpu"] for x in lines)
    before = (out / "bench.json").read_bytes()
    code, text, err = foster(*common)  # measures nothing again
    assert code == 0 and len(seen) == 18 and err.count("kept from before") == 6
    assert "2 and 3 inner steps" in text and "0.5 to 1.2" in text and (out / "bench.json").read_bytes() == before
    assert len((out / "bench.md").read_text().splitlines()) == 10


def test_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: the first step does not count; the median, least and most of the others."""
    wall, cpu = iter([0, 50, 50, 53, 60, 61, 70, 72]), iter([0, 9, 9, 11, 20, 21, 30, 37])
    clock = SimpleNamespace(perf_counter=lambda: next(wall), process_time=lambda: next(cpu))
    monkeypatch.setattr(bench_distill, "time", clock)
    calls: list[int] = []
    found = bench_distill.timed(calls.append, 3, Session())
    assert calls == [0, 1, 2, 3] and found["seconds"] == [3, 1, 2]
    assert (found["median_s"], found["min_s"], found["max_s"], found["cpu_s"]) == (2.0, 1.0, 3.0, 2.0)


def test_memory_is_that_of_the_steps() -> None:
    """A step that holds 64 MiB for a moment, in fresh pages: what the process has freed before plays no part."""

    def step(_: int) -> None:
        with mmap.mmap(-1, 64 << 20) as held:
            for at in range(0, len(held), mmap.PAGESIZE):
                held[at] = 1

    found = bench_distill.timed(step, 1, Session())
    if found["base_mb"] is not None:
        assert 55 < found["peak_mb"] - found["base_mb"] < 160


def test_rows_that_end_otherwise_stand_in_the_table(
    foster: Foster, shop: Path, folder: Path, mean_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter(["out of memory", "killed by SIGKILL", "over 9 s"])
    monkeypatch.setattr(rows, "ask", lambda *_: {"status": next(ends), "load": [None, None], "machine": rows.machine()})
    chosen = "td3-all-last,td3-few-all,foster-few-last"
    out = folder / "ends"
    code, text, err = foster(
        "bench", "distill", shop, *SIZE, "--encoder", mean_encoder, "--rows", chosen, "--limit", "9", "--out", out
    )
    assert code == 0, err
    assert all(word in text for word in ("out of memory", "killed by SIGKILL", "over 9 s"))
    lines = list(csv.DictReader((out / "bench.csv").read_text(encoding="utf-8").splitlines()))
    assert [x["status"] for x in lines] == ["out of memory", "killed by SIGKILL", "over 9 s"]
    assert all(x["median_s"] == x["peak_mb"] == x["load_after"] == "" for x in lines)
    assert "| TD3 | all | last | out of memory |" in (out / "bench.md").read_text(encoding="utf-8")


def test_training_on_all_and_on_the_set(
    foster: Foster, shop: Path, folder: Path, mean_encoder: Path, here: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The numbers of `foster eval`; trained here, though the cache holds the teacher."""
    bundle = folder / "b"
    code, _, err = foster(
        "distill", shop, *SIZE, "--encoder", mean_encoder, "--epochs", "1", "--draws", "1", "--steps", "1",
        "--student-steps", "20", "--out", bundle,
    )  # fmt: skip
    assert code == 0, err
    code, text, err = foster("bench", "train", bundle, "--seeds", "2", "--json", "--out", folder / "train")
    assert code == 0, err
    [entry] = json.loads(text)["bundles"]
    assert [(r["row"], r["seeds"]) for r in here] == [("full", 2), ("synthetic", 2)]
    assert entry["encoder"] == str(mean_encoder) and entry["budget"] == 3 and entry["made_seconds"] > 0
    code, text, err = foster("eval", bundle, "--seeds", "2", "--rows", "full,synthetic", "--k", "10", "--json")
    assert code == 0, err
    expected = json.loads(text)["rows"]
    for name in ("full", "synthetic"):
        for metric in ("R@10", "N@10"):
            assert entry["rows"][name][metric]["seeds"] == expected[name][metric]["seeds"]
        assert entry["rows"][name]["train_seconds"] > 0 and entry["rows"][name]["load"] == [0.5, 1.25]
    lines = list(csv.DictReader((folder / "train" / "bench.csv").read_text(encoding="utf-8").splitlines()))
    assert [x["row"] for x in lines] == ["full", "synthetic"]
    assert float(lines[1]["N@10"]) == entry["rows"]["synthetic"]["N@10"]["mean"]
    assert [float(x["train_seconds"]) for x in lines] == [r["train_seconds"] for r in entry["rows"].values()]
    code, text, err = foster("bench", "train", bundle, "--seeds", "2", "--out", folder / "train")
    assert code == 0 and len(here) == 2 and err.count("kept from before") == 2
    with monkeypatch.context() as patch:
        patch.setattr("foster_cli.bench.rows.machine", lambda: {**machine(), "threads": 99})
        code, _, err = foster("bench", "train", bundle, "--seeds", "2", "--out", folder / "train")
    assert code == 0 and len(here) == 4 and "kept from before" not in err  # other threads, other times
    ratio = entry["rows"]["full"]["train_seconds"] / entry["rows"]["synthetic"]["train_seconds"]
    assert f"{ratio:.1f}" in text and f"{entry['rows']['full']['R@10']['mean']:.4f}" in text
    # elsewhere
    moved = shop.rename(folder / "moved.parquet")
    try:
        code, _, err = foster("bench", "train", bundle, "--out", folder / "x")
        assert code == 2 and "--data FILE" in err
        code, _, err = foster("bench", "train", bundle, "--data", moved, "--out", folder / "x", "--limit", "99")
        assert code == 0 and here[-1]["paths"] == [str(moved)], err
    finally:
        moved.rename(shop)


def test_full_data_is_never_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = stopped(monkeypatch, bench_train, "evaluate_bundles")
    monkeypatch.setattr(bench_train.bundle, "load", lambda _: SimpleNamespace(
        made=Settings(("x",), PrepareSettings(text_columns=("title",), k_core=2))))  # fmt: skip
    read: list[Any] = []
    monkeypatch.setattr(bench_train, "read_again", lambda *args: read.append(args))
    request = {"bundle": "b", "paths": None, "row": "full", "seeds": 1, "device": "cpu"}
    with pytest.raises(FosterError):
        bench_train.measure(request, SILENT)
    (given,) = evaluations
    assert given["asked"].names == ("full",)
    assert not given["session"].use_cache and not given["asked"].resumable  # neither cached nor kept
    assert read[0][1].text_columns == ("title",) and read[0][1].k_core == 2


def test_a_row_in_a_process_of_its_own(foster: Foster, shop: Path, folder: Path, mean_encoder: Path) -> None:
    code, text, err = foster(
        "bench", "distill", shop, *SIZE, "--encoder", mean_encoder, "--rows", "foster-few-all", "--steps", "1",
        "--json", "--out", folder / "own",
    )  # fmt: skip
    assert code == 0, err
    [row] = json.loads(text)["rows"]
    assert row["status"] == "done" and row["median_s"] > 0 and row["peak_mb"] > row["base_mb"] > 50


def test_the_form_of_the_paper(
    foster: Foster, shop: Path, folder: Path, mean_encoder: Path, here: list[dict[str, Any]]
) -> None:
    code, text, err = foster(
        "bench", "distill", shop, *SIZE, "--encoder", mean_encoder, "--rows", "foster-few-last", "--steps", "1",
        "--targets", "next", "--json", "--out", folder / "next",
    )  # fmt: skip
    assert code == 0, err
    used = here[0]["distill"]
    assert (used["targets"], used["mix"], used["init"]) == ("next", False, "rollout")
    assert json.loads(text)["rows"][0]["status"] == "done"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("distill", "--targets", "both"), ("--targets both", "next")),
        (("distill", "--rows", "td3-all-first"), ("--rows td3-all-first", "td3-all-last")),
        (("distill", "--steps", "0"), ("--steps",)),
        (("distill", "--budget", "0"), ("--budget 0",)),
        (("distill", "--device", "tpu"), ("--device tpu",)),
        (("distill", "--td3-window", "9", "--td3-steps", "3"), ("--td3-steps 3", "--td3-window 9")),
        (("train",), ("nothing.csv: no such folder",)),
    ],
)
def test_bad_input(
    foster: Foster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = foster("bench", given[0], "nothing.csv", *given[1:])
    assert code == 2 and not out and "Traceback" not in err
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_data_is_one_line(foster: Foster, shop: Path, folder: Path, mean_encoder: Path) -> None:
    (folder / "file").write_text("x")
    for given, word in (
        (("--budget", "9999"), "--budget 9999: there are only"),
        (("--encoder", folder / "none"), "none"),
        (("--out", folder / "file"), "--out"),
    ):
        code, out, err = foster("bench", "distill", shop, *SIZE, "--encoder", mean_encoder, "--rows",
                                "foster-few-last", "--out", folder / "wrong", *given)  # fmt: skip
        last = err.splitlines()[-1]
        assert code == 2 and not out and last.startswith("foster: ") and word in last, err
