"""Rows of an ablation: what their texts mean, and that each changes what it says and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from foster_cli.baselines import adapted
from foster_cli.distill.checks import check_settings
from foster_cli.errors import FosterError
from foster_cli.evaluate.ablation_rows import GROUPS, KINDS, parse_layers, parse_rows
from foster_cli.settings import BOME_ONLY, DistillConfig, Settings


def _names(rows: str, layers: str = "none") -> list[str]:
    return [f"{p.kind.name}@{p.label}" for p in parse_rows(rows, parse_layers("--layers", layers))]


def test_rows_of_the_paper() -> None:
    assert _names("table3") == ["foster@none", "bome@none", "bilevel@none", "kmeans@none", "no_dh@none"]
    assert _names("table3,figure3")[5:] == ["reset_random@none", "reset_never@none"]  # foster and bome stand there once
    own = "bilevel@last,foster@last,kmeans@all,no_dh@all,foster@all"
    assert _names(own) == own.split(",")
    assert [p.layers for p in parse_rows(own, {})] == ["1", "1", "all", "all", "all"]
    assert _names("foster, no_dh", "last,all") == ["foster@last", "foster@all", "no_dh@last", "no_dh@all"]
    assert _names("foster@last,no_dh@1") == ["foster@last", "no_dh@last"]
    assert {name for names in GROUPS.values() for name in names} == set(KINDS)


@pytest.mark.parametrize(
    ("rows", "layers", "words"),
    [
        ("no_dhh", "none", ("--rows no_dhh", "did you mean no_dh?")),
        ("tabel3", "none", ("--rows tabel3", "did you mean table3?")),
        ("", "none", ("--rows", "foster")),
        ("foster@", "none", ("--rows foster", "last")),
        ("foster@some", "none", ("--rows foster some", "last")),
        ("foster", "half", ("--layers half", "none, last, all")),
        ("foster", "0", ("--layers 0",)),
        ("foster", "last,1", ("--layers", "1 is given twice")),
    ],
)
def test_wrong_rows(rows: str, layers: str, words: tuple[str, ...]) -> None:
    with pytest.raises(FosterError) as caught:
        _names(rows, layers)
    assert all(word in f"{caught.value.message}; {caught.value.hint}" for word in words)


def test_every_row_is_a_setting_that_distill_takes() -> None:
    """Beside the default, and no two alike. A part of Algorithm 2 is changed in Algorithm 2."""
    default, seen = DistillConfig(), []
    for kind in KINDS.values():
        changed = dataclasses.replace(default, **kind.change)
        check_settings(Settings(distill=changed))
        differing = {
            f.name for f in dataclasses.fields(default) if getattr(default, f.name) != getattr(changed, f.name)
        }
        assert differing == set(kind.change)
        assert adapted(Settings(distill=changed)).distill == changed  # `foster distill` refuses nothing of it
        parts = differing & {*BOME_ONLY, "targets"} or kind.bilevel
        assert (changed.outer == "bome") == (bool(parts) or kind.name in ("bome", "kmeans"))
        seen.append((changed, kind.bilevel))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
