"""Columns of text in, one title and one text per item out (both lists of n strings)."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.config import MOST_TITLE
from foster_cli.data.columns import factorise

Int64 = npt.NDArray[np.int64]

#: Columns of running text, where "|" is a character and not a separator of labels.
_RUNNING = ("title", "name", "text", "description")
_BAR = re.compile(r"\s*\|\s*")
_TITLE_LENGTH = 80


def clean_text(text: str, labels: bool = False) -> str:
    """Entities unescaped, NFC, whitespace collapsed; "A|B|C" of a column of labels becomes "A, B, C"."""
    text = " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())
    return ", ".join(part for part in _BAR.split(text) if part) if labels else text


def column_texts(column: pd.Series, item: Int64, when: Int64, n: int) -> list[str]:
    """The text of each of n items in one column: the earliest that is not empty; else "".

    `item` (R,) is the item of each row of the table, -1 for rows of no item of the catalogue; `when` (R,)
    orders the rows of an item, ties broken by the text.
    """
    codes, values = factorise(column)
    labels = str(column.name).lower() not in _RUNNING
    cleaned = [clean_text(value, labels) for value in values]
    filled = np.array([bool(text) for text in cleaned] + [False])  # the last for code -1
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

    A text joins its columns with ". ", skipping empty ones. A missing title is the text's first 80
    characters, else the id. A title is cut at `MOST_TITLE` characters; the text is whole.
    """
    texts = [". ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]
    named = titles if titles is not None else [""] * len(ids)
    filled = [
        title[:MOST_TITLE].rstrip() or text[:_TITLE_LENGTH].rstrip() or name
        for title, text, name in zip(named, texts, ids, strict=True)
    ]
    return filled, texts
