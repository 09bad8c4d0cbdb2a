"""The parameters that `foster sweep` varies, by the paper's symbols. Importing this loads no torch: `--help` reads it.

In: the texts of `--over`. Out: `Range`s, each a parameter with its values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from foster_cli.errors import FosterError
from foster_cli.evaluate.ablation_rows import nearest
from foster_cli.settings import BOME_ONLY

#: None: `all` items at every step, whose number is unknown until the catalogue is read.
Value = int | float | None


@dataclass(frozen=True)
class Parameter:
    """`field` of `DistillConfig`. `symbol`: the paper's, as matplotlib writes it; `least`: its smallest value."""

    name: str
    field: str
    symbol: str
    text: str
    least: float
    whole: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def bome(self) -> bool:
        """Whether Algorithm 2 alone reads it, so that its curve is of `--outer bome`."""
        return self.field in BOME_ONLY


PARAMETERS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter("budget", "budget", "M", "synthetic sequences", 1, aliases=("M",)),
        Parameter("items-per-step", "items_per_step", r"|\mathcal{S}|", "items per step", 2, aliases=("S", "|S|")),
        Parameter("reset-every", "reset_every", r"\tau", "outer steps between resets", 1, aliases=("tau",)),
        Parameter("dh-weight", "dh_weight", r"\lambda", "weight of L_DH", 0, False, ("lambda",)),
        Parameter("inner-steps", "inner_steps", "T", "inner steps", 1, aliases=("T",)),
        Parameter("alpha", "alpha", r"\alpha", "weight of feature matching", 0, False),
        Parameter("eta", "eta", r"\eta", "barrier strength", 0, False),
    )
}  # fmt: skip
#: Every name that `--over` takes.
NAMES = {name: p for p in PARAMETERS.values() for name in (p.name, p.field, *p.aliases)}


class Range(NamedTuple):
    """One curve: a parameter and its values in increasing order, `all` (None) last."""

    parameter: Parameter
    values: tuple[Value, ...]


def _value(parameter: Parameter, text: str) -> Value:
    if text == "all" and parameter.field == "items_per_step":
        return None
    try:
        number = int(text) if parameter.whole else float(text)
    except ValueError:
        number = math.nan
    if not parameter.least <= number < math.inf:
        kind = "whole numbers" if parameter.whole else "numbers"
        least = f"{kind} of {parameter.least:g} or more"
        extra = ", or all" if parameter.field == "items_per_step" else ""
        raise FosterError(f"--over {parameter.name}={text}: not one of its values", f"use {least}{extra}")
    return number


def parse_over(texts: list[str]) -> list[Range]:
    """Parse texts such as `["budget=10,20", "tau=50,100"]` into ranges.

    Raises FosterError for an unknown parameter (it names the nearest known one), one given twice, or a wrong value.
    """
    found: list[Range] = []
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not values.strip():
            raise FosterError(f"--over {text}: no values", f"use for example --over {name or 'budget'}=10,20,40")
        if name not in NAMES:
            raise nearest("--over", name, tuple(NAMES))
        parameter = NAMES[name]
        if any(parameter is r.parameter for r in found):
            raise FosterError(f"--over {name}: given twice", "give all its values at once, by comma")
        parsed = {_value(parameter, part.strip()) for part in values.split(",")}
        if len(parsed) < 2:
            raise FosterError(f"--over {text}: one value makes no curve", f"use for example --over {name}=10,20,40")
        found.append(Range(parameter, tuple(sorted(parsed, key=lambda v: math.inf if v is None else v))))
    return found
