"""A short run of what `make fuzz` runs for long: the seeds, and the seeds with some of their bytes changed."""

from __future__ import annotations

import warnings

import pytest
from fuzz_entries import ENTRIES
from fuzz_seeds import seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Pieces that have meaning to some reader.
_WORDS = [
    b'"', b"'", b"\n", b"\r", b"\r\n", b",", b"::", b"\t", b" ", b"\\", b"{", b"}", b"[", b"]", b"\0", b"\x1f", b"\xff",
    b"\xef\xbb\xbf", "é".encode(), "\u2028".encode(), b"\\ud800", b"NaN", b"1e400", b"9" * 40, b"-", b"<", b"&#x41;",
    b"{title}", b"2024-02-30", b"1600000000000", b"\x1b[31m", b"=", b"|", "\u202e".encode(),
]  # fmt: skip


@st.composite
def _changed(draw: st.DrawFn, entry: str) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds(entry))))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 7])))
        data[start:end] = draw(st.one_of(st.sampled_from(_WORDS), st.binary(max_size=4)))
    return bytes(data)


@pytest.mark.parametrize("entry", ENTRIES)
def test_seeds_are_read(entry: str) -> None:
    read = [ENTRIES[entry](seed) for seed in seeds(entry)]
    assert sum(read) >= len(read) / 2


@pytest.mark.parametrize("entry", ENTRIES)
def test_changed_seeds_are_read_or_refused(entry: str) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(_changed(entry))
    def check(data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ENTRIES[entry](data)

    check()
