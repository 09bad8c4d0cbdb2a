"""A distillation that is killed at any moment, and resumed, ends as one that was not.

To run it alone: `pytest tests/distill/test_resume.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import Killed, killed_at
from spying import spy
from tiny_problem import D, L, M, changed, following, fresh_start, own_start

from foster_cli.baselines.bilevel import distill_bilevel
from foster_cli.baselines.td3 import TD3Config, distill_td3
from foster_cli.checkpoint import Store, from_bytes, to_bytes
from foster_cli.console import SILENT
from foster_cli.distill import loop
from foster_cli.distill.algorithm2 import Problem
from foster_cli.distill.follow import follow
from foster_cli.distill.loop import Distilled, bome
from foster_cli.distill.run_folder import Start
from foster_cli.distill.starts import best_start
from foster_cli.synthetic.factors import from_tensor

TD3 = TD3Config(
    rank_user=2, rank_time=2, inner_steps=4, window=2, prefix_from=2, real_batch=16, first_anchor=1, chunk=7,
    dropout=True, reset="epoch",
)  # fmt: skip
Run = Callable[[Problem], Distilled]


def _check(Q: torch.Tensor, step: int) -> dict[str, float]:
    """A number that only the same Q gives, higher at some steps than later."""
    return {"R@10": float(Q.double().sum().sin()), "N@10": 0.0}


RUNS: dict[str, Run] = {
    "foster": lambda p: bome(p, fresh_start(), _check),
    "fresh phi": lambda p: bome(changed(p, reset="random", reset_every=3), fresh_start(), _check),
    "students": lambda p: follow(following(p), own_start(), _check),
    "one phi": lambda p: bome(changed(p, reset="never"), fresh_start(), _check),
    "bi-level": lambda p: distill_bilevel(p, fresh_start(), _check, 3, 2),
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
    problem = changed(problem, steps=5, check_every=2)
    whole = RUNS[name](problem)
    number, kills = 0, 0
    while True:
        store = Store(tmp_path / str(number), share=1e9)  # every step is stored
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
    problem = changed(problem, steps=6, check_every=3)
    whole = bome(problem, fresh_start(), _check)
    original, lives = loop.outer_step, 0
    for _ in range(20):
        lives += 1
        taken = []

        def step(*args: Any, taken: list[int] = taken) -> dict[str, float]:
            if taken:
                raise Killed
            taken.append(1)
            return original(*args)

        monkeypatch.setattr(loop, "outer_step", step)
        try:
            out = bome(replace(problem, store=Store(tmp_path, share=1e9)), fresh_start(), _check)
            break
        except Killed:
            pass
    assert _same(out, whole) and lives == 6


def test_killed_between_a_step_and_its_validation(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bome(problem, fresh_start(), _check)
    calls, steps = [], []
    spy(monkeypatch, loop, "outer_step", lambda given: steps.append(given["k"]))

    def check(Q: torch.Tensor, step: int) -> dict[str, float]:
        calls.append(1)
        if len(calls) in (2, 4):  # of step 2, then of step 4
            raise Killed
        return _check(Q, step)

    for _ in range(2):
        with pytest.raises(Killed):
            bome(replace(problem, store=Store(tmp_path, share=1e-9)), fresh_start(), check)
    assert _same(bome(replace(problem, store=Store(tmp_path)), fresh_start(), check), whole)
    assert steps == [0, 1, 2, 3]  # a validation is done again, no step before it


def test_a_run_that_ended_in_nan_ends_so_again(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.outer_step

    def step(problem: Problem, state: Any, k: int) -> dict[str, float]:
        return original(problem, state, k) | ({"q": float("nan")} if k == 3 else {})

    monkeypatch.setattr(loop, "outer_step", step)
    outs = [bome(replace(problem, store=Store(tmp_path, share=1e9)), fresh_start(), _check) for _ in range(2)]
    assert outs[0].stopped is not None and outs[0].last is None and _same(*outs)


@pytest.mark.parametrize(
    ("run", "phi", "reset", "every"),
    [
        ("foster", "phi", "anchor", 2), ("foster", "phi", "anchor", 3), ("foster", "phi", "never", 2),
        ("students", "moving", "anchor", 2), ("students", "moving", "anchor", 3),
    ],
)  # fmt: skip
def test_more_steps_are_those_of_a_longer_run(
    problem: Problem, tmp_path: Path, run: str, phi: str, reset: str, every: int
) -> None:
    """4 steps and 4 more are 8. A last step that is no multiple of check_every is validated too: that is all."""
    for check_every in (2, 3):
        base = changed(problem, reset=reset, reset_every=every, check_every=check_every)
        short, long = (RUNS[run](changed(base, steps=k)) for k in (4, 8))
        tree = from_bytes(*to_bytes(short.last))
        assert (phi in tree["state"]) == (not (reset == "anchor" and every == 2))  # a reset needs none
        store = Store(tmp_path / str(check_every))
        store.write({"outer": tree})
        out = RUNS[run](changed(replace(base, store=store), steps=8))
        own = [row for row in out.checks if row["step"] % check_every == 0 or row["step"] == 8]
        assert own == long.checks
        assert [row["step"] for row in out.checks if row not in own] == ([] if check_every == 2 else [4.0])
        a, b = to_bytes(out.last["state"]), to_bytes(long.last["state"])  # type: ignore[index]
        assert a == b
        if check_every == 2:
            assert _same(out, long)


def test_the_search_for_a_start_is_stored_piece_by_piece(problem: Problem, tmp_path: Path) -> None:
    drawn = [torch.randn(M, L, D, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    starts = [Start(from_tensor(Q, None, None)[0], 0.0, [], str(s)) for s, Q in enumerate(drawn)]
    config, asked = replace(problem.config, init="real", draws=4, targets="next", mix=False), []

    def check_of(fatal: int | None) -> Callable[..., Any]:
        def check(Q: torch.Tensor, step: int) -> dict[str, float]:
            if len(asked) == fatal:
                raise Killed
            asked.append(float(Q.sum()))
            return _check(Q, step)

        return lambda reading: check

    store, V = Store(tmp_path), problem.V.float()
    with pytest.raises(Killed):
        best_start(iter(starts), check_of(2), config, V, SILENT, store)
    chosen, _ = best_start(iter(starts), check_of(None), config, V, SILENT, Store(tmp_path))
    assert len(asked) == 4 == len(set(asked))
    assert chosen.name == best_start(iter(starts), check_of(None), config, V, SILENT, Store(tmp_path / "again"))[0].name
    asked.clear()
    with torch.no_grad():
        starts[1].synthetic.G.add_(1.0)  # another start than the stored one is not taken for it
    best_start(iter(starts), check_of(None), config, V, SILENT, Store(tmp_path))
    assert len(asked) == 1


def test_numpy_scalars_do_not_end_in_a_state() -> None:
    with pytest.raises(TypeError):
        to_bytes({"x": np.int64(3)})
