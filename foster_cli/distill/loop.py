"""The outer loop of any method: restore a stored run, then take K outer steps and validate D~ at regular intervals.

In: a `Problem` and a starting point. Out: a `Distilled` with the best D~ by validation (step 0 included), the log and
the validations. Between steps, the whole state is written to the problem's `Store`, if it has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foster_cli.checkpoint import Resumable, Store
from foster_cli.console import SILENT, Console
from foster_cli.distill.algorithm2 import Problem, State, outer_step, resets
from foster_cli.distill.validation import Check, words
from foster_cli.errors import NotFinite
from foster_cli.synthetic.factors import Synthetic
from foster_cli.train.best import value_of


@dataclass
class Distilled:
    """`factors` and `best_step` of the best D~; `log`: a row per outer step; `checks`: a row per validation."""

    factors: dict[str, Tensor]
    best_step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    checks: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    last: dict[str, Any] | None = None
    """The state after the last step, from which more steps can continue; None if they cannot."""

    @property
    def best_check(self) -> dict[str, float]:
        """The validation of the best D~ (`value_of`): the first of several that are as good."""
        return max(self.checks, key=value_of)


#: Improves D~ from a start and returns the best by validation: Algorithm 2 (`distill`), or a baseline's loop.
Loop = Callable[[Problem, Synthetic, Check, Console], Distilled]


def run_state(out: Distilled, number: int, state: Resumable) -> dict[str, Any]:
    """The tree to store after `number` steps: the loop's state and its results so far."""
    found = {"factors": out.factors, "best_step": out.best_step, "log": out.log, "checks": out.checks}
    return {"step": number, "found": found, "state": state.state_dict()}


@dataclass
class _Progress:
    """The results so far, and what validates and stores them. If `store` or `state` is None, nothing is stored."""

    synthetic: Synthetic
    check: Check
    console: Console
    store: Store | None
    state: Resumable | None
    out: Distilled

    def restore(self) -> int:
        """Restore the stored run, if there is one; return the number of steps it has done."""
        found = self.store.read("outer") if self.store is not None else None
        if found is None or self.state is None:
            return 0
        self.state.load_state_dict(found["state"])
        self.out = Distilled(**found["found"])
        return int(found["step"])

    def save(self, number: int) -> None:
        """Store the run after `number` steps."""
        if self.store is not None and self.state is not None:
            self.store.write({"outer": run_state(self.out, number, self.state)})

    def validate(self, number: int) -> None:
        """Validate D~ after `number` steps, remember the best one, and store the run."""
        out = self.out
        found = self.check(self.synthetic().detach(), number)
        if not out.checks or value_of(found) > value_of(out.best_check):
            out.factors, out.best_step = self.synthetic.factors(), number
        out.checks.append({"step": float(number), **found})
        self.console.event(event="check", step=number, **found)
        self.console.note(f"step {number}: D~ trains fresh models to {words(found)} (best: step {out.best_step})")
        self.save(number)

    def add(self, row: dict[str, float]) -> str:
        """Append `row` to the log; return it as a short text. Raises NotFinite for NaN or Inf in it or in D~."""
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad or not all(torch.isfinite(p).all() for p in self.synthetic.parameters()):
            raise NotFinite(f"{', '.join(bad) or 'D~'} became NaN or Inf")
        self.out.log.append(row)
        self.console.event(event="step", **row)
        q = f"q {row['q']:+.4f} " if "q" in row else ""
        return f"{q}L_out {row['outer_real']:.3f} entropy {row['entropy']:.2f}"


def outer_loop(
    problem: Problem, synthetic: Synthetic, step: Callable[[int], dict[str, float]], check: Check,
    console: Console = SILENT, state: Resumable | None = None,
) -> Distilled:  # fmt: skip
    """Call `step(k)`, which updates `synthetic`, K times; return the best validated D~, step 0 included.

    `step` returns a row of the log with `outer_real` and `entropy`. NaN or Inf ends the loop with the best D~ so far.
    `state` holds all that `step` changes. It is restored from `problem.store` and stored there; None: neither.
    """
    c, store = problem.config, problem.store if state is not None else None
    run = _Progress(synthetic, check, console, store, state, Distilled(synthetic.factors()))
    number = done = run.restore()

    def is_due(number: int) -> bool:
        return number % c.check_every == 0 or number == c.steps

    if not run.out.checks:
        run.validate(0)
    elif done:
        console.note(f"continuing after outer step {done} of {c.steps}")
    try:
        if is_due(done) and run.out.checks[-1]["step"] < done:  # interrupted between a step and its validation
            run.validate(done)
        with console.progress("distilling", c.steps) as bar:
            for number in range(done + 1, c.steps + 1):
                bar.at(number, run.add(step(number - 1)))
                if is_due(number) or (store is not None and store.due()):
                    run.save(number)
                if is_due(number):
                    run.validate(number)
    except NotFinite as error:
        run.out.stopped = f"step {number}: {error.message}; the best D~ so far is kept"
        console.note(run.out.stopped)
    return run.out


def last_state(problem: Problem, out: Distilled, state: Resumable, phi: tuple[str, ...]) -> dict[str, Any] | None:
    """The tree from which more steps continue. It lacks `phi`, those entries of the state, if the next step resets phi.

    None if the run was stopped.
    """
    if out.stopped is not None:
        return None
    tree = run_state(out, problem.config.steps, state)
    if resets(problem.config, problem.config.steps):
        for name in phi:
            del tree["state"][name]
    return tree


def bome(problem: Problem, synthetic: Synthetic, check: Check, console: Console = SILENT) -> Distilled:
    """Take K outer steps of Algorithm 2 from `synthetic`; return the best validated D~."""
    state = State.fresh(problem, synthetic)
    out = outer_loop(problem, synthetic, lambda k: outer_step(problem, state, k), check, console, state)
    out.last = last_state(problem, out, state, ("phi", "dropout", "phi_optimizer"))
    return out
