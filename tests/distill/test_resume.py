"""A distillation that is killed at any moment, and goes on, ends as one that was not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_loop
import torch
from killing import Killed, killed_at

from foster_cli.baselines.bilevel import distill_bilevel
from foster_cli.baselines.td3 import TD3Config, distill_td3
from foster_cli.checkpoint import Store, from_bytes, to_bytes
from foster_cli.config import DistillConfig, ModelConfig, StudentConfig, TrainConfig
from foster_cli.console import SILENT
from foster_cli.data.columns import PrepareSettings
from foster_cli.distill.keep import (
    Request,
    deciding,
    difference,
    keeping,
    kept_start,
    run_folder,
    start_tree,
)
from foster_cli.distill.loop import Distilled, Problem, distill
from foster_cli.distill.pipeline import best_start
from foster_cli.distill.synthetic import Start, from_tensor
from foster_cli.errors import FosterError, NotFinite
from foster_cli.ops.reading import Reading

problem = test_loop.problem
N, D, M, L = test_loop.N, test_loop.D, test_loop.M, test_loop.L
TD3 = TD3Config(
    rank_user=2, rank_time=2, inner_steps=4, window=2, prefix_from=2, real_batch=16, first_anchor=1, chunk=7,
    dropout=True, reset="epoch",
)  # fmt: skip
Run = Callable[[Problem], Distilled]


def _check(Q: torch.Tensor) -> dict[str, float]:
    """A number that only the same Q gives, higher at some steps than later."""
    return {"R@10": float(Q.double().sum().sin()), "N@10": 0.0}


def _start() -> Any:
    rng = torch.Generator().manual_seed(0)
    return from_tensor(torch.randn(M, L, D, generator=rng, dtype=torch.float64), 2, 3)[0]


RUNS: dict[str, Run] = {
    "foster": lambda p: distill(p, _start(), _check),
    "fresh phi": lambda p: distill(test_loop._with(p, reset="random", reset_every=3), _start(), _check),
    "one phi": lambda p: distill(test_loop._with(p, reset="never"), _start(), _check),
    "bi-level": lambda p: distill_bilevel(p, _start(), _check, 3, 2),
    "td3": lambda p: distill_td3(p, TD3, _check),
}


def _same(a: Distilled, b: Distilled) -> bool:
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in out.log] for out in (a, b)]
    return (
        all(torch.equal(a.factors[k], b.factors[k]) for k in "UTG")
        and rows[0] == rows[1] and len(rows[0]) > 0
        and (a.checks, a.best_step, a.stopped) == (b.checks, b.best_step, b.stopped)
    )  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_every_operation_on_the_disk(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    problem = test_loop._with(problem, steps=5, check_every=2)
    whole = RUNS[name](problem)
    number, kills = 0, 0
    while True:
        store = Store(tmp_path / str(number), share=1e9)  # every step is kept
        try:
            with killed_at(monkeypatch, number):
                out = RUNS[name](replace(problem, store=store))
        except Killed:
            kills += 1
            out = RUNS[name](replace(problem, store=Store(store.folder, share=1e9)))
            assert _same(out, whole), number
        else:
            assert _same(out, whole)
            break
        number += 7 if name == "foster" else 23
    assert kills >= (8 if name == "foster" else 2)


def test_killed_again_and_again(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process does a single step before it is killed."""
    problem = test_loop._with(problem, steps=6, check_every=3)
    whole = distill(problem, _start(), _check)
    original, lives = test_loop.loop.outer_step, 0
    for _ in range(20):
        lives += 1
        taken = []

        def step(*args: Any, taken: list[int] = taken) -> dict[str, float]:
            if taken:
                raise Killed
            taken.append(1)
            return original(*args)

        monkeypatch.setattr(test_loop.loop, "outer_step", step)
        try:
            out = distill(replace(problem, store=Store(tmp_path, share=1e9)), _start(), _check)
            break
        except Killed:
            pass
    assert _same(out, whole) and lives == 6


def test_killed_between_a_step_and_its_validation(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(problem, _start(), _check)
    calls, steps = [], []
    original = test_loop.loop.outer_step
    monkeypatch.setattr(test_loop.loop, "outer_step", lambda p, s, k: steps.append(k) or original(p, s, k))

    def check(Q: torch.Tensor) -> dict[str, float]:
        calls.append(1)
        if len(calls) in (2, 4):  # of step 2, then of step 4
            raise Killed
        return _check(Q)

    for _ in range(2):
        with pytest.raises(Killed):
            distill(replace(problem, store=Store(tmp_path, share=1e-9)), _start(), check)
    assert _same(distill(replace(problem, store=Store(tmp_path)), _start(), check), whole)
    assert steps == [0, 1, 2, 3]  # a validation is done again, no step before it


def test_a_run_that_ended_in_nan_ends_so_again(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = test_loop.loop.outer_step

    def step(problem: Problem, state: Any, k: int) -> dict[str, float]:
        return original(problem, state, k) | ({"q": float("nan")} if k == 3 else {})

    monkeypatch.setattr(test_loop.loop, "outer_step", step)
    outs = [distill(replace(problem, store=Store(tmp_path, share=1e9)), _start(), _check) for _ in range(2)]
    assert outs[0].stopped is not None and outs[0].last is None and _same(*outs)


@pytest.mark.parametrize(("reset", "every"), [("anchor", 2), ("anchor", 3), ("never", 2)])
def test_more_steps_are_those_of_a_longer_run(problem: Problem, tmp_path: Path, reset: str, every: int) -> None:
    """4 steps and 4 more are 8. A last step that is no multiple of check_every is validated too: that is all."""
    for check_every in (2, 3):
        base = test_loop._with(problem, reset=reset, reset_every=every, check_every=check_every)
        short, long = (distill(test_loop._with(base, steps=k), _start(), _check) for k in (4, 8))
        tree = from_bytes(*to_bytes(short.last))
        assert ("phi" in tree["state"]) == (not (reset == "anchor" and every == 2))  # a reset needs none
        store = Store(tmp_path / str(check_every))
        store.write({"outer": tree})
        out = distill(test_loop._with(replace(base, store=store), steps=8), _start(), _check)
        own = [row for row in out.checks if row["step"] % check_every == 0 or row["step"] == 8]
        assert own == long.checks
        assert [row["step"] for row in out.checks if row not in own] == ([] if check_every == 2 else [4.0])
        a, b = to_bytes(out.last["state"]), to_bytes(long.last["state"])  # type: ignore[index]
        assert a == b
        if check_every == 2:
            assert _same(out, long)


def test_the_search_for_a_start_is_kept_piece_by_piece(problem: Problem, tmp_path: Path) -> None:
    drawn = [torch.randn(M, L, D, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    starts = [Start(from_tensor(Q, None, None)[0], 0.0, [], str(s)) for s, Q in enumerate(drawn)]
    config, asked = replace(problem.config, init="real", draws=4, targets="next", mix=False), []

    def check_of(fatal: int | None) -> Callable[..., Any]:
        def check(Q: torch.Tensor) -> dict[str, float]:
            if len(asked) == fatal:
                raise Killed
            asked.append(float(Q.sum()))
            return _check(Q)

        return lambda reading, count: check

    store, V = Store(tmp_path), problem.V.float()
    with pytest.raises(Killed):
        best_start(iter(starts), check_of(2), config, V, SILENT, store)
    chosen, _ = best_start(iter(starts), check_of(None), config, V, SILENT, Store(tmp_path))
    assert len(asked) == 4 == len(set(asked))
    assert chosen.name == best_start(iter(starts), check_of(None), config, V, SILENT)[0].name
    asked.clear()
    with torch.no_grad():
        starts[1].synthetic.G.add_(1.0)  # another start than the kept one is not taken for it
    best_start(iter(starts), check_of(None), config, V, SILENT, Store(tmp_path))
    assert len(asked) == 1


def test_the_chosen_start_comes_back_in_its_memory_layout(tmp_path: Path) -> None:
    """The layout decides in which order numbers are added."""
    synthetic, error = from_tensor(torch.randn(M, L, D, generator=torch.Generator().manual_seed(0)), 2, 3)
    synthetic.U = torch.nn.Parameter(synthetic.U.detach().T.contiguous().T)
    assert synthetic.U.stride() == (1, M)
    store, V = Store(tmp_path), torch.randn(N, D)
    reading = Reading(True, torch.arange(3), 4)
    store.write({"start": start_tree(Start(synthetic, error, [3, 1], "real 2"), reading, V)})
    found = kept_start(store, V)
    assert found is not None
    start, read = found
    assert (start.error, start.contexts, start.name) == (error, [3, 1], "real 2")
    assert read.own and read.mix == 4 and read.items is not None and torch.equal(read.items, torch.arange(3))
    for (_, a), (_, b) in zip(synthetic.named_parameters(), start.synthetic.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
    with pytest.raises(FosterError, match="other item vectors"):
        kept_start(store, V + 1e-6)
    assert kept_start(Store(tmp_path / "none"), V) is None


REQUEST = Request(
    ["a.parquet"], PrepareSettings(text_columns=("a", "b")), ModelConfig(), TrainConfig(), DistillConfig(),
    StudentConfig(), 3, "cpu", "foster", True,
)  # fmt: skip


def _fields(request: Request = REQUEST, data: str = "d", encoder: str | None = "e") -> dict[str, Any]:
    return deciding(request, data, encoder, torch.device("cpu"))


def test_a_request_comes_back() -> None:
    assert Request.of(from_bytes(*to_bytes(dataclasses.asdict(REQUEST)))) == REQUEST


def test_every_setting_decides_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    began = from_bytes(*to_bytes(_fields()))
    assert difference(began, _fields()) is None
    for part in ("model", "train", "config", "student"):
        kind = getattr(REQUEST, part)
        for f in dataclasses.fields(kind):
            if (part, f.name) == ("model", "encoder"):  # known by its hash, wherever it lies
                continue
            changed = replace(REQUEST, **{part: replace(kind, **{f.name: "another"})})
            said = difference(began, _fields(changed))
            assert said is not None and f.name in said[0] and "another" in said[0], f.name
    for changed in (_fields(data="x"), _fields(encoder=None)):
        said = difference(began, changed)
        assert said is not None and "hash differs" in said[0]
    assert difference(began, _fields(replace(REQUEST, seed=4))) is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    said = difference(began, _fields())
    assert said is not None and "77" in said[0] and "OMP_NUM_THREADS" in said[1]
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert difference(began, {**_fields(), "threads": began["threads"]}) is not None


def _open(out: Path, resume: bool | None, **changes: Any) -> Any:
    return keeping(out, REQUEST, {**_fields(), **changes}, resume, SILENT)


def _stop(out: Path) -> None:
    """A run of `out` that ends in the middle."""
    with pytest.raises(Killed), _open(out, False) as kept:
        kept.distilling().write({"outer": {"step": 1}})
        raise Killed


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "b"
    with pytest.raises(FosterError, match="cannot be read"), _open(out, True):
        pytest.fail("there is none")
    assert not run_folder(out).exists()
    _stop(out)
    with pytest.raises(FosterError, match="--resume") as caught, _open(out, False):
        pytest.fail("one is kept")
    assert str(run_folder(out)) in str(caught.value)
    with pytest.raises(FosterError, match="seed 3, here is 4"), _open(out, True, seed=4):
        pytest.fail("another one")
    with _open(out, True) as kept:
        assert kept.store.read("outer") == {"step": 1}
        with pytest.raises(FosterError, match="another process"), _open(out, True):
            pytest.fail("two at once")
    with _open(out, None) as kept:  # the library: the same run goes on, another one begins anew
        assert kept.store.read("outer") == {"step": 1}
    with _open(out, None, seed=4) as kept:
        assert kept.store.read("outer") is None
        kept.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [NotFinite("x"), FosterError("x")])
def test_what_would_fail_again_is_not_kept(tmp_path: Path, error: FosterError) -> None:
    with pytest.raises(FosterError), _open(tmp_path / "b", False):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    """Killed while the longer run's bundle took the place of the shorter one's."""
    out = tmp_path / "b"
    _stop(out)
    (run_folder(out) / ".b.old-77").mkdir()
    (run_folder(out) / ".b.old-77" / "bundle.json").write_text("{}")
    (run_folder(out) / ".b.half").mkdir()
    with _open(out, True):
        assert (out / "bundle.json").exists()
        assert not list(run_folder(out).glob(".b.*"))


def test_numpy_scalars_do_not_end_in_a_state() -> None:
    with pytest.raises(TypeError):
        to_bytes({"x": np.int64(3)})
