"""Finds ids that may be meant to be the same one: "0001 " and "0001", "1" and "1.0", "AB" and "ab".

In: ids, n distinct strings. Out: `Near`, for a warning. Nothing is joined.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: So many groups are given as examples.
_SHOWN = 10


@dataclass(frozen=True)
class Near:
    """`count`: how many ids have another one that is nearly equal. `groups`: the first such ids, group by group."""

    groups: list[tuple[str, ...]]
    count: int


def near_equal(ids: Sequence[str]) -> Near:
    """The different ids that are the same without blanks at the ends, case, leading zeros and a trailing ".0"."""
    names = pc.unique(pa.array(ids, pa.large_string()))
    encoded = _keys(names).dictionary_encode()
    codes = encoded.indices.to_numpy()
    members = np.bincount(codes, minlength=len(encoded.dictionary))
    shared = np.flatnonzero(members[codes] > 1) if len(codes) else codes
    groups: dict[int, list[str]] = {}
    for row in shared[np.isin(codes[shared], np.unique(codes[shared])[:_SHOWN])].tolist():
        groups.setdefault(int(codes[row]), []).append(names[row].as_py())
    return Near([tuple(group) for group in groups.values()], len(shared))


def _keys(names: pa.Array) -> pa.Array:
    """What is left of each id (n,) when all that is nearly equal is made equal."""
    keys = pc.utf8_lower(pc.utf8_trim_whitespace(names))
    odd = pc.invert(pc.string_is_ascii(keys))
    if pc.any(odd).as_py():  # such as ß, which is not ss in lower case, or é of two characters
        folded = [unicodedata.normalize("NFC", name.casefold()) for name in keys.filter(odd).to_pylist()]
        keys = pc.replace_with_mask(keys, odd, pa.array(folded, keys.type))
    keys = pc.replace_substring_regex(keys, r"^(\d+)\.0+$", r"\1")
    return pc.replace_substring_regex(keys, r"(?s)^0+(.)", r"\1")
