"""The study: the points that were tried, their scores, the next point. It is stored in one JSON-lines file.

Optuna's sampler stores no state in the file. Trial k therefore asks a new sampler, seeded by (seed, k), so that a
resumed study asks for the same points as an uninterrupted one. Trial 0 has the given settings: it is recorded when it
is complete, and never pruned. An interrupted trial is ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from foster_cli.errors import FosterError, NotFinite
from foster_cli.runtime import stream_seed
from foster_cli.tune.space import Parameter

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
#: Random points before the sampler begins to learn; complete trials before one is pruned.
RANDOM, UNPRUNED = 6, 3


class Pruned(Exception):
    """Raised to stop a trial early."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `complete`, `pruned` or `not finite`; its best R@10 if it is complete; its seconds."""

    state: str
    value: float
    seconds: float


@dataclass(frozen=True)
class Tried:
    """A finished trial. `found`: its point; `values`: its R@10 by outer step; `value`: that of the D~ it kept, or the
    best of a trial that was stopped; None without any."""

    index: int
    found: dict[str, Any]
    state: str
    value: float | None
    values: dict[int, float]
    seconds: float

    @property
    def best_step(self) -> int | None:
        """The outer step of `value`, the first of equal ones."""
        return next((step for step, value in self.values.items() if value == self.value), None)


#: Takes (outer step, R@10); raises `Pruned`.
Report = Callable[[int, float], None]
#: A trial: takes its point and the `Report` to call.
Run = Callable[[dict[str, Any], Report], Outcome]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder: two processes in one study would mistake each other's trials for interrupted ones."""
    lock = FileLock(str(folder / "study.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FosterError(
            f"{folder}: another foster tune is at work there", "wait for it, or give another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Study:
    """The study `key` in `path`. Raises FosterError if the file holds another one, or cannot be read.

    `steps`: the last outer step of a trial, at which it is no longer pruned.
    """

    def __init__(self, path: Path, key: str, parameters: list[Parameter], seed: int, steps: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _cut_torn_line(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            others = set(optuna.get_all_study_names(storage)) - {key}
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise FosterError(
                f"{path}: is no study, or was changed ({type(error).__name__}: {error})",
                "remove it, or give another --out",
            ) from error
        if others:
            raise FosterError(
                f"{path.parent}: holds a study of other data, settings or versions", "give another folder with --out"
            )
        self.parameters, self.seed, self.steps = parameters, seed, steps
        self.study = optuna.create_study(
            storage=storage, study_name=key, load_if_exists=True, direction="maximize",
            pruner=MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=0),
        )  # fmt: skip
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    @property
    def tried(self) -> list[Tried]:
        """The finished trials, in order."""
        return [_tried(i, t) for i, t in enumerate(self.study.get_trials(deepcopy=False, states=FINISHED))]

    def given(self, run: Run) -> None:
        """Run trial 0, the given settings. It is recorded only if complete; otherwise this raises NotFinite."""
        point = {p.name: p.given for p in self.parameters}
        values: dict[int, float] = {}
        outcome = run(point, values.__setitem__)
        if outcome.state != "complete":
            raise NotFinite("the settings that were given end in NaN or Inf", "use lower learning rates")
        self.study.add_trial(
            create_trial(
                value=outcome.value, params=point, distributions=self._distributions,
                intermediate_values=values, user_attrs={"seconds": outcome.seconds},
            )
        )  # fmt: skip

    def next(self, run: Run) -> None:
        """Run one more trial, at a point that the sampler suggests."""
        seed = stream_seed(self.seed, "tpe", len(self.tried)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = TPESampler(n_startup_trials=RANDOM, multivariate=True, constant_liar=False, seed=seed)
        trial = self.study.ask(self._distributions)

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if step < self.steps and trial.should_prune():
                raise Pruned

        outcome = run(trial.params, report)
        trial.set_user_attr("seconds", outcome.seconds)
        trial.set_user_attr("state", outcome.state)
        if outcome.state == "complete":
            self.study.tell(trial, outcome.value)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    @property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {p.name: p.distribution for p in self.parameters}


def _tried(index: int, trial: FrozenTrial) -> Tried:
    values = dict(sorted(trial.intermediate_values.items()))
    state = str(trial.user_attrs.get("state", "complete"))
    value = trial.value if state == "complete" else max(values.values(), default=None)
    return Tried(index, dict(trial.params), state, value, values, float(trial.user_attrs["seconds"]))


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a crash left unfinished: it would corrupt the line written after it."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
