"""What is invisible becomes visible; what is endless is cut."""

from __future__ import annotations

import unicodedata

import pytest
from hostile import TITLES
from hypothesis import given
from hypothesis import strategies as st

from foster_cli.report.text import visible


@given(st.text(max_size=300) | st.sampled_from(TITLES), st.integers(1, 250))
def test_nothing_invisible_is_left(text: str, limit: int) -> None:
    shown = visible(text, limit)
    for char in shown:
        assert unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(char) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert shown.encode("utf-8").decode("utf-8") == shown
    if len(text) > limit:
        assert shown.endswith(f"… ({len(text):,} characters)")
    elif text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u202eevil", "⟨U+202E⟩evil"),
        ("a\nb\x00\x1b", "a␊b␀␛"),
        ("\x7f\x85", "␡⟨U+0085⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("soft\u00adhyphen\ufeff", "soft⟨U+00AD⟩hyphen⟨U+FEFF⟩"),
        ("👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم"),
        ("x" * 1234, "x" * 200 + "… (1,234 characters)"),
        ("", ""),
    ],
)
def test_signs(text: str, shown: str) -> None:
    assert visible(text) == shown
