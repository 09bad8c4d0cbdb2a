"""The compared methods by name. Importing this module does not load torch: the command line reads it for `--help`.

Each method is a module here with an entry in METHODS. A coreset method defines `select(surrogate, M, rng, console)`,
which returns indices (M,) of real training windows. A method that makes a synthetic set has `real=False` and defines:

    READS                    the `DistillConfig` fields that it reads; the others keep their defaults, and are refused
    adapt(settings, typed)   the settings with the method's own values; `typed`: the options that the user gave
    LOOP                     its outer loop, a `distill.loop.Loop`
    OWN                      optional: settings of the method that no option sets
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from foster_cli.errors import FosterError
from foster_cli.settings import DistillConfig, Settings, StudentConfig, parameter_name

if TYPE_CHECKING:
    import numpy as np

    from foster_cli.baselines.surrogate import Surrogate
    from foster_cli.console import Console
    from foster_cli.data.windows import Int
    from foster_cli.distill.loop import Loop


class Select(Protocol):
    """Chooses `M` of the surrogate's training windows; deterministic given the generator. Returns indices (M,)."""

    def __call__(self, surrogate: Surrogate, M: int, rng: np.random.Generator, console: Console) -> Int: ...


@dataclass(frozen=True)
class Method:
    """A method that shrinks a dataset. `real`: it selects real sequences (a coreset); else it makes a synthetic set."""

    name: str
    description: str
    real: bool = True

    @property
    def module(self) -> Any:
        """The module in this folder that implements it."""
        return import_module(f"foster_cli.baselines.{self.name}")

    @property
    def reads(self) -> Collection[str]:
        """The fields of `DistillConfig` that it reads."""
        return ("budget", "length") if self.real else cast("Collection[str]", self.module.READS)

    @property
    def own(self) -> dict[str, Any]:
        """The module's `OWN`: settings of the method itself, under its name. Its sets depend on them too."""
        return {} if self.real else getattr(self.module, "OWN", {})

    @property
    def select(self) -> Select:
        """The selection function of a coreset method."""
        return cast(Select, self.module.select)

    @property
    def loop(self) -> Loop:
        """The outer loop of a method that makes a synthetic set."""
        return cast("Loop", self.module.LOOP)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("foster", "the paper's", real=False),
        Method("random", "random users"),
        Method("kcenter", "farthest points"),
        Method("herding", "mean matching"),
        Method("dealrec", "influence and effort"),
        Method("goracs", "optimal transport"),
        Method("nacs", "noise-aware gradients"),
        Method("rollout", "foster's starting point alone", real=False),
        Method("td3", "bi-level Tucker", real=False),
    )
}


def refuse_unread(settings: Settings, typed: Collection[str]) -> None:
    """Raise FosterError if the user typed an option that the method of `settings` does not read.

    A coreset method has no student options and no steps for --live or --tensorboard. Only FOSTER reads --settings.
    """
    method = METHODS[settings.method]
    if method.name == "foster":
        return
    unread = {f.name: f.metadata["flag"] for f in dataclasses.fields(DistillConfig) if f.name not in method.reads}
    flags = [flag for flag in unread.values() if flag]
    if method.real:
        flags += [f.metadata["flag"] for f in dataclasses.fields(StudentConfig) if f.metadata["flag"]]
        flags += ["--live", "--tensorboard"]
    for flag in (*flags, "--settings"):
        if parameter_name(flag) in typed:
            raise FosterError(
                f"{flag}: means nothing with --method {method.name}", "leave it out, or use --method foster"
            )


def adapted(settings: Settings, typed: Collection[str] = ()) -> Settings:
    """Reset every setting that the method does not read to its default, then apply the values that the method sets.
    Unread settings thus affect neither a bundle nor the key of a cached result."""
    method = METHODS[settings.method]
    read = DistillConfig(**{name: getattr(settings.distill, name) for name in method.reads})
    if method.real:
        return replace(settings, distill=read, student=StudentConfig())
    return cast(Settings, method.module.adapt(replace(settings, distill=read), typed))
