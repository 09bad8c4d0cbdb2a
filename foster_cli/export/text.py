"""Makes ids, titles and probabilities safe to write to a file; shared by all formats.

In: text from the data, with any content. Out: text that the file can hold and that its reader takes as plain text.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: Control characters, and characters that a reader may take for the end of a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_INVISIBLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
#: The beginnings of chat templates' control tokens: <|im_start|>, <s>, </s>, <start_of_turn>, [INST], [/INST].
_TOKEN = re.compile(
    r"<(?=[|/A-Za-z_])|\[(?=/?(?:INST|SYS|BOS|EOS|PAD|UNK|CLS|SEP|MASK|TOOL|AVAILABLE|SYSTEM)[A-Z_]*\])"
)


def encodable(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 file can hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """`text` on one line: every control character and line break becomes a space."""
    return _CONTROL.sub(" ", text)


def spoken(text: str) -> str:
    """A title for a prompt: on one line, without runs of blanks, and without a model's control tokens.

    Text that looks like such a token (`<|im_end|>`, `</s>`, `[INST]`) gets a space after its first character. A
    tokenizer then reads it as plain text.
    """
    return " ".join(_TOKEN.sub(lambda found: found.group() + " ", one_line(text)).split())


def json_line(value: Any) -> bytes:
    """`value` as a line of JSON. Characters that break lines or reorder text are written as \\u escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text = _INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    return text.encode("utf-8") + b"\n"


def short(probability: float) -> float:
    """`probability` to 9 significant digits, which a float32 needs to be read back exactly."""
    return float(f"{probability:.9g}")
