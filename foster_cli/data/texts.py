"""Makes one title and one text per item (two lists of n strings) from the text columns of a table.

A cell is cleaned by `clean_text`: list and dict literals become plain text, HTML and invisible characters go, what only
stands for "no value" becomes "". Nothing in a cell is evaluated: literals are read by `_leaves`, templates by `_parts`.
"""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from foster_cli.console import clean
from foster_cli.data.schema import TITLE_COLUMNS
from foster_cli.data.times import MISSING
from foster_cli.errors import FosterError, did_you_mean
from foster_cli.settings import MOST_TITLE

Int64 = npt.NDArray[np.int64]

#: Names without `_`, as `_cleaned` compares them.
_TITLES = {name.replace("_", "") for group in TITLE_COLUMNS for name in group}
#: Columns of running text, in which "|" is an ordinary character. In other columns it separates labels.
_RUNNING = _TITLES | {"text", "description", "abstract", "detaildesc", "summary"}
_BAR = re.compile(r"\s*\|\s*")
_TITLE_LENGTH = 80
#: Items whose rows tell whether a column is a text of the items.
SOME = 2000
#: Marks of a missing value that are also the title of something. They stay a title if no other item has it.
_ALSO_TITLES = frozenset(["None", "none", "N/A", "n/a", "-"])


# One cell


def clean_text(text: str, labels: bool = False, title: bool = False) -> str:
    """`text` as plain text on one line. Cleaning it again changes nothing.

    Entities are resolved; tags of HTML elements, comments and scripts are removed (other text in < > stays); control
    characters and those that turn the direction of writing are removed; the result is in NFC, its whitespace collapsed.
    A cell that is a literal of a list or dict, such as "['A', 'B']", becomes "A, B" or "Brand: X", without repeats.
    What is in `MISSING` becomes "". With `labels`, "A|B|C" becomes "A, B, C". A `title` may be `None`, `N/A` or `-`.
    """
    if _PLAIN.fullmatch(text):
        return _known(" ".join(text.split()), title)
    for _ in range(_MOST_PASSES):
        before, text = text, _pass(text, labels, title)
        if text == before:
            return text
    # Markup that keeps giving new markup was made to do so. Without these characters there is none left.
    return _pass(_MARKUP.sub(" ", text), labels, title)


_PLAIN = re.compile(r"[ -%'-;=?-Z^-z~]*")  # no & < > [ ] \ { | }, nor anything beyond ASCII
_MARKUP = re.compile(r"[&<>\[\]{}|\\]")
_MOST_PASSES = 8


def _pass(text: str, labels: bool, title: bool) -> str:
    text = _without_tags(html.unescape(text)) if "&" in text or "<" in text else text
    text = text if text.isascii() and text.isprintable() else _INVISIBLE.sub("", text)
    text = " ".join(_composed(text).split())
    leaves = _leaves(text)
    if leaves is not None and not (title and not any(named for _, named in leaves) and leaves):
        text = ", ".join(dict.fromkeys(leaf for leaf, _ in leaves))
    if labels:
        text = ", ".join(part for part in _BAR.split(text) if part).rstrip(", ")  # as tags in a list leave them
    return _known(text, title)


def _known(text: str, title: bool) -> str:
    return "" if text in MISSING and not (title and text in _ALSO_TITLES) else text


# Control characters that are no whitespace, lone surrogates, and characters that have no width: soft hyphen, zero-width
# blank, marks and overrides of the direction, isolates, byte order mark. The joiners of emoji and scripts stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u206f\ufeff\ud800-\udfff]"
)


def _composed(text: str) -> str:
    """NFC. In a long text, a character with more than 30 marks keeps 30: Python takes quadratic time for them."""
    if text.isascii():
        return text
    if len(text) >= 1000:
        text = _many_marks().sub(r"\1", text)
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=1)
def _many_marks() -> re.Pattern[str]:
    ranges: list[list[int]] = []
    for code in range(0x300, 0x1F000):
        if unicodedata.combining(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    marks = "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges)
    return re.compile(f"([{marks}]{{30}})[{marks}]+")


# HTML

# Elements within a line leave nothing behind, the others a blank.
_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|nobr|q|s|samp|small|span|strike|strong|sub"
    "|sup|tt|u|var|wbr",
    re.IGNORECASE,
)
_BLOCK = (
    "address|area|article|aside|audio|base|basefont|blockquote|body|br|button|canvas|caption|center|col|colgroup|data"
    "|datalist|dd|details|dialog|dir|div|dl|dt|embed|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head"
    "|header|hr|html|iframe|img|input|label|legend|li|link|main|map|menu|meta|meter|nav|noframes|noscript|object|ol"
    "|optgroup|option|output|p|param|picture|pre|progress|script|section|select|source|style|summary|svg|table|tbody|td"
    "|template|textarea|tfoot|th|thead|time|title|tr|track|ul|video"
)
_TAG = re.compile(
    rf"<(?P<end>/?)(?P<name>{_INLINE.pattern}|{_BLOCK})"
    r"(?P<rest>(?:[\s/][^<>]*)?)>",
    re.IGNORECASE,
)
#: Attributes without a value.
_BARE = frozenset(["allowfullscreen", "async", "autoplay", "checked", "controls", "defer", "disabled", "hidden"])
_BARE |= frozenset(["loop", "muted", "nohref", "noshade", "nowrap", "selected"])
#: Parts whose content is no text either, as (start, end).
_HIDDEN = (
    (re.compile(r"<script(?:[\s/][^<>]*)?>", re.I), re.compile(r"</script\s*>", re.I)),
    (re.compile(r"<style(?:[\s/][^<>]*)?>", re.I), re.compile(r"</style\s*>", re.I)),
    (re.compile(r"<!--"), re.compile(r"-->")),
)


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    for start, end in _HIDDEN:
        kept, at = [], 0
        # When no end is left the search stops, so that many starts without an end take linear time.
        while (opened := start.search(text, at)) and (closed := end.search(text, opened.end())):
            kept += [text[at : opened.start()], " "]
            at = closed.end()
        text = "".join([*kept, text[at:]])
    return _TAG.sub(_replacement, text)


def _replacement(tag: re.Match[str]) -> str:
    rest = tag["rest"].strip(" \t\r\n/")
    if rest and "=" not in rest and not tag["end"] and not _BARE.issuperset(rest.lower().split()):
        return tag[0]  # such as "<a cappella>"
    return "" if _INLINE.fullmatch(tag["name"]) else " "


# Literals of lists and dicts

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>[uUbB]?(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"))
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>None|null|nan|NaN|True|False|true|false|\.\.\.)(?!\w)
    | (?P<open>[\[{(]) | (?P<close>[\]})]) | (?P<comma>,) | (?P<colon>:)
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {"[": "]", "{": "}", "(": ")"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_SPECIAL = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


class _Leaves:
    """The values of a literal as they are met. `found`: each with whether it is a string or has a key."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bool]] = []
        self._keys: list[tuple[int, str]] = []  # (depth, key) of the keys whose first value has not come yet
        self._next: tuple[str, bool] | None = None  # a value, or a key if a colon follows

    def value(self, text: str, is_string: bool) -> None:
        self.flush()
        self._next = (text.strip(), is_string)

    def flush(self) -> None:
        """What was read last is a value."""
        if self._next is not None and self._next[0] not in MISSING:
            keys = "".join(f"{key}: " for _, key in self._keys if key)
            self.found.append((keys + self._next[0], self._next[1] or bool(keys)))
            self._keys.clear()
        self._next = None

    def key(self, depth: int) -> bool:
        """What was read last is a key. False if it cannot be one."""
        if self._next is None or (self._keys and self._keys[-1][0] >= depth):
            return False
        self._keys.append((depth, self._next[0]))
        self._next = None
        return True

    def end(self, depth: int) -> None:
        """A value at `depth` is over."""
        self.flush()
        while self._keys and self._keys[-1][0] >= depth:
            self._keys.pop()


def _leaves(text: str) -> list[tuple[str, bool]] | None:
    """The values in a literal of Python, JSON or NumPy, in order, and whether each is a string or has a key.

    None for text that is no such literal. The keys of a dict stand before their first value: "Brand: X". Missing values
    are left out. It reads token by token, without recursion, in time linear in the text.
    """
    if len(text) < 2 or text[0] not in "[{" or text[-1] != _CLOSES[text[0]]:
        return None
    leaves, open_ = _Leaves(), list[str]()
    at, last = 0, ""  # the kind of the last token
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (at > 0 and not open_):
            return None
        kind = str(token.lastgroup)
        value = token[kind]
        after_value = last in ("string", "number", "word", "close")
        if kind == "comma":
            if not after_value:
                return None
            leaves.end(len(open_))
        elif kind == "colon":
            if open_[-1] != "}" or not leaves.key(len(open_)):
                return None
        elif kind == "close":
            if last == "colon" or open_[-1] != value:
                return None
            leaves.end(len(open_))
            open_.pop()
        elif after_value and not (token.start(kind) > at and _side_by_side(last, kind, value)):
            return None
        elif kind == "open":
            open_.append(_CLOSES[value])
        else:
            leaves.value(_unquoted(value) if kind == "string" else value.replace("...", ""), kind == "string")
        at, last = token.end(), kind
    return leaves.found if not open_ else None


def _side_by_side(last: str, kind: str, value: str) -> bool:
    """Whether NumPy writes these two with only a blank between them."""
    return last == "close" and value == "[" if kind == "open" else last == kind or value == "..." or last == "word"


def _unquoted(literal: str) -> str:
    body = literal[literal.index(literal[-1]) + 1 : -1]
    if "\\" not in body:
        return body
    # JSON writes a character beyond 16 bits as two surrogates.
    return _ESCAPE.sub(_unescaped, body).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        return _SPECIAL.get(escape[4], escape[4])
    return chr(number) if (number := int(code, 16)) <= sys.maxunicode else ""


# Columns and items


def column_texts(column: pd.Series, item: Int64, when: Int64, n: int) -> list[str]:
    """The text of each of n items in one column: its earliest non-empty value, else "".

    `item` (R,) is the item of each row of the table, -1 for an item outside the catalogue. `when` (R,) orders the
    rows of an item; the text breaks ties.
    """
    codes, cleaned = _cleaned(column)
    filled = np.array([bool(text) for text in cleaned] + [False])  # the last one is for code -1
    for code in [i for i, text in enumerate(cleaned) if text in _ALSO_TITLES]:
        items = item[(codes == code) & (item >= 0)]
        filled[code] = len(items) > 0 and bool((items == items[0]).all())
    rank = np.argsort(np.argsort(np.array([*cleaned, ""], dtype=object), kind="stable"), kind="stable")
    rows = np.flatnonzero(filled[codes] & (item >= 0))
    rows = rows[np.lexsort((rank[codes[rows]], when[rows], item[rows]))]
    items, first = np.unique(item[rows], return_index=True)
    texts = [""] * n
    for i, code in zip(items.tolist(), codes[rows[first]].tolist(), strict=True):
        texts[i] = cleaned[code]
    return texts


def is_per_row(column: pd.Series, item: Int64, first: Int64, last: Int64, rows: Int64) -> bool:
    """Whether the texts of a column say something of its rows and not of the items, as reviews do.

    `column` (T,): texts, with their `item` (T,), -1 for none, the moments of the `first` and `last` row that have them,
    and the number of these `rows`. The answer is yes if most of the items that have several rows with a text have
    different ones, and go back to one of them or have another one in each row. An item that was renamed does neither.
    """
    codes, cleaned = _cleaned(column)
    place = {text: i for i, text in enumerate(sorted({text for text in cleaned if text}))}
    same = np.array([place.get(text, -1) for text in cleaned] + [-1])[codes]
    here = (same >= 0) & (item >= 0)
    if not here.any():
        return False
    pairs, of = np.unique(item[here] * len(place) + same[here], return_inverse=True)
    begin, end = np.full(len(pairs), np.iinfo(np.int64).max), np.full(len(pairs), np.iinfo(np.int64).min)
    np.minimum.at(begin, of, first[here])
    np.maximum.at(end, of, last[here])
    owner = pairs // len(place)
    order = np.lexsort((begin, owner))
    owner, begin, end = owner[order], begin[order], end[order]
    back = np.append(False, (owner[1:] == owner[:-1]) & (begin[1:] < end[:-1]))
    total = np.bincount(item[here], rows[here], minlength=int(owner[-1]) + 1)
    different = np.bincount(owner, minlength=len(total))
    varies = (different > 1) & ((np.bincount(owner, back, minlength=len(total)) > 0) | (different == total))
    several = total >= 2
    return 2 * int(varies[several].sum()) > int(several.sum())


def _cleaned(column: pd.Series) -> tuple[Int64, list[str]]:
    """Codes (R,), -1 for a missing value, and the cleaned texts that they index, of which several may be equal."""
    from foster_cli.data.columns import factorise  # columns reads templates with this module

    codes, values = factorise(column)
    name = re.sub(r"[\s_-]+", "", str(column.name)).lower()
    return codes, [clean_text(value, name not in _RUNNING, name in _TITLES) for value in values]


def compose(ids: Sequence[str], columns: Sequence[list[str]], titles: list[str] | None) -> tuple[list[str], list[str]]:
    """(titles, texts) of the items `ids`, each a list of n.

    A text joins its columns with ". " and skips empty ones and repeats. A missing title is replaced by the text's first
    80 characters, or by the id if the text is empty. A title is cut at `MOST_TITLE` characters; a text is not cut.
    """
    texts = [". ".join(dict.fromkeys(part for part in parts if part)) for parts in zip(*columns, strict=True)]
    named = titles if titles is not None else [""] * len(ids)
    filled = [
        title[:MOST_TITLE].rstrip() or text[:_TITLE_LENGTH].rstrip() or name
        for title, text, name in zip(named, texts, ids, strict=True)
    ]
    return filled, texts


# Templates

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|(?P<brace>[{}])|[^{}]+")
_ENDS = ".;:,|/–—-"  # the strongest first


def fields_of(form: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns that a template names, in its order. Raises FosterError for a template that `template` refuses."""
    return tuple(dict.fromkeys(_parts(form, names)[1]))


def template(form: str, columns: Mapping[str, list[str]]) -> list[str]:
    """The texts that `form`, such as "{title}. {genres}", makes of columns of n texts each.

    `{{` and `}}` are braces. Where a column is empty, the words before it up to the last punctuation go too, and
    so does punctuation that is left over. A template names columns and can do nothing
    else. Raises FosterError for another one.
    """
    between, fields = _parts(form, list(columns))
    texts = []
    plans: dict[tuple[bool, ...], list[str]] = {}
    for values in zip(*(columns[name] for name in fields), strict=True):
        filled = tuple(map(bool, values))
        glue = plans.get(filled)
        if glue is None:
            glue = plans[filled] = _glue(between, filled)
        kept = [value for value in values if value]
        text = "".join(part for pair in zip(glue, [*kept, ""], strict=True) for part in pair) if kept else ""
        texts.append(" ".join(text.split()))
    return texts


def _parts(form: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the text before each column and after the last, the columns) of a template."""
    between, fields = [""], list[str]()
    for piece in _PIECE.finditer(form):
        name = piece["name"]
        if piece["brace"]:
            raise FosterError(
                f"--text {clean(form, 80)}: a single {piece['brace']}", "write {column}, and {{ or }} for a brace"
            )
        if name is None:
            between[-1] += piece[0][0] if piece[0] in ("{{", "}}") else piece[0]
        elif name in names or (name := name.strip()) in names:
            fields.append(name)
            between.append("")
        else:
            raise _unknown(form, name, names)
    if not fields:
        raise FosterError(
            f"--text {clean(form, 80)} names no column", 'write something like --text "{title}. {genres}"'
        )
    return between, fields


def _unknown(form: str, name: str, names: Sequence[str]) -> FosterError:
    mark = re.search(r"[.\[!:]", name)
    where = f"--text {clean(form, 80)}: "
    if mark is not None and name[: mark.start()] in names:
        column = name[: mark.start()]
        return FosterError(
            f"{where}{{{clean(name, 40)}}} is more than the name of a column", f"write {{{clean(column)}}}"
        )
    close = did_you_mean(name, names)
    hint = f"did you mean {{{clean(close)}}}" if close else f"the columns are {clean(', '.join(names))}"
    return FosterError(f"{where}no column {clean(name, 40) or '{}'}", hint)


def _glue(between: Sequence[str], filled: Sequence[bool]) -> list[str]:
    """The text before each filled column and after the last one, tidied where columns between them are empty."""
    glue: list[str] = []
    text, gap = "", False
    for before, full in zip(between[:-1], filled, strict=True):
        if full:
            text += before
            glue.append(_tidy(text, not glue, False) if gap else text)
            text, gap = "", False
        else:
            text += _without_last_words(before)
            gap = True
    text += between[-1]
    return [*glue, _tidy(text, not glue, not between[-1].strip()) if gap else text]


def _without_last_words(text: str) -> str:
    """`text` up to its last mark that ends something or opens a bracket; a label such as "Genre: " goes as a whole."""
    label = re.sub(r"[^.;,|\n()\[\]{}/:–—-]*:\s*$", "", text)
    return re.sub(r"[^.;:,|\n()\[\]{}/–—\"'-]*$", " ", label)


def _tidy(text: str, first: bool, last: bool) -> str:
    """Text between two columns without empty brackets and quotes, and with one punctuation mark in place of several."""
    before = ""
    while text != before:
        before = text
        text = re.sub(r"\(\s*\)|\[\s*\]|\{\s*\}|\"\s*\"|'\s*'", " ", text)
        text = re.sub(rf"([(\[{{])[\s{re.escape(_ENDS)}]+", r"\1", text)
        text = re.sub(rf"[\s{re.escape(_ENDS)}]+([)\]}}])", r"\1", text)
        text = re.sub(rf"\s*[{re.escape(_ENDS)}](?:\s*[{re.escape(_ENDS)}])+", _strongest, text)
        text = re.sub(r"\s+([.;:,])", r"\1", text)
    marks = rf"[\s{re.escape(_ENDS)}]+"
    text = re.sub(f"^{marks}", "", text) if first else text
    return re.sub(f"{marks}$", "", text) if last else text


def _strongest(marks: re.Match[str]) -> str:
    found = min((c for c in marks[0] if c in _ENDS), key=_ENDS.index)
    return found if found in ".;:," else f" {found}"
