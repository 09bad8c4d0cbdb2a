"""Hostile text made fit to be shown: what is invisible becomes visible, what is endless is cut.

In: any string (titles, ids, names of files). Out: a string that holds no control character, no bidirectional control
and no lone surrogate. It may still hold `<` or letters that run from right to left: escaping and `<bdi>` are the
page's part.
"""

from __future__ import annotations

import unicodedata

#: Format characters that words are written with: the zero-width joiner and non-joiner (Persian, emoji).
_KEPT = {"\u200c", "\u200d"}
_SHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LIMIT = 200


def _sign(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ … ␟, the control pictures
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def visible(text: object, limit: int = LIMIT) -> str:
    """`text` with control and format characters as signs, cut to `limit` characters with its full length named."""
    whole = str(text)
    out = "".join(_sign(c) if c not in _KEPT and unicodedata.category(c) in _SHOWN else c for c in whole[:limit])
    return out if len(whole) <= limit else f"{out}… ({len(whole):,} characters)"
