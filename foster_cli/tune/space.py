"""The search space around the given settings, and how a point of the search becomes settings.

In: `DistillConfig`, `StudentConfig`. Out: `Parameter`s; `apply` turns a point {name: value} into settings. Ranges are
multiples of the given values, so that the given settings are always inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from foster_cli.settings import BOME_ONLY, DistillConfig, Settings, StudentConfig


@dataclass(frozen=True)
class Parameter:
    """One searched setting, `section`.`field`, given as `base`. The study stores a value in low … high.

    kind `float`, `int`: the value is the setting, on a log scale. `power`: it is a whole k, and the setting base * 2^k.
    That gives few values to a setting that determines the start, so that a start's score is often stored already.
    """

    section: str
    field: str
    base: float
    low: float
    high: float
    kind: str = "float"

    @property
    def name(self) -> str:
        """`distill.eta`."""
        return f"{self.section}.{self.field}"

    @property
    def given(self) -> float:
        """The study's value for the given setting."""
        return 0 if self.kind == "power" else self.base

    @property
    def distribution(self) -> BaseDistribution:
        """The Optuna distribution."""
        if self.kind == "float":
            return FloatDistribution(self.low, self.high, log=True)
        return IntDistribution(int(self.low), int(self.high), log=self.kind == "int")

    def setting(self, found: float) -> float:
        """The setting for the study's value: the given one exactly, any other with three digits."""
        if found == self.given:
            return self.base
        if self.kind == "int":
            return int(found)
        return float(f"{self.base * 2.0**found if self.kind == 'power' else found:.3g}")


def space(config: DistillConfig, student: StudentConfig) -> list[Parameter]:
    """The settings worth searching. One that is given as 0, or that is not read, is not searched."""

    def rate(field: str, factor: float) -> Parameter:
        base = float(getattr(config, field))
        return Parameter("distill", field, base, base / factor, base * factor)

    out = [Parameter("student", "lr", student.lr, -2, 2, "power")]
    if config.init != "random":
        out.append(Parameter("distill", "gain", config.gain, -2, 1, "power"))
    T, tau, bome = config.inner_steps, config.reset_every, config.outer == "bome"
    if config.steps:
        out.append(rate("model_lr", 8))
        if not bome or config.reset != "never":
            out.append(Parameter("distill", "reset_every", tau, max(1, tau // 10), 2 * tau, "int"))
        out += [rate("synthetic_lr", 8), rate("inner_lr", 8), rate("eta", 8), rate("dh_weight", 8)]
        out.append(Parameter("distill", "inner_steps", T, 1, max(10, 2 * T), "int"))
    unread = () if bome else BOME_ONLY
    return [p for p in out if p.field not in unread and p.base > 0 and math.isfinite(p.high)]


def apply(parameters: list[Parameter], found: dict[str, Any], settings: Settings) -> Settings:
    """The settings at the point `found`."""
    values: dict[str, dict[str, Any]] = {"distill": {}, "student": {}}
    for p in parameters:
        values[p.section][p.field] = p.setting(found[p.name])
    return replace(
        settings, distill=replace(settings.distill, **values["distill"]),
        student=replace(settings.student, **values["student"]),
    )  # fmt: skip
