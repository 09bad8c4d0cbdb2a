"""Makes untrusted text safe to show: invisible characters become visible, and long text is cut.

In: any string (titles, ids, names of files). Out: a string without control characters, bidirectional controls or lone
surrogates. It may still hold `<` or right-to-left letters, so the page must escape it and use `<bdi>`.
"""

from __future__ import annotations

import unicodedata

#: Format characters that occur in words: the zero-width joiner and non-joiner (Persian, emoji).
_KEPT = {"\u200c", "\u200d"}
_SHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LIMIT = 200


def _sign(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ … ␟, the control pictures
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def visible(text: object, limit: int = LIMIT) -> str:
    """`text` with control and format characters as signs. Beyond `limit` characters it is cut and its length added."""
    whole = str(text)
    out = "".join(_sign(c) if c not in _KEPT and unicodedata.category(c) in _SHOWN else c for c in whole[:limit])
    return out if len(whole) <= limit else f"{out}… ({len(whole):,} characters)"
