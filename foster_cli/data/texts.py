"""Makes one title and one text per item (two lists of n strings) from the text columns of a table."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.data.columns import factorise
from foster_cli.settings import MOST_TITLE

Int64 = npt.NDArray[np.int64]

#: Columns of running text, in which "|" is an ordinary character. In other columns it separates labels.
_RUNNING = ("title", "name", "text", "description")
_BAR = re.compile(r"\s*\|\s*")
_TITLE_LENGTH = 80


def clean_text(text: str, labels: bool = False) -> str:
    """Unescape entities, normalise to NFC and collapse whitespace. With `labels`, "A|B|C" becomes "A, B, C"."""
    text = " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())
    return ", ".join(part for part in _BAR.split(text) if part) if labels else text


def column_texts(column: pd.Series, item: Int64, when: Int64, n: int) -> list[str]:
    """The text of each of n items in one column: its earliest non-empty value, else "".

    `item` (R,) is the item of each row of the table, -1 for an item outside the catalogue. `when` (R,) orders the
    rows of an item; the text breaks ties.
    """
    codes, values = factorise(column)
    labels = str(column.name).lower() not in _RUNNING
    cleaned = [clean_text(value, labels) for value in values]
    filled = np.array([bool(text) for text in cleaned] + [False])  # the last one is for code -1
    rank = np.argsort(np.argsort(np.array([*cleaned, ""], dtype=object), kind="stable"), kind="stable")
    rows = np.flatnonzero(filled[codes] & (item >= 0))
    rows = rows[np.lexsort((rank[codes[rows]], when[rows], item[rows]))]
    items, first = np.unique(item[rows], return_index=True)
    texts = [""] * n
    for i, code in zip(items.tolist(), codes[rows[first]].tolist(), strict=True):
        texts[i] = cleaned[code]
    return texts


def compose(ids: Sequence[str], columns: Sequence[list[str]], titles: list[str] | None) -> tuple[list[str], list[str]]:
    """(titles, texts) of the items `ids`, each a list of n.

    A text joins its columns with ". " and skips empty ones. A missing title is replaced by the text's first 80
    characters, or by the id if the text is empty. A title is cut at `MOST_TITLE` characters; a text is not cut.
    """
    texts = [". ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]
    named = titles if titles is not None else [""] * len(ids)
    filled = [
        title[:MOST_TITLE].rstrip() or text[:_TITLE_LENGTH].rstrip() or name
        for title, text, name in zip(named, texts, ids, strict=True)
    ]
    return filled, texts
