"""The rows of `foster ablate`: the settings that each changes. Importing this loads no torch, since `--help` reads it.

In: the text of `--rows` and `--layers`. Out: `Picked` rows, each a `Kind` with trainable layers of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from foster_cli.errors import FosterError, did_you_mean


@dataclass(frozen=True)
class Kind:
    """A kind of row. `change`: fields of `DistillConfig` and their new values; `text`: the same in words."""

    name: str
    text: str
    change: dict[str, Any] = field(default_factory=dict)
    bilevel: bool = False


#: Of rows that change a part of Algorithm 2.
BOME = {"outer": "bome"}
KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind("foster", "the default settings: targets follow students"),
        Kind("bome", "Algorithm 2, the paper's outer steps", BOME),
        Kind("bilevel", "bi-level: differentiates through the inner steps (RaT-BPTT)", BOME, bilevel=True),
        Kind("kmeans", "bome, S fixed to the items nearest to k-means centres of V (KM)", {**BOME, "subset": "kmeans"}),
        Kind("no_dh", "bome without L_DH", {**BOME, "dh_weight": 0.0}),
        Kind("reset_random", "bome, phi is reset to a fresh model", {**BOME, "reset": "random"}),
        Kind("reset_never", "bome, phi is never reset", {**BOME, "reset": "never"}),
        Kind(
            "paper", "the paper's form: bome, the next position is the goal, no mixing, a random start, raw L_DH",
            {**BOME, "targets": "next", "mix": False, "init": "random", "dh_form": "raw"},
        ),
        Kind(
            "next_goals", "bome, the next position is the goal; so the start is a rollout",
            {**BOME, "targets": "next", "init": "rollout"},
        ),
        Kind("no_mix", "the M users as they are", {"mix": False}),
        Kind("init_rollout", "starts from soft rollouts", {"init": "rollout"}),
        Kind("init_random", "starts from random factors", {"init": "random"}),
        Kind("one_draw", "one draw of the start, not the best of several", {"draws": 1}),
        Kind("start_only", "the start alone, no outer step", {"steps": 0}),
        Kind("barrier_loss", "bome, barrier eta * L_in in the place of Eq. 7", {**BOME, "barrier": "loss"}),
        Kind("no_feature", "bome without feature matching (alpha 0)", {**BOME, "alpha": 0.0}),
    )
}  # fmt: skip
GROUPS = {
    "table3": ("foster", "bome", "bilevel", "kmeans", "no_dh"),
    "figure3": ("foster", "bome", "reset_random", "reset_never"),
    "ours": (
        "foster", "bome", "paper", "next_goals", "no_mix", "init_rollout", "init_random", "one_draw", "start_only",
        "barrier_loss", "no_feature",
    ),
    "all": tuple(KINDS),
}  # fmt: skip


class Picked(NamedTuple):
    """A requested row. `layers`: the value for `--train-layers`; `label`: the user's word for it."""

    kind: Kind
    label: str
    layers: str


def nearest(option: str, value: str, known: tuple[str, ...]) -> FosterError:
    """The error for an unknown name; its hint is the nearest known one."""
    near = did_you_mean(value, known)
    return FosterError(f"{option} {value}: unknown", f"did you mean {near}?" if near else f"use {', '.join(known)}")


def parse_layers(option: str, value: str) -> dict[str, str]:
    """Parse text such as `none,last` into {the user's word: the value for `--train-layers`}."""
    found: dict[str, str] = {}
    for part in value.split(","):
        label = part.strip()
        layers = "1" if label == "last" else label
        if layers not in ("none", "all") and not (layers.isdecimal() and int(layers)):
            raise FosterError(f"{option} {label}: not a choice", "use none, last, all, or a number of top layers")
        if layers in found.values():
            raise FosterError(f"{option}: {label} is given twice", "name each once")
        found[label] = layers
    return found


def parse_rows(value: str, layers: dict[str, str]) -> list[Picked]:
    """Parse text such as `table3,no_mix@last` into distinct rows, in order; a name without `@` gets each of `layers`.

    Raises FosterError for an unknown name; its hint is the nearest known one.
    """
    found: list[Picked] = []
    for part in value.split(","):
        name, at, own = part.strip().partition("@")
        if name not in GROUPS and name not in KINDS:
            raise nearest("--rows", name, (*KINDS, *GROUPS))
        for label, number in (parse_layers(f"--rows {name}", own) if at else layers).items():
            label = next((x.label for x in found if x.layers == number), label)  # 1 and last are the same
            found += [Picked(KINDS[kind], label, number) for kind in GROUPS.get(name, (name,))]
    return [x for i, x in enumerate(found) if x not in found[:i]]
