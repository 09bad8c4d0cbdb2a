"""Ids that differ only in what a person overlooks are found, by comparison with a loop."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.data.near import near_equal


def _key(name: str) -> str:
    name = name.strip().casefold()
    number = re.fullmatch(r"(\d+)\.0+", name)
    name = number[1] if number else name
    return name.lstrip("0") or name[-1:]


_ID = (
    st.text("01aB.é ", max_size=5)
    | st.integers(0, 30).map(lambda i: f"{i:04}")
    | st.sampled_from(["1.0", " 1", "1.00"])
)


@given(st.lists(_ID, max_size=40))
def test_as_a_loop_finds_them(ids: list[str]) -> None:
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(ids):
        groups.setdefault(_key(name), []).append(name)
    expected = [tuple(group) for group in groups.values() if len(group) > 1]
    near = near_equal(ids)
    assert near.count == sum(map(len, expected))
    assert near.groups == expected[:10]


@pytest.mark.parametrize(
    "group",
    [("0001 ", "0001"), ("1", "1.0"), ("AB", "ab"), ("Straße", "STRASSE"), ("é", "e\u0301"), ("0", "00", "0.0")],
)
def test_nearly_equal(group: tuple[str, ...]) -> None:
    near = near_equal(["x", *group, "y", "v1", "v1.0", "10", "100"])
    assert near.groups == [group] and near.count == len(group)


def test_none() -> None:
    assert near_equal([]).count == near_equal(["a", "a", "b"]).count == 0
